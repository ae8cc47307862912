// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { useSignal } from '@preact/signals';
import { farewell, signIn } from './api.ts';
import { message } from './actions.ts';

export function SignIn() {
  const wrong = useSignal(farewell.value);
  const waiting = useSignal(false);
  const submit = async (e: SubmitEvent) => {
    e.preventDefault();
    const input = (e.target as HTMLFormElement).elements.namedItem('key') as HTMLInputElement;
    waiting.value = true;
    wrong.value = '';
    try {
      await signIn(input.value.trim());
    } catch (x) {
      wrong.value = message(x);
      input.select();
    } finally {
      waiting.value = false;
    }
  };
  return (
    <main class="signin">
      <form onSubmit={submit} aria-labelledby="signin-title">
        <h1 id="signin-title"><Logo /> Buntime console</h1>
        <label for="key">API key</label>
        <input id="key" name="key" type="password" placeholder="btk_…" autocomplete="current-password" spellcheck={false} required autofocus aria-describedby="key-note" aria-invalid={wrong.value !== ''} />
        <button class="primary" disabled={waiting.value}>{waiting.value ? 'Signing in…' : 'Sign in'}</button>
        <p class="wrong" role="alert">{wrong.value}</p>
        <p id="key-note" class="faint">The key stays in this tab, and goes with it.</p>
      </form>
    </main>
  );
}

export function Logo() {
  return (
    <svg class="logo" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="7" />
      <path d="M9 10l6 6-6 6M17 22h7" />
    </svg>
  );
}
