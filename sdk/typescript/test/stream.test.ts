// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { type Buntime, BuntimeError, type ExecutionEvent } from '../src/index.js';
import { output } from '../src/stream.js';
import { Transport } from '../src/transport.js';
import { clientOf, cuts, done, event, fails, fake, streams } from './server.js';

const code = { sessionId: 'ses_1', code: '1' };

/** All that a stream brings. */
async function collect(events: AsyncIterable<ExecutionEvent>) {
  const all = { stdout: '', stderr: '', results: 0 };
  for await (const e of events) {
    if (e.type === 'result') all.results++;
    else all[e.type] += e.data;
  }
  return all;
}

const run = (client: Buntime) => collect(client.executeStream(code));

const out = (data: string, id?: number) => event('stdout', { data }, id);
const err = (data: string, id?: number) => event('stderr', { data }, id);
const result = event('result', done, 0);

test('a stream that is cut goes on at its last byte', async () => {
  const api = await fake([
    streams(': alive\n\n' + out('one', 3) + out('two', 6) + 'event: stdout\nid: 9\ndata: {"da', 'cut'),
    cuts,
    streams(out('three', 11) + err('é', 13), 'end'),
    streams(out('!', 14) + result),
  ]);
  assert.deepEqual(await run(clientOf(api)), { stdout: 'onetwothree!', stderr: 'é', results: 1 });
  assert.deepEqual(
    api.got.map((g) => [g.method, g.path, g.headers['last-event-id']]),
    [
      ['POST', '/execute', undefined],
      ['GET', '/executions/exe_1/output?sessionId=ses_1&until=answer', '6'],
      ['GET', '/executions/exe_1/output?sessionId=ses_1&until=answer', '6'],
      ['GET', '/executions/exe_1/output?sessionId=ses_1&until=answer', '13'],
    ],
  );
});

test('what came behind the last id is not told twice', async () => {
  const api = await fake([
    streams(out('a', 1) + err('bb') + out('c') + err('d'), 'cut'),
    streams(err('b') + out('c€'), 'cut'),
    streams(err('bbd', 5) + out('c', 6) + out('€f', 10) + err('g', 11), 'cut'),
    streams(result),
  ]);
  assert.deepEqual(await run(clientOf(api)), { stdout: 'ac€f', stderr: 'bbdg', results: 1 });
  assert.deepEqual(
    api.got.map((g) => g.headers['last-event-id']),
    [undefined, '1', '1', '11'],
  );
});

test('every cut of a stream gives the same bytes', async () => {
  const whole = out('añ€😀\r\n', 13) + err('x', 14) + out('end', 17);
  for (let at = 0; at <= whole.length; at++) {
    const api = await fake([
      (res, got) => streams(Buffer.from(whole).subarray(0, at).toString(), 'cut')(res, got),
      (res, got) => {
        const from = Number(got.headers['last-event-id']);
        const events = [out('añ€😀\r\n', 13), err('x', 14), out('end', 17)].filter((_, i) => [13, 14, 17][i]! > from);
        streams(events.join('') + result)(res, got);
      },
    ]);
    assert.deepEqual(await run(clientOf(api)), { stdout: 'añ€😀\r\nend', stderr: 'x', results: 1 }, `cut at ${at}`);
    await api.close();
  }
});

test('a front-end that loses the node is a cut', async () => {
  const lost = event('error', { error: { code: 'service_unavailable', message: 'the connection to the session broke' } });
  const api = await fake([streams(out('a', 1) + '\n\n' + lost), streams(out('b', 2) + result)]);
  assert.deepEqual(await run(clientOf(api)), { stdout: 'ab', stderr: '', results: 1 });
});

test('an error event is an error', async () => {
  const oom = { error: { code: 'memory_limit_exceeded', message: 'Session exceeded 1GB memory limit', details: { result: done } } };
  const api = await fake([streams(out('a', 1) + event('error', oom))]);
  await assert.rejects(run(clientOf(api)), { code: 'memory_limit_exceeded', status: 507, details: { result: done } });
  assert.equal(api.got.length, 1);
});

test('cuts without progress end it', async () => {
  const api = await fake([streams(out('a', 1), 'cut'), streams('', 'cut')]);
  const told: number[] = [];
  const client = clientOf(api, { maxRetries: 2, onRetry: (_, attempt) => told.push(attempt) });
  await assert.rejects(run(client), { code: 'connection_error', status: 0 });
  assert.deepEqual(told, [1, 2]);
});

test('silence is a cut', async () => {
  const api = await fake([streams(out('a', 1), 'hang'), streams(out('b', 2) + result)]);
  const settings = { apiKey: 'k', baseUrl: api.url, timeout: 1000, maxRetries: 1, retryDelay: 1, onRetry: () => undefined };
  const events = output(new Transport(settings, 400), { sessionId: 'ses_1', executionId: 'exe_1' }, {});
  assert.deepEqual(await collect(events), { stdout: 'ab', stderr: '', results: 1 });
  assert.equal(api.got[1]?.headers['last-event-id'], '1');
});

test('a stream whose execution is gone says so', async () => {
  const api = await fake([streams(out('a', 1), 'cut'), fails(404, 'session_not_found')]);
  await assert.rejects(run(clientOf(api)), { code: 'session_not_found', status: 404 });
});

test('who stops reading lets the connection go', async () => {
  let gone: () => void = () => undefined;
  const closed = new Promise<void>((resolve) => (gone = resolve));
  const api = await fake([
    (res, got) => {
      res.on('close', gone);
      streams(out('a', 1), 'hang')(res, got);
    },
  ]);
  for await (const e of clientOf(api).executeStream(code)) {
    assert.deepEqual(e, { type: 'stdout', data: 'a', lastEventId: '1', executionId: 'exe_1' });
    break;
  }
  await closed;
});

test('a signal ends a stream', async () => {
  const api = await fake([streams(out('a', 1), 'hang')]);
  const controller = new AbortController();
  const events = clientOf(api).executeStream(code, { signal: controller.signal });
  await assert.rejects(
    (async () => {
      for await (const e of events) {
        assert.equal(e.type, 'stdout');
        setTimeout(() => controller.abort(new Error('enough')), 20);
      }
    })(),
    { message: 'enough' },
  );
  assert.equal(api.got.length, 1);
});

test('long executions are read as a stream', async () => {
  const api = await fake([streams(out('a', 1), 'cut'), streams(result)]);
  assert.deepEqual(await clientOf(api).execute({ ...code, timeout: 200 }), done);
  assert.deepEqual(api.got[0]?.body, { ...code, timeout: 200, stream: true });
});

test('an event that is no JSON is an error', async () => {
  const api = await fake([streams('event: result\ndata: {"half\n\n')]);
  await assert.rejects(run(clientOf(api)), { code: 'invalid_response' });
});

test('no event stream is an error', async () => {
  const api = await fake([(res) => res.writeHead(200, { 'Content-Type': 'text/html' }).end('<h1>Log in</h1>')]);
  await assert.rejects(run(clientOf(api)), (error) => error instanceof BuntimeError && error.code === 'invalid_response');
});
