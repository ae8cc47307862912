// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Buntime, BuntimeError } from '../src/index.js';
import { clientOf, cuts, done, fails, fake, freePort, hangs, says, type Step } from './server.js';

const info = { sessionId: 'ses_1', state: 'active' };
const code = { sessionId: 'ses_1', code: '1' };

/** The error that a promise ends with. */
async function errorOf(promise: Promise<unknown>): Promise<BuntimeError> {
  const error: unknown = await promise.then(
    () => assert.fail('no error'),
    (e: unknown) => e,
  );
  assert.ok(error instanceof BuntimeError, String(error));
  return error;
}

test('what may be done twice is tried again after what passes', async (t) => {
  const troubles: Record<string, Step> = {
    '500': fails(500, 'internal_error'),
    '502 of a proxy': (res) => res.writeHead(502, { 'Content-Type': 'text/html' }).end('<h1>Bad Gateway</h1>'),
    '503': fails(503, 'service_unavailable'),
    '504': (res) => res.writeHead(504).end(),
    'a broken connection': cuts,
    'half an answer': (res) => {
      res.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': '100' });
      res.write('{"sessionId":', () => res.socket?.destroy());
    },
  };
  for (const [name, trouble] of Object.entries(troubles)) {
    await t.test(name, async () => {
      const api = await fake([trouble, says(info)]);
      const told: [string, number][] = [];
      const client = clientOf(api, { onRetry: (error, attempt) => told.push([error.name, attempt]) });
      assert.deepEqual(await client.sessions.info({ sessionId: 'ses_1' }), { id: 'ses_1', state: 'active' });
      assert.equal(api.got.length, 2);
      assert.deepEqual(told, [['BuntimeError', 1]]);
    });
  }
  await t.test('no answer in time', async () => {
    const api = await fake([hangs, says(info)]);
    assert.equal((await clientOf(api, { timeout: 500 }).sessions.info({ sessionId: 'ses_1' })).id, 'ses_1');
  });
});

test('pauses double, and tries end', async () => {
  const api = await fake([fails(500, 'internal_error')]);
  const error = await errorOf(clientOf(api, { maxRetries: 3, retryDelay: 40 }).sessions.list());
  assert.deepEqual([error.code, error.status, error.message], ['internal_error', 500, 'it is internal_error']);
  const pauses = api.got.slice(1).map((g, i) => g.at - (api.got[i]?.at ?? 0));
  assert.equal(pauses.length, 3);
  for (const [i, least] of [40, 80, 160].entries()) assert.ok((pauses[i] ?? 0) >= least - 2, `pauses ${pauses}`);
});

test('429 is tried again when the server says, and only then', async () => {
  const later = await fake([fails(429, 'rate_limit_exceeded', { 'Retry-After': '1' }), says(info)]);
  await clientOf(later).sessions.info({ sessionId: 'ses_1' });
  assert.ok((later.got[1]?.at ?? 0) - (later.got[0]?.at ?? 0) >= 990);

  const never = await fake([fails(429, 'session_limit_exceeded')]);
  const error = await errorOf(clientOf(never).sessions.create());
  assert.deepEqual([error.status, error.code, error.retryAfter], [429, 'session_limit_exceeded', undefined]);
  assert.equal(never.got.length, 1);

  const off = await fake([fails(429, 'rate_limit_exceeded', { 'Retry-After': '60' })]);
  assert.equal((await errorOf(clientOf(off).sessions.info({ sessionId: 'x' }, { maxRetries: 0 }))).retryAfter, 60);
});

test('what will not pass is not tried again', async () => {
  for (const [status, name] of [
    [400, 'invalid_request'],
    [401, 'unauthorized'],
    [403, 'forbidden'],
    [404, 'session_not_found'],
    [408, 'request_timeout'],
    [409, 'session_busy'],
    [507, 'disk_full'],
  ] as const) {
    const api = await fake([fails(status, name, {}, { field: 'x' })]);
    const error = await errorOf(clientOf(api).files.write({ sessionId: 'ses_1', path: 'a', content: '' }));
    assert.deepEqual([error.code, error.status, error.details], [name, status, { field: 'x' }]);
    assert.equal(api.got.length, 1);
  }
});

/** The ways to run code. */
const runs: Record<string, (client: Buntime) => Promise<unknown>> = {
  execute: (client) => client.execute(code),
  executeStream: async (client) => {
    for await (const event of client.executeStream(code)) void event;
  },
};

