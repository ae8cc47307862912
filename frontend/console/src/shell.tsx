// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { signal } from '@preact/signals';
import { creating, helping, question, said } from './actions.ts';
import { account, root, signOut } from './api.ts';
import { CreateDialog, HelpDialog, QuestionDialog } from './dialogs.tsx';
import { route } from './route.ts';
import { SessionView } from './session.tsx';
import { SessionList } from './sessions.tsx';
import { Logo } from './signin.tsx';
import { trouble } from './store.ts';
import { SystemView } from './system.tsx';

const themes = ['system', 'light', 'dark'] as const;
type Theme = (typeof themes)[number];
export const theme = signal<Theme>(themes.find((t) => t === localStorage.getItem('buntime.theme')) ?? 'system');
theme.subscribe((t) => {
  document.documentElement.dataset.theme = t;
  localStorage.setItem('buntime.theme', t);
});

/** Shell is the page of who is signed in. */
export function Shell() {
  const { view, session } = route.value;
  const me = account.value!;
  const here = (is: boolean) => (is ? 'page' as const : undefined);
  return (
    <>
      <header class="top">
        <a href="#/" class="brand"><Logo /> Buntime</a>
        <nav aria-label="Views">
          <a href="#/" aria-current={here(view !== 'system')}>Sessions</a>
          {me.operator && <a href="#/system" aria-current={here(view === 'system')}>System</a>}
        </nav>
        <span class="fill" />
        <span class="who" title={`plan ${me.plan}${me.operator ? ', operator' : ''}`}>{me.account} <span class="faint">{me.plan}{me.operator && ' · operator'}</span></span>
        <label class="theme"><span class="sr">Colours</span>
          <select value={theme.value} onChange={(e) => (theme.value = e.currentTarget.value as Theme)}>
            {themes.map((t) => <option key={t} value={t}>{t}</option>)}
          </select>
        </label>
        <button class="quiet" onClick={() => (helping.value = true)} aria-label="Keys and help" title="Keys and help (?)">?</button>
        <button class="quiet" onClick={() => signOut()}>Sign out</button>
      </header>
      {trouble.value && <p class="trouble" role="status">{trouble.value}</p>}
      <main>
        {view === 'system' && me.operator ? <SystemView /> : session ? <SessionView key={session} id={session} /> : <SessionList />}
      </main>
      <div class="said" role="status" aria-live="polite">{said.value && <p class={said.value.bad ? 'bad' : ''}>{said.value.text}</p>}</div>
      {creating.value && <CreateDialog />}
      {question.value && <QuestionDialog question={question.value} />}
      {helping.value && <HelpDialog licences={new URL('console/licences.txt', root).href} docs={new URL('docs', root).href} />}
    </>
  );
}
