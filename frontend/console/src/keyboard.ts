// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Keys that work everywhere but where one types.
import { creating, drop, helping, question, sleep, wake } from './actions.ts';
import { account } from './api.ts';
import { go, route, sessionHash, tabs } from './route.ts';

/** keys is the list that ? shows. */
export const keys: [string, string][] = [
  ['?', 'this list'],
  ['g l, g y', 'go to the list of sessions, to the system'],
  ['c', 'create a session'],
  ['/', 'filter the list'],
  ['j, k, ↓, ↑', 'next and previous session'],
  ['Enter', 'open it'],
  ['z, w, x', 'sleep, wake, delete it'],
  ['1 to 5', 'run, files, processes, terminal, details'],
  ['e', 'go to the editor'],
  ['Ctrl+Enter', 'run what is in the editor'],
  ['Escape', 'leave the editor or a dialog; then, back to the list'],
  ['Shift+Escape', 'leave the terminal'],
];

const typing = (t: EventTarget | null): boolean =>
  t instanceof HTMLElement && (t.isContentEditable || t.matches('input:not([type=checkbox]), textarea, select') || t.closest('.xterm, .cm-editor') !== null);

const links = (): HTMLElement[] => [...document.querySelectorAll<HTMLElement>('a[data-session]')];

/** here is the session that a key is meant for. */
function here(): string {
  if (route.value.session) return document.querySelector('[data-own]') ? route.value.session : '';
  const row = document.activeElement?.closest('tr')?.querySelector<HTMLElement>('a[data-session][data-mine]');
  return row?.dataset.session ?? '';
}

function step(by: number): void {
  const all = links();
  const at = all.findIndex((a) => a.closest('tr')?.contains(document.activeElement));
  all[Math.max(0, Math.min(all.length - 1, at < 0 ? (by > 0 ? 0 : all.length - 1) : at + by))]?.focus();
}

let before = '';

function press(e: KeyboardEvent): boolean {
  const id = here();
  const first = before;
  before = e.key === 'g' ? 'g' : '';
  if (first === 'g') {
    if (e.key === 'l') return go('#/'), true;
    if (e.key === 'y' && account.value?.operator) return go('#/system'), true;
  }
  switch (e.key) {
    case '?':
      return (helping.value = true);
    case 'c':
      return (creating.value = true);
    case '/':
      document.getElementById('filter')?.focus();
      return true;
    case 'j':
    case 'ArrowDown':
    case 'k':
    case 'ArrowUp':
      if (route.value.view !== 'sessions') return false;
      step(e.key === 'j' || e.key === 'ArrowDown' ? 1 : -1);
      return true;
    case 'z':
      return id !== '' && (void sleep(id), true);
    case 'w':
      return id !== '' && (void wake(id), true);
    case 'x':
      return id !== '' && (drop(id), true);
    case 'e':
      document.querySelector<HTMLElement>('.cm-content')?.focus();
      return id !== '';
    case 'Escape':
      if (route.value.view === 'sessions') return false;
      go('#/');
      return true;
  }
  const tab = tabs[Number(e.key) - 1];
  if (tab && id) return go(sessionHash(id, tab)), true;
  return false;
}

export function listen(): void {
  addEventListener('keydown', (e) => {
    if (e.defaultPrevented || e.ctrlKey || e.metaKey || e.altKey || !account.value || question.value || creating.value || helping.value || typing(e.target)) return;
    if (press(e)) e.preventDefault();
  });
}
