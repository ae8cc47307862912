// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { useSignal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useEffect, useRef } from 'preact/hooks';
import { create, creating, helping, message, question as asked, type Question } from './actions.ts';
import { account } from './api.ts';
import { keys } from './keyboard.ts';

function Dialog({ title, close, children }: { title: string; close: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const from = document.activeElement as HTMLElement | null;
    dialog.current!.showModal();
    return () => from?.focus();
  }, []);
  return (
    <dialog ref={dialog} aria-labelledby="dialog-title" onCancel={close} onClose={close}>
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

export function QuestionDialog({ question }: { question: Question }) {
  const close = () => (asked.value = null);
  const yes = () => {
    close();
    question.then();
  };
  return (
    <Dialog title={question.title} close={close}>
      <p>{question.text}</p>
      <div class="buttons">
        <button onClick={close}>Cancel</button>
        <button class={question.danger ? 'danger' : 'primary'} onClick={yes}>{question.yes}</button>
      </div>
    </Dialog>
  );
}

export function HelpDialog({ licences, docs }: { licences: string; docs: string }) {
  const close = () => (helping.value = false);
  return (
    <Dialog title="Keys" close={close}>
      <table class="keys">
        {keys.map(([key, what]) => <tr key={key}><th scope="row"><kbd>{key}</kbd></th><td>{what}</td></tr>)}
      </table>
      <p class="faint"><a href={docs} target="_blank" rel="noopener">The API</a> · <a href={licences} target="_blank" rel="noopener">Licences of what the console is made with</a></p>
      <div class="buttons"><button class="primary" onClick={close}>Close</button></div>
    </Dialog>
  );
}

const lives: [string, number][] = [['1 hour', 3600], ['8 hours', 28800], ['24 hours', 86400], ['3 days', 259200], ['7 days', 604800]];

export function CreateDialog() {
  const close = () => (creating.value = false);
  const wrong = useSignal('');
  const waiting = useSignal(false);
  const { limits, plan } = account.value!;
  const fixed = plan === 'free';
  const submit = async (e: SubmitEvent) => {
    e.preventDefault();
    const form = new FormData(e.target as HTMLFormElement);
    const text = String(form.get('metadata') ?? '').trim();
    waiting.value = true;
    wrong.value = '';
    try {
      const body: Record<string, unknown> = { ttl: Number(form.get('ttl')) };
      if (!fixed) body.resourceLimits = { memory: Number(form.get('memory')), cpu: Number(form.get('cpu')), disk: Number(form.get('disk')) };
      if (text) body.metadata = JSON.parse(text);
      await create(body);
    } catch (x) {
      wrong.value = x instanceof SyntaxError ? 'Metadata is a JSON object, such as {"project": "demo"}.' : message(x);
    } finally {
      waiting.value = false;
    }
  };
  const number = (name: string, label: string, value: number, most: number | undefined, step: number, least: number) => (
    <label>{label}<input name={name} type="number" defaultValue={String(value)} min={least} max={most} step={step} disabled={fixed} required /></label>
  );
  return (
    <Dialog title="New session" close={close}>
      <form onSubmit={submit} class="create">
        <label>Life
          <select name="ttl" defaultValue="86400">
            {lives.filter(([, s]) => s <= (limits.ttl ?? 86400)).map(([name, s]) => <option key={s} value={s} selected={s === 86400}>{name}</option>)}
          </select>
        </label>
        <div class="three">
          {number('memory', 'Memory, MB', 1024, limits.memory, 64, 64)}
          {number('cpu', 'CPU, cores', 0.25, limits.cpu, 0.05, 0.05)}
          {number('disk', 'Disk, MB', 1024, limits.disk, 64, 64)}
        </div>
        <label>Metadata<textarea name="metadata" rows={3} spellcheck={false} placeholder='{"project": "demo"}' /></label>
        <p class="wrong" role="alert">{wrong.value}</p>
        <div class="buttons">
          <button type="button" onClick={close}>Cancel</button>
          <button class="primary" disabled={waiting.value}>{waiting.value ? 'Creating…' : 'Create'}</button>
        </div>
      </form>
    </Dialog>
  );
}
