// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// The API, as any client uses it: with the key in the Authorization header.
import { signal } from '@preact/signals';
import { createParser } from 'eventsource-parser';
import type { components } from '../../../sdk/typescript/src/openapi.ts';

type Wire = components['schemas'];
export type Account = Wire['Account'];
export type Listed = Wire['Listed'];
export type Session = Wire['Session'];
export type AnySession = Wire['AnySession'];
export type System = Wire['System'];
export type Times = Wire['Times'];
export type Process = Wire['Process'];
export type File = Wire['File'];
export type Execution = Wire['Execution'];
export type Limits = Wire['Limits'];

/** root is where the API is: the page is at <root>console, also behind a proxy's prefix. */
export const root = new URL('.', location.href.replace(/[?#].*/, ''));

// The key is kept for as long as the tab lives, for this origin alone: no page of a
// session has it, no other port does, and nothing sends it by itself, as it would a cookie.
const stored = 'buntime.key';
let key = sessionStorage.getItem(stored) ?? '';

export const account = signal<Account | null>(null);
export const hasKey = (): boolean => key !== '';

export class ApiError extends Error {
  constructor(readonly status: number, readonly code: string, message: string, readonly retryAfter: number) {
    super(message);
  }
}

interface Call {
  method?: string;
  query?: Record<string, string | number | boolean | undefined>;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

export async function fetchApi(path: string, call: Call = {}): Promise<Response> {
  const url = new URL(path.replace(/^\//, ''), root);
  for (const [name, value] of Object.entries(call.query ?? {})) {
    if (value !== undefined) url.searchParams.set(name, String(value));
  }
  const headers: Record<string, string> = { Authorization: `Bearer ${key}`, ...call.headers };
  if (call.body !== undefined) headers['Content-Type'] = 'application/json';
  const answer = await fetch(url, {
    method: call.method ?? 'GET', headers, body: call.body === undefined ? undefined : JSON.stringify(call.body),
    credentials: 'omit', cache: 'no-store', redirect: 'error', referrerPolicy: 'no-referrer', signal: call.signal,
  });
  if (!answer.ok) throw await failure(answer);
  return answer;
}

async function failure(answer: Response): Promise<ApiError> {
  const body = await answer.json().catch(() => null);
  const error = new ApiError(
    answer.status, String(body?.error?.code ?? ''), String(body?.error?.message ?? `the answer is ${answer.status}`), Number(answer.headers.get('Retry-After') ?? 0),
  );
  if (answer.status === 401) signOut('The key is not valid any more.');
  return error;
}

export async function api<T>(path: string, call: Call = {}): Promise<T> {
  return (await (await fetchApi(path, call)).json()) as T;
}

export const farewell = signal('');

/** signIn looks whether a key is good, and keeps it. */
export async function signIn(text: string): Promise<void> {
  if (!/^btk_[\x21-\x7e]+$/.test(text)) throw new Error('A key begins with btk_.');
  key = text;
  farewell.value = '';
  try {
    account.value = await api<Account>('/account');
    sessionStorage.setItem(stored, key);
  } catch (e) {
    key = '';
    throw e instanceof ApiError && e.status === 401 ? new Error('There is no such key.') : e;
  }
}

/** signInAgain uses the key that is kept, for as long as nobody says that it is no good. */
export async function signInAgain(): Promise<void> {
  while (key) {
    try {
      account.value = await api<Account>('/account');
      return;
    } catch (e) {
      if (key) await new Promise((again) => setTimeout(again, e instanceof ApiError && e.retryAfter ? e.retryAfter * 1000 : 1000));
    }
  }
}

export function signOut(why = ''): void {
  key = '';
  sessionStorage.removeItem(stored);
  farewell.value = why;
  account.value = null;
}

export interface Event {
  type: string;
  id?: string;
  data: string;
}

/** events reads an answer of events to its end. */
export async function events(answer: Response, each: (e: Event) => void): Promise<void> {
  const parser = createParser({ onEvent: (e) => each({ type: e.event ?? 'message', id: e.id, data: e.data }) });
  const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    parser.feed(value);
  }
}

/** total is a page of a list, and how many there are on all. */
export async function total<T>(path: string, call: Call): Promise<{ body: T; total: number }> {
  const answer = await fetchApi(path, call);
  return { body: (await answer.json()) as T, total: Number(answer.headers.get('X-Total-Count') ?? 0) };
}
