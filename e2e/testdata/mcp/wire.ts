// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// What concerns HTTP: cut connections, sessions that end, and what is refused.
import assert from 'node:assert/strict';

import { call, connect, says } from './client.ts';

const base = process.env.BUNTIME_BASE_URL!;
const key = process.env.BUNTIME_API_KEY!;

// A connection that breaks ends neither the execution nor the conversation.
async function cut() {
  let breaks = false;
  const { client, close } = await connect('http', key, async (url, init) => {
    if (!breaks) return fetch(url, init);
    breaks = false;
    const stop = new AbortController();
    const res = await fetch(url, { ...init, signal: stop.signal });
    const [seen, passed] = res.body!.tee();
    void (async () => {
      await seen.getReader().read(); // the first progress
      stop.abort();
    })().catch(() => undefined);
    return new Response(passed, res);
  });
  const { structuredContent } = await call(client, 'run_command', { command: 'true' });
  console.log(`session ${structuredContent!.sessionId}`);
  breaks = true;
  await assert.rejects(call(client, 'run_command', { command: 'echo begun; sleep 1; echo done > done.txt' }, { onprogress: () => undefined, timeout: 4000 }));
  const after = await call(client, 'run_command', { command: 'until test -e done.txt; do sleep 0.1; done; cat done.txt' });
  assert.match(says(after), /^done\n/);
  assert.equal(after.structuredContent!.sessionId, structuredContent!.sessionId);
  await close();
}

// What ends a session of a conversation is told once, and then there is a new one.
async function ends() {
  const { client, transport, close } = await connect('http');
  const first = (await call(client, 'run_command', { command: 'echo kept > file' })).structuredContent!.sessionId as string;
  await api('DELETE', `/sessions/${first}`);
  const told = await client.callTool({ name: 'read_file', arguments: { path: 'file' } });
  assert.ok(told.isError);
  assert.match(says(told as never), /session_not_found[^]*files and processes are gone. Call again/);
  const second = (await call(client, 'run_command', { command: 'ls' })).structuredContent!.sessionId as string;
  assert.notEqual(first, second);
  console.log(`session ${second}`);
  // The same conversation's id is another conversation with another key.
  const id = transport!.sessionId!;
  const other = await tool(id, process.env.BUNTIME_OTHER_KEY!, 'session_info', {});
  const theirs = other.result.structuredContent.sessionId;
  assert.notEqual(theirs, second);
  assert.equal((await fetch(`${base}/mcp`, { method: 'DELETE', headers: { Authorization: `Bearer ${process.env.BUNTIME_OTHER_KEY}`, 'Mcp-Session-Id': id } })).status, 204);
  assert.equal((await fetch(`${base}/sessions/${theirs}`, { headers: { Authorization: `Bearer ${process.env.BUNTIME_OTHER_KEY}` } })).status, 404);
  assert.equal((await api('GET', `/sessions/${second}`)).status, 200);
  await close();
  assert.equal((await api('GET', `/sessions/${second}`)).status, 404);
}

// A client of a protocol without sessions gets one for each call that names none.
async function sessionless() {
  const first = await tool(undefined, key, 'execute_code', { code: `await Bun.write('a', 'b')` });
  const id = first.result.structuredContent.sessionId;
  console.log(`session ${id}`);
  assert.match(first.result.content[0].text, new RegExp(`pass sessionId ${id}`));
  const again = await tool(undefined, key, 'read_file', { path: 'a', sessionId: id });
  assert.equal(again.result.content[0].text, 'b');
}

async function refused() {
  const ping = { jsonrpc: '2.0', id: 1, method: 'ping' };
  assert.equal((await post(ping)).status, 200);
  assert.equal((await post(ping, { Authorization: 'Bearer btk_wrong' })).status, 401);
  assert.equal((await post(ping, { Origin: 'https://evil.example' })).status, 403);
  assert.equal((await post(ping, { Origin: new URL(base).origin })).status, 200);
  assert.equal((await post(ping, { 'Mcp-Session-Id': '../../x' })).status, 404);
  assert.equal((await post([ping, ping])).status, 400);
  assert.equal((await post('{"jsonrpc": ')).status, 400);
  assert.equal((await post(ping, { 'Content-Type': 'text/plain' })).status, 415);
  assert.equal((await post(JSON.stringify({ ...ping, params: { x: 'x'.repeat(120 << 20) } }))).status, 413);
  const stream = await fetch(`${base}/mcp`, { headers: { Authorization: `Bearer ${key}`, Accept: 'text/event-stream' } });
  assert.equal(stream.status, 405);
}

function post(message: unknown, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(`${base}/mcp`, {
    method: 'POST',
    headers: { Authorization: `Bearer ${key}`, 'Content-Type': 'application/json', Accept: 'application/json, text/event-stream', ...headers },
    body: typeof message === 'string' ? message : JSON.stringify(message),
  });
}

/** Calls a tool without the client. */
async function tool(id: string | undefined, key: string, name: string, args: unknown) {
  const res = await post({ jsonrpc: '2.0', id: 1, method: 'tools/call', params: { name, arguments: args } }, { Authorization: `Bearer ${key}`, ...(id && { 'Mcp-Session-Id': id }) });
  const text = await res.text();
  const data = text.match(/^data: (.*)$/m);
  assert.ok(res.ok && data, `${res.status} ${text}`);
  return JSON.parse(data[1]!);
}

function api(method: string, path: string): Promise<Response> {
  return fetch(base + path, { method, headers: { Authorization: `Bearer ${key}` } });
}

await Promise.all([cut(), ends(), sessionless(), refused()]);
