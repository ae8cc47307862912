// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { signal, useSignal } from '@preact/signals';
import { useEffect, useRef } from 'preact/hooks';
import { message, say } from './actions.ts';
import { Output } from './ansi.ts';
import { api, events, fetchApi, type Execution, type Process, type Session } from './api.ts';
import type { Editor } from './editor.ts';
import { Preview } from './preview.tsx';
import { refresh } from './store.ts';
import { bytes, millis, visible } from './text.ts';

/** wanted is what another part of the page wants in here: a file to edit, or an execution's output. */
export const wanted = signal<{ session: string; file?: { path: string; text: string }; follow?: string } | null>(null);

const sample = `// Ctrl+Enter runs this in the session.
const started = Bun.nanoseconds();
console.log("Bun", Bun.version, "in", process.cwd());
console.log(\`\${((Bun.nanoseconds() - started) / 1e6).toFixed(2)} ms\`);
`;

/** Run is the editor, the output beneath it and the preview beside both. */
export function Run({ session }: { session: Session }) {
  const id = session.sessionId;
  const place = useRef<HTMLDivElement>(null);
  const pane = useRef<HTMLPreElement>(null);
  const editor = useRef<Editor | null>(null);
  const output = useRef<Output | null>(null);
  const kind = useSignal<'code' | 'command'>('code');
  const running = useSignal(''); // an execution's id, or that there is none yet
  const following = useSignal(false);
  const path = useSignal('');
  const leave = useRef<AbortController | null>(null);

  useEffect(() => {
    let over = false;
    output.current = new Output(pane.current!);
    void import('./editor.ts').then(({ openEditor }) => {
      if (over) return;
      editor.current = openEditor(place.current!, sample, () => void run());
      take();
    });
    return () => {
      over = true;
      editor.current?.destroy();
      leave.current?.abort();
    };
  }, []);

  const read = async (answer: Response) => {
    await events(answer, (e) => {
      const data = JSON.parse(e.data);
      if (e.type === 'stdout' || e.type === 'stderr') output.current!.print(e.type, data.data);
      else if (e.type === 'result') output.current!.note(ending(data));
      else if (e.type === 'error') output.current!.note(`✗ ${visible(String(data.error?.message ?? 'the execution has no result'))}`);
    });
  };

  const during = async (name: string, act: (signal: AbortSignal) => Promise<void>) => {
    if (running.value) return;
    running.value = name;
    leave.current = new AbortController();
    try {
      await act(leave.current.signal);
    } catch (e) {
      if (!(e instanceof DOMException && e.name === 'AbortError')) output.current!.note(`✗ ${message(e)}`);
    } finally {
      running.value = '';
      following.value = false;
      leave.current = null;
      void refresh();
    }
  };

  const run = () =>
    during('…', async (signal) => {
      const text = editor.current!.text();
      output.current!.note(`▶ ${kind.value === 'code' ? path.value ? visible(path.value) : 'code' : visible(text.trim().split('\n')[0])}`);
      const answer = await fetchApi('/execute', { method: 'POST', body: { sessionId: id, [kind.value]: text, stream: true }, signal });
      running.value = answer.headers.get('X-Execution-Id') ?? '…';
      await read(answer);
    });

  const follow = (execution: string) =>
    during(execution, async (signal) => {
      following.value = true;
      output.current!.note(`⋯ output of ${execution}`);
      await read(await fetchApi(`/executions/${encodeURIComponent(execution)}/output`, { query: { sessionId: id }, signal }));
    });

  /** stop kills what runs; the answer then ends by itself. */
  const stop = async () => {
    const execution = running.value;
    try {
      const { processes } = await api<{ processes: Process[] }>('/processes', { query: { sessionId: id, wake: false } });
      const mine = processes.filter((p) => p.executionId === execution);
      if (mine.length) await api('/execution/kill', { method: 'POST', body: { sessionId: id, pid: mine[0].pid } });
      else leave.current?.abort();
    } catch (e) {
      say(message(e), true);
    }
  };

  const save = async () => {
    try {
      await api('/files/write', { method: 'POST', body: { sessionId: id, path: path.value, content: editor.current!.text() } });
      say(`Saved ${visible(path.value)}.`);
    } catch (e) {
      say(message(e), true);
    }
  };

  const take = () => {
    const want = wanted.value;
    if (!want || want.session !== id || !editor.current) return;
    wanted.value = null;
    if (want.file) {
      path.value = want.file.path;
      kind.value = 'code';
      editor.current.set(want.file.text);
    }
    if (want.follow) void follow(want.follow);
  };
  useEffect(take, [wanted.value]);

  return (
    <div class="run">
      <div class="work">
        <div class="tools">
          <div class="choice" role="radiogroup" aria-label="What the text is">
            {(['code', 'command'] as const).map((k) => (
              <label key={k}><input type="radio" name="kind" checked={kind.value === k} onChange={() => { kind.value = k; editor.current?.code(k === 'code'); }} />{k === 'code' ? 'TypeScript' : 'Shell'}</label>
            ))}
          </div>
          {path.value && <><bdi class="mono path">{visible(path.value)}</bdi><button class="quiet" onClick={save}>Save</button></>}
          <span class="fill" />
          {running.value
            ? following.value
              ? <button id="leave" onClick={() => leave.current?.abort()} title="It runs on">Leave its output</button>
              : <button id="stop" onClick={stop} title="Kills what runs">Stop</button>
            : <button id="run" class="primary" onClick={run} title="Ctrl+Enter">Run</button>}
        </div>
        <div ref={place} class="editor" />
        <div class="tools">
          <h2>Output</h2>
          <span class="fill" />
          <button class="quiet" onClick={() => output.current!.clear()}>Clear</button>
        </div>
        <pre ref={pane} id="output" class="output" tabIndex={0} aria-label="Output" dir="ltr" />
      </div>
      <Preview session={session} />
    </div>
  );
}

function ending(r: Execution): string {
  if (r.background) return '● stays as a server';
  const why = r.reason && r.reason !== 'exit' ? ` (${r.reason})` : '';
  return `${r.exitCode === 0 ? '✓' : '✗'} exit code ${r.exitCode}${why} · ${millis(r.executionTime)} · ${bytes(r.memoryUsed)} · CPU ${millis(r.cpuTime)}`;
}
