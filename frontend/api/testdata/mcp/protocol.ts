// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// The official client on one of both transports: protocol.ts http|stdio. The node is a
// stand-in, whose executions all print 42 and end, but for that of "sleep", which ends
// when it is killed.
import assert from 'node:assert/strict';

import { call, connect, fails, says } from './client.ts';

const kind = process.argv[2] as 'http' | 'stdio';
const { client, close } = await connect(kind);

const { tools } = await client.listTools();
assert.equal(tools.length, 8);
for (const t of tools) {
  for (const [name, p] of Object.entries(t.inputSchema.properties ?? {})) assert.ok((p as { description?: string }).description, `${t.name} ${name}`);
}

// Two first calls at a time get one session, and one is told that it is new.
const first = await Promise.all([1, 2].map((n) => call(client, 'execute_code', { code: `console.log(${n})` })));
assert.equal(new Set(first.map((r) => r.structuredContent!.sessionId)).size, 1);
assert.ok(first.some((r) => says(r).includes('new session ')));
const session = first[0]!.structuredContent!.sessionId as string;

const told: string[] = [];
await call(client, 'execute_code', { code: 'x' }, { onprogress: (p) => told.push(p.message ?? '') });
assert.equal(told.join(''), '42\n');

await fails(client, 'read_file', { path: 'nowhere' }, /file_not_found[^]*What to do: look with list_files/);
await fails(client, 'read_file', { path: '../etc/passwd' }, /invalid_request[^]*What to do: correct path/);
await fails(client, 'execute_code', {}, /code/);
await fails(client, 'get_preview_url', {}, /Nothing listens on port 8080[^]*What to do: start the server first/);
await fails(client, 'session_info', { sessionId: 'ses_00000000000000000000' }, /session_not_found[^]*leave it out/);
await assert.rejects(client.callTool({ name: 'no_such_tool', arguments: {} }));

const stop = new AbortController();
await assert.rejects(call(client, 'run_command', { command: 'sleep' }, { signal: stop.signal, onprogress: () => stop.abort() }));
console.log('cancelled'); // the test sees that it was killed

if (kind === 'http') {
  // Another account has its own session for the same conversation, and none of this one.
  const other = await connect('http', process.env.BUNTIME_OTHER_KEY!);
  const args: Record<string, object> = { execute_code: { code: '1' }, run_command: { command: 'ls' }, write_file: { path: 'a', content: '' }, read_file: { path: 'a' } };
  for (const t of tools) await fails(other.client, t.name, { ...args[t.name], sessionId: session }, /session_not_found/);
  await other.close();

  // What has ended is told once, and then there is a new session.
  await api('DELETE', `/sessions/${session}`);
  await fails(client, 'session_info', {}, /session_not_found[^]*files and processes are gone. Call again/);
  const second = (await call(client, 'session_info', {})).structuredContent!.sessionId as string;
  assert.notEqual(second, session);
  await close();
  assert.equal((await api('GET', `/sessions/${second}`)).status, 404); // the client has ended it
} else {
  await close();
  for (const end = Date.now() + 10_000; (await api('GET', `/sessions/${session}`)).status !== 404; ) assert.ok(Date.now() < end, 'the session outlives its connection');
}

function api(method: string, path: string): Promise<Response> {
  return fetch(process.env.BUNTIME_BASE_URL + path, { method, headers: { Authorization: `Bearer ${process.env.BUNTIME_API_KEY}` } });
}
