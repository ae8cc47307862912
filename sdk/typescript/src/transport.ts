// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { BuntimeError, fromAnswer, invalid, parse, type ErrorCode } from './errors.js';
import type { CallOptions, Settings } from './options.js';
import { delay, mayRepeat, notDone, pause, type Repeat } from './retry.js';
import { Watch } from './watch.js';

/** One call of the API. */
export interface Call<T> {
  method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** With its parts encoded by `segment`. */
  path: string;
  query?: Record<string, string | number | boolean | undefined>;
  headers?: Record<string, string>;
  /** Sent as JSON; bytes as they are, of the type in `headers`. */
  body?: object;
  repeat: Repeat;
  /** Whether to send an Idempotency-Key, as with `keyed`. */
  key?: boolean;
  /** In milliseconds: what the answer may take, if that is more than the client's timeout. */
  atLeast?: number;
  /** Reads the answer; that it takes its time is for the watch to be told. */
  read: (response: Response, watch: Watch) => Promise<T>;
  /** What an error of this code means after a try of which nobody knows whether it was done: that it was. */
  gone?: { code: ErrorCode; answer: T };
}

/** Makes calls, again where that is right. */
export class Transport {
  /** Whether the server has shown that it heeds Idempotency-Key. */
  private heedsKeys = false;

  /** `silence` in milliseconds: how long a stream may say nothing. The server says every 15 s that it lives. */
  constructor(
    readonly settings: Settings,
    readonly silence = 45_000,
  ) {}

  async call<T>(call: Call<T>, options: CallOptions = {}): Promise<T> {
    // One for all tries, so that the server can tell them from another call.
    const key = call.key || call.repeat === 'keyed' ? crypto.randomUUID() : undefined;
    const most = options.maxRetries ?? this.settings.maxRetries;
    let unsure = false;
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.once(call, options, key);
      } catch (error) {
        if (!(error instanceof BuntimeError)) throw error;
        if (unsure && call.gone?.code === error.code) return call.gone.answer;
        if (attempt > most || !mayRepeat(call.repeat, this.heedsKeys, error)) throw error;
        unsure ||= !notDone(error);
        await this.wait(error, attempt, options.signal);
      }
    }
  }

  /** Tells of a further try, and waits until it is time for it. */
  async wait(error: BuntimeError, attempt: number, signal?: AbortSignal): Promise<void> {
    this.settings.onRetry(error, attempt);
    await pause(delay(error, attempt, this.settings.retryDelay), signal);
  }

  private async once<T>(call: Call<T>, options: CallOptions, key: string | undefined): Promise<T> {
    const watch = new Watch(Math.max(options.timeout ?? this.settings.timeout, call.atLeast ?? 0), options.signal);
    let response: Response | undefined;
    try {
      response = await fetch(this.settings.baseUrl + call.path + search(call.query), this.request(call, key, watch));
      // Of executions only: a server may heed keys elsewhere first.
      if (call.repeat === 'keyed' && response.headers.get('Idempotency-Key') === key) this.heedsKeys = true;
      if (!response.ok) throw fromAnswer(response.status, response.headers, await response.text());
      return await call.read(response, watch);
    } catch (error) {
      const explained = watch.explain(error, `${call.method} ${call.path}`);
      watch.cut();
      throw explained;
    }
  }

  private request(call: Call<unknown>, key: string | undefined, watch: Watch): RequestInit {
    const headers: Record<string, string> = { ...call.headers, Authorization: `Bearer ${this.settings.apiKey}` };
    if (key !== undefined) headers['Idempotency-Key'] = key;
    const raw = call.body instanceof Uint8Array;
    if (call.body !== undefined && !raw) headers['Content-Type'] = 'application/json';
    return {
      method: call.method,
      headers,
      // A redirect would turn POST into GET, or take the key elsewhere.
      redirect: 'manual',
      signal: watch.signal,
      ...(call.body !== undefined && { body: raw ? (call.body as Uint8Array<ArrayBuffer>) : JSON.stringify(call.body) }),
    };
  }
}

/** Reads an answer that is JSON. */
export async function json<T>(response: Response, watch: Watch): Promise<T> {
  const text = await response.text();
  watch.end();
  return parse<T>(text, response.status);
}

/** Encodes a part of a path. */
export function segment(field: string, value: string): string {
  if (typeof value !== 'string' || value === '') throw invalid(field, `${field} is missing`);
  if (value === '.' || value === '..') throw invalid(field, `${field} is ${value}`); // URLs swallow them
  return encodeURIComponent(value);
}

function search(query: Call<unknown>['query'] = {}): string {
  const set = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined) set.set(name, String(value));
  }
  return set.size > 0 ? `?${set}` : '';
}
