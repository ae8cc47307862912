// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// A conversation whose messages go to one front-end and to the other in turn, as a
// balancer sends them.
import assert from 'node:assert/strict';

import { call, connect, says } from './client.ts';

const bases = [process.env.BUNTIME_BASE_URL!, process.env.BUNTIME_SECOND_URL!];
let n = 0;
const { client, close } = await connect('http', process.env.BUNTIME_API_KEY!, (url, init) => fetch(String(url).replace(bases[0]!, bases[n++ % 2]!), init));

const first = await Promise.all([1, 2, 3].map((i) => call(client, 'run_command', { command: `echo ${i} > ${i}` })));
const sessions = new Set(first.map((r) => r.structuredContent!.sessionId));
assert.equal(sessions.size, 1, [...sessions].join(' '));
console.log(`session ${[...sessions][0]}`);
for (let i = 0; i < 4; i++) assert.match(says(await call(client, 'run_command', { command: 'cat 1 2 3' })), /^1\n2\n3\n/);

// The cancellation is the message after the call, and so goes to the other one.
const stop = new AbortController();
await assert.rejects(call(client, 'run_command', { command: 'echo here; sleep 25' }, { signal: stop.signal, onprogress: () => stop.abort() }));
for (const end = Date.now() + 15_000; ; await Bun.sleep(100)) {
  const info = await call(client, 'session_info', {});
  if ((info.structuredContent!.processes as unknown[]).length === 0) break;
  assert.ok(Date.now() < end, says(info));
}
await close();
const info = () => fetch(`${bases[1]}/sessions/${[...sessions][0]}`, { headers: { Authorization: `Bearer ${process.env.BUNTIME_API_KEY}` } });
for (const until = Date.now() + 10_000; (await info()).status !== 404; await Bun.sleep(50)) { // a front-end believes a record for a second
  assert.ok(Date.now() < until, 'the session of a conversation that is over is still there');
}
