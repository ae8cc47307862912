// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { useEffect } from 'preact/hooks';
import { message, say } from './actions.ts';
import { api, type Process, type Session } from './api.ts';
import { address } from './preview.tsx';
import { go, sessionHash } from './route.ts';
import { wanted } from './run.tsx';
import { now, processes, refresh } from './store.ts';
import { bytes, lasting, millis, visible } from './text.ts';

/** Processes is what runs in the session. To look at it is no use. */
export function Processes({ session }: { session: Session }) {
  const id = session.sessionId;
  useEffect(() => void refresh(), []);
  const kill = async (p: Process) => {
    try {
      await api('/execution/kill', { method: 'POST', body: { sessionId: id, pid: p.pid } });
      say(`Killed ${p.pid}.`);
    } catch (e) {
      say(message(e), true);
    }
    void refresh();
  };
  const follow = (p: Process) => {
    wanted.value = { session: id, follow: p.executionId };
    go(sessionHash(id, 'run'));
  };
  if (!processes.value.length) return <p class="empty">Nothing runs.</p>;
  return (
    <div class="scroll">
      {session.state === 'idle' && <p class="faint">The session is idle: these stand still, as they were.</p>}
      <table class="list">
        <thead>
          <tr><th scope="col" class="number">PID</th><th scope="col">Command</th><th scope="col">Runs for</th><th scope="col" class="number">Memory</th><th scope="col" class="number">CPU time</th><th scope="col">Ports</th><th scope="col"><span class="sr">Actions</span></th></tr>
        </thead>
        <tbody>
          {processes.value.map((p) => (
            <tr key={p.pid}>
              <td class="number">{p.pid}</td>
              <td class="mono command"><bdi dir="ltr">{visible(p.command.slice(0, 1000))}</bdi></td>
              <td>{lasting(now.value - Date.parse(p.startedAt))}</td>
              <td class="number">{bytes(p.memory)}</td>
              <td class="number">{millis(p.cpuTime)}</td>
              <td>{p.ports.map((port) => <a key={port} href={address(session, port, '/')} target="_blank" rel="noopener noreferrer">{port} </a>)}</td>
              <td class="acts">
                <button class="quiet" onClick={() => follow(p)} aria-label={`Follow the output of ${p.pid}`}>Output</button>
                <button class="quiet" onClick={() => kill(p)} aria-label={`Kill ${p.pid}`}>Kill</button>
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
