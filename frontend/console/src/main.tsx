// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { effect, signal } from '@preact/signals';
import { render } from 'preact';
import { account, hasKey, signInAgain } from './api.ts';
import { listen } from './keyboard.ts';
import { route } from './route.ts';
import { Shell } from './shell.tsx';
import { SignIn } from './signin.tsx';
import { forget, refresh } from './store.ts';

// The editor and the terminal make style elements. The page's policy takes those that
// have the nonce, which only what runs on the page can read.
const nonce = document.querySelector<HTMLElement>('link[nonce]')?.nonce ?? '';
const create = document.createElement.bind(document);
document.createElement = ((name: string, options?: ElementCreationOptions) => {
  const element = create(name, options);
  if (element instanceof HTMLStyleElement) element.nonce = nonce;
  return element;
}) as typeof document.createElement;

const starting = signal(hasKey());

function App() {
  if (starting.value) return <p class="centre" role="status">Signing in…</p>;
  return account.value ? <Shell /> : <SignIn />;
}

listen();
effect(() => {
  const here = route.value; // each place has its own question to ask
  if (account.value && here) queueMicrotask(() => void refresh()); // what that reads is none of the effect's
});
effect(() => {
  if (!account.value) forget();
});
render(<App />, document.getElementById('app')!);
if (starting.value) {
  void signInAgain().finally(() => (starting.value = false));
}
