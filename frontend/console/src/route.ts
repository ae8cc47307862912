// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Where on the page one is, in the fragment of its URL: #/, #/system, #/sessions/ses_…/tab.
import { signal } from '@preact/signals';

export const tabs = ['run', 'files', 'processes', 'terminal', 'details'] as const;
export type Tab = (typeof tabs)[number];

export interface Route {
  view: 'sessions' | 'session' | 'system';
  session: string;
  tab: Tab;
}

function read(): Route {
  const [, first, id, tab] = location.hash.split('/');
  if (first === 'system') return { view: 'system', session: '', tab: 'run' };
  if (first === 'sessions' && /^ses_[a-z0-9]{1,60}$/.test(id ?? '')) {
    return { view: 'session', session: id, tab: tabs.find((t) => t === tab) ?? 'run' };
  }
  return { view: 'sessions', session: '', tab: 'run' };
}

export const route = signal<Route>(read());
addEventListener('hashchange', () => (route.value = read()));

export const sessionHash = (id: string, tab: Tab = 'run'): string => `#/sessions/${id}/${tab}`;

export function go(hash: string): void {
  location.hash = hash;
}