for (const [name, run] of Object.entries(runs)) {
  test(`${name}: code never runs twice`, async () => {
    for (const trouble of [cuts, fails(500, 'internal_error'), fails(503, 'service_unavailable', { 'Retry-After': '1' }), fails(504, 'x')]) {
      const api = await fake([trouble]);
      await errorOf(run(clientOf(api)));
      assert.equal(api.got.length, 1);
    }
  });

  test(`${name}: is tried again when the server says that nothing was done`, async () => {
    const result: Step = (res, got) =>
      got.body.stream ? res.writeHead(200, { 'Content-Type': 'text/event-stream' }).end('event: result\ndata: {}\n\n') : says(done)(res, got);
    const api = await fake([fails(503, 'service_unavailable', { 'Retry-After': '0' }, { done: 'no' }), result]);
    await run(clientOf(api));
    assert.equal(api.got.length, 2);
    const unsure = await fake([fails(503, 'service_unavailable', { 'Retry-After': '0' }, { done: 'unknown' }), result]);
    assert.equal((await errorOf(run(clientOf(unsure)))).details?.done, 'unknown');
    assert.equal(unsure.got.length, 1);
  });

  test(`${name}: no second request over a connection that was used before`, async () => {
    const api = await fake([says(info), cuts]);
    const client = clientOf(api);
    await client.sessions.info({ sessionId: 'ses_1' });
    assert.equal((await errorOf(run(client))).code, 'connection_error');
    assert.equal(api.got.length, 2);
  });

  test(`${name}: is tried again when nobody took it`, async () => {
    const port = await freePort();
    let opened: ReturnType<typeof fake> | undefined;
    const step: Step = (res, got) => (got.body.stream ? res.writeHead(200, { 'Content-Type': 'text/event-stream' }).end('event: result\ndata: {}\n\n') : says(done)(res, got));
    const client = clientOf(
      { url: `http://127.0.0.1:${port}` },
      { retryDelay: 50, onRetry: () => (opened ??= fake([fails(429, 'rate_limit_exceeded', { 'Retry-After': '0' }), step], port)) },
    );
    await run(client);
    const api = await opened;
    assert.equal(api?.got.length, 2);
    const keys = api?.got.map((g) => g.headers['idempotency-key']);
    assert.ok(keys?.[0]);
    assert.equal(keys[0], keys[1]);
  });

  test(`${name}: is tried again with its key once the server heeds keys`, async () => {
    const heeds =
      (step: Step): Step =>
      (res, got) => {
        res.setHeader('Idempotency-Key', got.headers['idempotency-key'] ?? '');
        step(res, got);
      };
    const result: Step = (res, got) =>
      got.body.stream ? res.writeHead(200, { 'Content-Type': 'text/event-stream' }).end('event: result\ndata: {}\n\n') : says(done)(res, got);
    const api = await fake([heeds(result), cuts, fails(503, 'service_unavailable'), heeds(result)]);
    const client = clientOf(api);
    await run(client);
    await run(client);
    const [first, ...rest] = api.got.map((g) => g.headers['idempotency-key']);
    assert.equal(rest.length, 3);
    assert.deepEqual(new Set(rest).size, 1);
    assert.notEqual(first, rest[0]);
  });
}

test('a create has one key for all tries, which says nothing of executions', async () => {
  const heeds: Step = (res, got) => says(info, 200, { 'Idempotency-Key': got.headers['idempotency-key'] as string })(res, got);
  const api = await fake([cuts, fails(500, 'internal_error'), heeds, cuts]);
  const client = clientOf(api);
  await client.sessions.create();
  const keys = api.got.map((g) => g.headers['idempotency-key']);
  assert.ok(keys[0]);
  assert.deepEqual(keys, [keys[0], keys[0], keys[0]]);
  await errorOf(client.execute(code));
  assert.equal(api.got.length, 4);
});

test('a signal is not sent twice, a kill is', async () => {
  const signal = await fake([cuts]);
  await errorOf(clientOf(signal).execution.kill({ sessionId: 'ses_1', pid: 7, signal: 'SIGUSR1' }));
  assert.equal(signal.got.length, 1);
  const kill = await fake([cuts, says({ killed: 0, pids: [] })]);
  assert.deepEqual(await clientOf(kill).execution.kill({ sessionId: 'ses_1', pid: 7 }), { killed: 0, pids: [] });
});

test('what is gone after a try without an answer was deleted by it', async () => {
  const lost = await fake([cuts, fails(404, 'session_not_found')]);
  assert.deepEqual(await clientOf(lost).sessions.delete({ sessionId: 'ses_1' }), { id: 'ses_1', deleted: true });
  const never = await fake([fails(404, 'session_not_found')]);
  assert.equal((await errorOf(clientOf(never).sessions.delete({ sessionId: 'ses_1' }))).code, 'session_not_found');
  const other = await fake([cuts, fails(404, 'session_not_found')]);
  assert.equal((await errorOf(clientOf(other).files.delete({ sessionId: 'ses_1', path: 'a' }))).code, 'session_not_found');
});

test('a signal ends a call, and the pause before the next try', async () => {
  for (const step of [hangs, fails(503, 'service_unavailable', { 'Retry-After': '60' })]) {
    const api = await fake([step]);
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('enough')), 50);
    await assert.rejects(clientOf(api).sessions.info({ sessionId: 'ses_1' }, { signal: controller.signal }), { message: 'enough' });
    await assert.rejects(clientOf(api).execute(code, { signal: controller.signal }), { message: 'enough' });
    assert.equal(api.got.length, 1);
  }
});
