// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { useSignal } from '@preact/signals';
import type { Session } from './api.ts';

/** address is where a port of a session is served; '' if the API has said something odd. */
export function address(session: Pick<Session, 'previewUrl'>, port: number, path: string): string {
  try {
    const url = new URL(session.previewUrl);
    if (!/^https?:$/.test(url.protocol) || url.host === location.host) return '';
    if (port !== 8080) url.host = `${port}-${url.host}`;
    return new URL(path.startsWith('/') && !path.startsWith('//') ? path : '/', url).href;
  } catch {
    return '';
  }
}

/**
 * Preview is the session's page. It is on an origin of its own, so it cannot look out of
 * its frame; and the frame lets it run, but not take the window, open others or ask.
 */
export function Preview({ session }: { session: Session }) {
  const port = useSignal(8080);
  const path = useSignal('/');
  const open = useSignal(0); // counts how often it was opened
  const url = address(session, port.value, path.value);
  const show = (e: SubmitEvent) => {
    e.preventDefault();
    const form = new FormData(e.target as HTMLFormElement);
    port.value = Number(form.get('port')) || 8080;
    path.value = String(form.get('path') || '/');
    open.value++;
  };
  return (
    <div class="preview">
      <form class="tools" onSubmit={show} aria-label="Preview">
        <h2>Preview</h2>
        <label><span class="sr">Port</span><input name="port" type="number" min={1} max={65535} defaultValue="8080" class="port" /></label>
        <label class="fill"><span class="sr">Path</span><input name="path" defaultValue="/" spellcheck={false} class="mono" /></label>
        <button id="preview">{open.value ? 'Reload' : 'Open'}</button>
        {open.value > 0 && <button type="button" class="quiet" onClick={() => (open.value = 0)}>Close</button>}
        {url && <a href={url} target="_blank" rel="noopener noreferrer" title="In a tab of its own">↗</a>}
      </form>
      {open.value > 0 && url
        ? <iframe key={open.value} src={url} title="Preview of the session" sandbox="allow-scripts allow-forms allow-same-origin" referrerpolicy="no-referrer" allow="" />
        : <p class="empty">What listens on a port of the session is shown here. Opening it is use of the session, and wakes it.</p>}
    </div>
  );
}
