// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { FitAddon } from '@xterm/addon-fit';
import { Terminal as XTerm, type ITheme } from '@xterm/xterm';
import { api, root } from './api.ts';
import { visible } from './text.ts';

export interface Terminal {
  fit(): void;
  close(): void;
}

// What a program may not have of its user's terminal: the clipboard (52), links whose text
// says something else (8), the window's and the tab's title (0, 1, 2), notifications (9, 99,
// 777), files (1337), and the directory of the next window (7).
const refused = [0, 1, 2, 7, 8, 9, 52, 99, 777, 1337];

/** openTerminal opens a shell in a session; closed is told when it is over, and why. */
export async function openTerminal(place: HTMLElement, session: string, closed: (why: string) => void): Promise<Terminal> {
  const { protocols } = await api<{ protocols: string[] }>(`/sessions/${encodeURIComponent(session)}/terminal/ticket`, { method: 'POST' });
  const fit = new FitAddon();
  const term = new XTerm({
    fontFamily: 'ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace', fontSize: 13, scrollback: 5000, theme: theme(place),
    allowProposedApi: false, cursorBlink: false, linkHandler: { activate: () => {}, allowNonHttpProtocols: false },
  });
  for (const code of refused) term.parser.registerOscHandler(code, () => true);
  // It is asked for nothing: an answer would be typed into whatever reads there next.
  for (const [prefix, intermediates, final] of [['', '$', 'q'], ['', '+', 'q']]) {
    term.parser.registerDcsHandler({ prefix, intermediates, final }, () => true);
  }
  term.parser.registerCsiHandler({ final: 't' }, () => true);
  term.loadAddon(fit);
  place.replaceChildren();
  term.open(place);
  fit.fit();

  const url = new URL(`sessions/${encodeURIComponent(session)}/terminal`, root);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.search = new URLSearchParams({ rows: String(term.rows), cols: String(term.cols), env: 'TERM=xterm-256color' }).toString();
  const socket = new WebSocket(url, protocols);
  socket.binaryType = 'arraybuffer';

  const send = (bytes: Uint8Array) => {
    if (socket.readyState !== WebSocket.OPEN) return;
    const most = 64 << 10;
    for (let at = 0; at < bytes.length; at += most) {
      const piece = bytes.subarray(at, at + most);
      const message = new Uint8Array(piece.length + 1); // 0: input
      message.set(piece, 1);
      socket.send(message);
    }
  };
  term.onData((text) => send(new TextEncoder().encode(text)));
  term.onBinary((text) => send(Uint8Array.from(text, (c) => c.charCodeAt(0) & 0xff)));
  term.onResize(({ rows, cols }) => {
    if (socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify({ type: 'resize', rows, cols }));
  });
  term.attachCustomKeyEventHandler((e) => {
    if (e.type === 'keydown' && e.key === 'Escape' && e.shiftKey) {
      term.blur();
      document.getElementById('disconnect')?.focus();
      return false;
    }
    return true;
  });

  const look = new ResizeObserver(() => place.clientWidth > 0 && fit.fit());
  look.observe(place);
  const colours = new MutationObserver(() => (term.options.theme = theme(place)));
  colours.observe(document.documentElement, { attributeFilter: ['data-theme'] });
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const change = () => (term.options.theme = theme(place));
  dark.addEventListener('change', change);

  let said = '';
  let over = false;
  const end = (why: string) => {
    if (over) return;
    over = true;
    look.disconnect();
    colours.disconnect();
    dark.removeEventListener('change', change);
    term.options.disableStdin = true;
    socket.close();
    closed(why);
  };
  socket.onmessage = (e) => {
    if (typeof e.data === 'string') {
      const word = JSON.parse(e.data);
      if (word.type === 'exit') said = `The shell has ended with code ${Number(word.exitCode)}.`;
      return;
    }
    term.write(new Uint8Array(e.data as ArrayBuffer, 1));
  };
  await new Promise<void>((open, fail) => {
    socket.onopen = () => open();
    socket.onclose = (e) => {
      fail(new Error('The terminal could not be opened.'));
      end(said || visible(e.reason) || 'The connection has ended.');
    };
  });
  term.focus();
  return {
    fit: () => fit.fit(),
    close: () => end('Disconnected.'),
  };
}

/** theme has the page's colours. */
function theme(place: HTMLElement): ITheme {
  const style = getComputedStyle(place);
  const dark = document.documentElement.dataset.theme === 'dark' || (document.documentElement.dataset.theme !== 'light' && matchMedia('(prefers-color-scheme: dark)').matches);
  const common = { background: style.backgroundColor, foreground: style.color, cursor: style.color, cursorAccent: style.backgroundColor, selectionBackground: dark ? '#4a4a6a' : '#c9c4f5' };
  return dark ? common : {
    ...common, black: '#24292f', red: '#b3261e', green: '#1a7f37', yellow: '#8a5a00', blue: '#0b57d0', magenta: '#8e24aa', cyan: '#00707c', white: '#57606a',
    brightBlack: '#6e7781', brightRed: '#c5221f', brightGreen: '#2da44e', brightYellow: '#9a6700', brightBlue: '#1f6feb', brightMagenta: '#a03cbf', brightCyan: '#0a8a99', brightWhite: '#24292f',
  };
}
