// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { useEffect } from 'preact/hooks';
import { busy, drop, sleep, wake } from './actions.ts';
import { Details } from './details.tsx';
import { Files } from './files.tsx';
import { Processes } from './processes.tsx';
import { route, sessionHash, tabs, type Tab } from './route.ts';
import { Run } from './run.tsx';
import { Because, Next, State } from './sessions.tsx';
import { loaded, now, processes, rows, session, type Row } from './store.ts';
import { TerminalTab } from './terminaltab.tsx';
import { lasting } from './text.ts';

const titles: Record<Tab, string> = { run: 'Run', files: 'Files', processes: 'Processes', terminal: 'Terminal', details: 'Details' };

/** SessionView is one session. */
export function SessionView({ id }: { id: string }) {
  useEffect(() => () => {
    session.value = null;
    processes.value = [];
  }, []);
  const foreign = rows.value.find((r) => r.id === id && !r.own);
  if (foreign) return <Foreign row={foreign} />;
  const s = session.value;
  if (!s || s.sessionId !== id) {
    return (
      <section class="empty">
        <p role="status">{loaded.value || s === null ? <>Looking for <code>{id}</code>… If it does not appear, it has ended or is another account's.</> : 'Loading…'}</p>
        <p><a href="#/">Back to the list</a></p>
      </section>
    );
  }
  const doing = busy.value[id];
  const row = { state: s.state, because: s.awakeBecause, used: Date.parse(s.lastActive), processes: s.activeProcesses, expires: Date.parse(s.expiresAt),
    next: s.nextTransition && { to: s.nextTransition.to, at: Date.parse(s.nextTransition.at) } };
  const tab = route.value.tab;
  const move = (e: KeyboardEvent) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[e.key];
    if (!by) return;
    e.preventDefault();
    const to = tabs[(tabs.indexOf(tab) + by + tabs.length) % tabs.length];
    location.hash = sessionHash(id, to);
    document.getElementById(`tab-${to}`)?.focus();
  };
  return (
    <section class="session" data-own aria-labelledby="session-title">
      <div class="bar">
        <a href="#/" class="back" aria-label="Back to the list" title="Escape">←</a>
        <h1 id="session-title" class="mono">{id}</h1>
        <State state={s.state} doing={doing} />
        <span class="facts"><Because row={row} /> · <Next row={row} /> · <span title={new Date(s.createdAt).toLocaleString()}>{lasting(now.value - Date.parse(s.createdAt))} old</span></span>
        <span class="fill" />
        {s.state !== 'active' && <button disabled={!!doing} onClick={() => wake(id)} title="w">Wake</button>}
        {s.state === 'active' && <button disabled={!!doing} onClick={() => sleep(id, 'idle')}>Idle</button>}
        {s.state !== 'deep-sleep' && <button disabled={!!doing} onClick={() => sleep(id)} title="z">Sleep</button>}
        <button class="danger" disabled={!!doing} onClick={() => drop(id)} title="x">Delete</button>
      </div>
      <div class="tabs" role="tablist" aria-label="Parts of the session" onKeyDown={move}>
        {tabs.map((t, i) => (
          <button key={t} id={`tab-${t}`} role="tab" aria-selected={t === tab} aria-controls={t === tab ? `panel-${t}` : undefined} tabIndex={t === tab ? 0 : -1} title={String(i + 1)}
            onClick={() => (location.hash = sessionHash(id, t))}>{titles[t]}</button>
        ))}
      </div>
      {/* What one has typed and printed stays while one looks elsewhere. */}
      <Panel tab="run" shown={tab === 'run'}><Run session={s} /></Panel>
      <Panel tab="terminal" shown={tab === 'terminal'}><TerminalTab id={id} shown={tab === 'terminal'} /></Panel>
      {tab === 'files' && <Panel tab="files" shown><Files session={s} /></Panel>}
      {tab === 'processes' && <Panel tab="processes" shown><Processes session={s} /></Panel>}
      {tab === 'details' && <Panel tab="details" shown><Details session={s} /></Panel>}
    </section>
  );
}

function Panel({ tab, shown, children }: { tab: Tab; shown: boolean; children: preact.ComponentChildren }) {
  return <div id={`panel-${tab}`} class="panel" role="tabpanel" aria-labelledby={`tab-${tab}`} hidden={!shown}>{children}</div>;
}

/** Foreign is a session of another account, of which an operator sees only how it does. */
function Foreign({ row }: { row: Row }) {
  return (
    <section class="session" aria-labelledby="session-title">
      <div class="bar">
        <a href="#/" class="back" aria-label="Back to the list" title="Escape">←</a>
        <h1 id="session-title" class="mono">{row.id}</h1>
        <State state={row.state} />
        <span class="facts"><Because row={row} /> · <Next row={row} /></span>
      </div>
      <Details foreign={row} />
    </section>
  );
}
