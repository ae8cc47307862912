// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// What can be done to a session, from anywhere on the page.
import { signal } from '@preact/signals';
import { api, ApiError, type Listed } from './api.ts';
import { go, route, sessionHash } from './route.ts';
import { refresh, rows } from './store.ts';
import { visible } from './text.ts';

export interface Question {
  title: string;
  text: string;
  yes: string;
  danger?: boolean;
  then: () => void;
}

/** question is what is being asked, if anything is. */
export const question = signal<Question | null>(null);
/** creating says whether the form for a new session is open, helping the list of keys. */
export const creating = signal(false);
export const helping = signal(false);
/** busy are sessions that something is being done to, with what. */
export const busy = signal<Record<string, string>>({});
/** said is the last that is told of what was done. */
export const said = signal<{ text: string; bad: boolean } | null>(null);

let fading = 0;
export function say(text: string, bad = false): void {
  said.value = { text, bad };
  clearTimeout(fading);
  fading = window.setTimeout(() => (said.value = null), bad ? 10_000 : 4000);
}

/** message is what an error says, which may be in a session's words. */
export const message = (e: unknown): string => visible(e instanceof Error ? e.message : String(e));

/** during does something to a session, and says what came of it. */
export async function during(id: string, what: string, done: string, act: () => Promise<unknown>): Promise<boolean> {
  busy.value = { ...busy.value, [id]: what };
  try {
    await act();
    if (done) say(done);
    return true;
  } catch (e) {
    say(message(e), true);
    return false;
  } finally {
    const { [id]: _, ...rest } = busy.value;
    busy.value = rest;
    void refresh();
  }
}

const path = (id: string): string => `/sessions/${encodeURIComponent(id)}`;

export async function sleep(id: string, state: 'idle' | 'deep-sleep' = 'deep-sleep', force = false): Promise<void> {
  let busyThen = false;
  await during(id, state === 'idle' ? 'stopping' : 'going to sleep', state === 'idle' ? 'The session stands still.' : 'The session sleeps.', async () => {
    try {
      await api(`${path(id)}/sleep`, { method: 'POST', body: { state, force } });
    } catch (e) {
      busyThen = e instanceof ApiError && e.code === 'session_busy';
      if (!busyThen) throw e;
    }
  });
  if (busyThen) {
    said.value = null;
    question.value = {
      title: 'Something runs in the session', text: 'To sleep now, what runs is interrupted.', yes: 'Interrupt and sleep', danger: true,
      then: () => void sleep(id, state, true),
    };
  }
}

/** wake looks at the files, which leaves no trace in the session but that it is awake. */
export const wake = (id: string): Promise<boolean> =>
  during(id, 'waking', 'The session is awake.', () => api('/files/list', { query: { sessionId: id, limit: 1 } }));

export function drop(id: string): void {
  question.value = {
    title: 'Delete the session?', text: `${id} and all its files are gone for good.`, yes: 'Delete', danger: true,
    then: () =>
      void during(id, 'deleting', 'The session is deleted.', async () => {
        await api(path(id), { method: 'DELETE' });
        rows.value = rows.value.filter((r) => r.id !== id);
        if (route.value.session === id) go('#/');
      }),
  };
}

export async function create(body: unknown): Promise<void> {
  const made = await api<Pick<Listed, 'sessionId'>>('/sessions/create', { method: 'POST', body });
  creating.value = false;
  say('The session is there.');
  go(sessionHash(made.sessionId));
  void refresh();
}
