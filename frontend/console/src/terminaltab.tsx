// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { message } from './actions.ts';
import type { Terminal } from './terminal.ts';

/** TerminalTab is a shell in the session, opened when it is asked for. */
export function TerminalTab({ id, shown }: { id: string; shown: boolean }) {
  const place = useRef<HTMLDivElement>(null);
  const terminal = useRef<Terminal | null>(null);
  const state = useSignal<'closed' | 'opening' | 'open'>('closed');
  const why = useSignal('');
  useEffect(() => () => terminal.current?.close(), []);
  useEffect(() => {
    if (shown) terminal.current?.fit();
  }, [shown]);
  const open = async () => {
    state.value = 'opening';
    why.value = '';
    try {
      const { openTerminal } = await import('./terminal.ts');
      terminal.current?.close();
      terminal.current = await openTerminal(place.current!, id, (reason) => {
        state.value = 'closed';
        why.value = reason;
      });
      state.value = 'open';
    } catch (e) {
      state.value = 'closed';
      why.value = message(e);
    }
  };
  return (
    <div class="terminal-tab">
      <div class="tools">
        <span class="faint">{state.value === 'open' ? 'Shift+Escape leaves the terminal.' : 'A shell in the session. To open one is use, and wakes it.'}</span>
        <span role="status">{why.value}</span>
        <span class="fill" />
        {state.value === 'open'
          ? <button id="disconnect" onClick={() => terminal.current?.close()}>Disconnect</button>
          : <button id="connect" class="primary" disabled={state.value === 'opening'} onClick={open}>{state.value === 'opening' ? 'Connecting…' : 'Connect'}</button>}
      </div>
      <div ref={place} class="screen" />
    </div>
  );
}
