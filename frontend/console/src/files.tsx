// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { useSignal } from '@preact/signals';
import { useEffect } from 'preact/hooks';
import { message, question, say } from './actions.ts';
import { account, api, fetchApi, total, type File as Entry, type Session } from './api.ts';
import { go, sessionHash } from './route.ts';
import { wanted } from './run.tsx';
import { bytes, fileName, visible } from './text.ts';

const editable = 500_000; // bytes

/** Files is a directory of the session. To look into one is use, so a session that rests is left alone. */
export function Files({ session }: { session: Session }) {
  const id = session.sessionId;
  const path = useSignal('');
  const list = useSignal<Entry[] | null>(null);
  const count = useSignal(0);
  const doing = useSignal('');

  const look = async (to: string, more = false) => {
    doing.value = 'Looking…';
    try {
      const from = more ? list.value!.length : 0;
      const { body, total: n } = await total<{ files: Entry[] }>('/files/list', { query: { sessionId: id, path: to || undefined, limit: 100, offset: from } });
      path.value = to;
      list.value = more ? [...list.value!, ...body.files] : body.files;
      count.value = n;
    } catch (e) {
      say(message(e), true);
    } finally {
      doing.value = '';
    }
  };
  useEffect(() => {
    if (session.state === 'active') void look('');
  }, []);

  const up = async (files: Iterable<globalThis.File>) => {
    for (const f of files) {
      const most = account.value!.limits.fileSize ?? 0;
      if (f.size > most) {
        say(`${visible(f.name)} has ${bytes(f.size)}, more than the ${bytes(most)} of a file that the key allows.`, true);
        continue;
      }
      doing.value = `Uploading ${visible(f.name)}…`;
      try {
        await api('/files/write', { method: 'POST', body: { sessionId: id, path: below(path.value, f.name), content: await base64(f), encoding: 'base64' } });
        say(`Uploaded ${visible(f.name)}.`);
      } catch (e) {
        say(message(e), true);
      }
    }
    await look(path.value);
  };

  const down = async (at: string, archive: boolean) => {
    doing.value = 'Downloading…';
    try {
      const answer = archive
        ? await fetchApi('/files/archive', { query: { sessionId: id, path: at || undefined } })
        : await fetchApi('/files/read', { query: { sessionId: id, path: at } });
      // Whatever is in it, it is bytes to be kept and nothing to be shown.
      const blob = new Blob([await answer.blob()], { type: 'application/octet-stream' });
      const url = URL.createObjectURL(blob);
      const link = document.createElement('a');
      link.href = url;
      link.download = archive ? `${fileName(at || id)}.tar` : fileName(at);
      link.click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    } catch (e) {
      say(message(e), true);
    } finally {
      doing.value = '';
    }
  };

  const edit = async (at: string) => {
    try {
      const text = await (await fetchApi('/files/read', { query: { sessionId: id, path: at } })).text();
      wanted.value = { session: id, file: { path: at, text } };
      go(sessionHash(id, 'run'));
    } catch (e) {
      say(message(e), true);
    }
  };

  const remove = (entry: Entry) => {
    question.value = {
      title: `Delete ${entry.type === 'directory' ? 'the directory and all in it' : 'the file'}?`, text: visible(entry.path), yes: 'Delete', danger: true,
      then: () =>
        void api('/files', { method: 'DELETE', query: { sessionId: id, path: entry.path, recursive: entry.type === 'directory' || undefined } })
          .then(() => look(path.value), (e) => say(message(e), true)),
    };
  };

  if (!list.value) {
    return (
      <div class="empty">
        <p>{doing.value || 'To look at its files is use of a session, and wakes it.'}</p>
        {!doing.value && <button class="primary" onClick={() => look('')}>{session.state === 'active' ? 'Look' : 'Wake and look'}</button>}
      </div>
    );
  }
  const parts = path.value ? path.value.split('/') : [];
  return (
    <div class="files" onDragOver={(e) => e.preventDefault()} onDrop={(e) => (e.preventDefault(), void up(e.dataTransfer?.files ?? []))}>
      <div class="tools">
        <nav aria-label="Directory" class="mono">
          <button class="link" onClick={() => look('')}>workspace</button>
          {parts.map((p, i) => <> / <button class="link" onClick={() => look(parts.slice(0, i + 1).join('/'))}><bdi>{visible(p)}</bdi></button></>)}
        </nav>
        <span class="faint" role="status">{doing.value}</span>
        <span class="fill" />
        <button class="quiet" onClick={() => look(path.value)}>Reload</button>
        <button class="quiet" onClick={() => down(path.value, true)}>Download all as tar</button>
        <label class="button primary">Upload<input id="upload" type="file" multiple class="sr" onChange={(e) => { const t = e.currentTarget; void up([...(t.files ?? [])]).then(() => (t.value = '')); }} /></label>
      </div>
      {list.value.length === 0 ? <p class="empty">Nothing is in here. Drop files to upload them.</p> : (
        <table class="list">
          <thead><tr><th scope="col">Name</th><th scope="col" class="number">Size</th><th scope="col">Changed</th><th scope="col"><span class="sr">Actions</span></th></tr></thead>
          <tbody>
            {list.value.map((f) => {
              const name = f.path.slice(path.value ? path.value.length + 1 : 0);
              return (
                <tr key={f.path}>
                  <td class="mono name">{f.type === 'directory' ? <button class="link" onClick={() => look(f.path)}><bdi>{visible(name)}</bdi>/</button> : <bdi>{visible(name)}</bdi>}</td>
                  <td class="number">{f.type === 'file' ? bytes(f.size) : ''}</td>
                  <td>{new Date(f.modified).toLocaleString()}</td>
                  <td class="acts">
                    {f.type === 'file' && f.size <= editable && <button class="quiet" onClick={() => edit(f.path)}>Edit</button>}
                    <button class="quiet" onClick={() => down(f.path, f.type === 'directory')}>Download</button>
                    <button class="quiet" onClick={() => remove(f)}>Delete</button>
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
      {list.value.length < count.value && <button onClick={() => look(path.value, true)}>More, of {count.value}</button>}
    </div>
  );
}

const below = (dir: string, name: string): string => (dir ? `${dir}/${name}` : name);

function base64(f: Blob): Promise<string> {
  return new Promise((done, fail) => {
    const r = new FileReader();
    r.onload = () => done(String(r.result).replace(/^[^,]*,?/, ''));
    r.onerror = () => fail(r.error);
    r.readAsDataURL(f);
  });
}
