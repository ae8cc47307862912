// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Buntime, BuntimeError } from '../src/index.js';
import { clientOf, done, fake, says } from './server.js';

test('options come from the environment, and have to come from somewhere', () => {
  delete process.env['BUNTIME_API_KEY'];
  delete process.env['BUNTIME_BASE_URL'];
  const field = (name: string) => (error: unknown) =>
    error instanceof BuntimeError && error.code === 'invalid_request' && error.details?.['field'] === name;
  assert.throws(() => new Buntime({ baseUrl: 'http://x' }), field('apiKey'));
  assert.throws(() => new Buntime({ apiKey: 'k' }), field('baseUrl'));
  assert.throws(() => new Buntime({ apiKey: 'k', baseUrl: 'file:///etc' }), field('baseUrl'));
  assert.throws(() => new Buntime({ apiKey: 'k', baseUrl: 'http://x', timeout: -1 }), field('timeout'));
  process.env['BUNTIME_API_KEY'] = 'btk_env';
  process.env['BUNTIME_BASE_URL'] = 'http://x';
  new Buntime();
});

test('requests are as the API wants them', async () => {
  const api = await fake([says({ sessionId: 'ses_1', sessions: [], files: [], processes: [] }, 200, { 'X-Total-Count': '7' })]);
  const client = clientOf({ url: api.url + '/base/' });
  const sessionId = 'ses_1';
  await client.sessions.create();
  await client.sessions.create({ ttl: 300, metadata: { a: 1 } });
  assert.equal((await client.sessions.list({ limit: 1, state: 'idle', metadata: { 'user id': 'ä&' } })).total, 7);
  await client.sessions.extend({ sessionId, ttl: 600 });
  await client.sessions.sleep({ sessionId, state: 'idle' });
  await client.sessions.delete({ sessionId });
  await client.execution.get({ sessionId, executionId: 'exe/1' });
  await client.execution.kill({ sessionId, pid: 3, signal: 'TERM' });
  assert.deepEqual(await client.processes.list({ sessionId }), []);
  assert.equal((await client.files.list({ sessionId })).total, 7);
  await client.files.write({ sessionId, path: 'a', content: 'text' });
  await client.files.write({ sessionId, path: 'b', content: new Uint8Array(100_000).fill(255) });
  await client.files.delete({ sessionId, path: 'a b', recursive: true });
  assert.deepEqual(
    api.got.map((g) => [g.method, g.path.replace('/base', ''), g.body]),
    [
      ['POST', '/sessions/create', {}],
      ['POST', '/sessions/create', { ttl: 300, metadata: { a: 1 } }],
      ['GET', '/sessions?limit=1&state=idle&metadata.user+id=%C3%A4%26', {}],
      ['POST', '/sessions/ses_1/extend', { ttl: 600 }],
      ['POST', '/sessions/ses_1/sleep', { state: 'idle' }],
      ['DELETE', '/sessions/ses_1', {}],
      ['GET', '/executions/exe%2F1?sessionId=ses_1', {}],
      ['POST', '/execution/kill', { sessionId, pid: 3, signal: 'TERM' }],
      ['GET', '/processes?sessionId=ses_1', {}],
      ['GET', '/files/list?sessionId=ses_1', {}],
      ['POST', '/files/write', { sessionId, path: 'a', content: 'text' }],
      ['POST', '/files/write', { sessionId, path: 'b', content: Buffer.alloc(100_000, 255).toString('base64'), encoding: 'base64' }],
      ['DELETE', '/files?sessionId=ses_1&path=a+b&recursive=true', {}],
    ],
  );
  for (const g of api.got) assert.equal(g.headers.authorization, 'Bearer btk_test');
});

test('files are read as they are', async () => {
  const content = Buffer.from('\ufeffé\0');
  const api = await fake([(res) => res.writeHead(200, { 'Content-Type': 'application/octet-stream' }).end(content)]);
  const file = { sessionId: 'ses_1', path: 'a' };
  assert.equal(await clientOf(api).files.read(file), '\ufeffé\0');
  assert.deepEqual(Buffer.from(await clientOf(api).files.read({ ...file, encoding: 'bytes' })), content);
});

test('ids that are none are not sent', async () => {
  const api = await fake([says({})]);
  for (const sessionId of ['', '.', '..', undefined as unknown as string]) {
    await assert.rejects(clientOf(api).sessions.delete({ sessionId }), { code: 'invalid_request', status: 0 });
  }
  assert.equal(api.got.length, 0);
});

test('redirects and answers of others are errors', async () => {
  const moved = await fake([(res) => res.writeHead(301, { Location: 'http://127.0.0.1:1/' }).end()]);
  await assert.rejects(clientOf(moved).execute({ sessionId: 'x', code: '1' }), { code: 'invalid_response', status: 301 });
  const page = await fake([(res) => res.end('<html>')]);
  await assert.rejects(clientOf(page).sessions.list(), { code: 'invalid_response', status: 200 });
});

test("an execution has its own time and some more, whatever the client's timeout", async () => {
  const api = await fake([(res, got) => setTimeout(() => says(done)(res, got), 150)]);
  const client = clientOf(api, { timeout: 50, maxRetries: 0 });
  assert.deepEqual(await client.execute({ sessionId: 'x', code: '1', timeout: 1 }), done);
  await assert.rejects(client.sessions.list(), { code: 'client_timeout', status: 0, message: 'GET /sessions: no answer within 50 ms' });
});
