// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Every method of the client, on the real API.
import { Buntime, BuntimeError, type ExecutionEvent, type ExecutionResult } from 'buntime.sh';
import { equal, ok, rejects, seconds, visit, watched } from './check.js';

const client = watched(new Buntime());
const session = await client.sessions.create({ ttl: 600, metadata: { of: 'calls', nested: { n: [1, null, 'ä'] } } });
const sessionId = session.id;
equal(Object.keys(session).sort(), ['createdAt', 'expiresAt', 'id', 'previewUrl', 'resourceLimits']);
equal(seconds(session.createdAt, session.expiresAt), 600);

// Sessions.
const info = await client.sessions.info({ sessionId });
equal([info.id, info.state, info.metadata], [sessionId, 'active', { of: 'calls', nested: { n: [1, null, 'ä'] } }]);
const listed = await client.sessions.list({ metadata: { of: 'calls' }, limit: 100 });
ok(listed.some((s) => s.id === sessionId) && listed.total >= listed.length);

const extended = await client.sessions.extend({ sessionId, ttl: 3600 });
equal([extended.id, extended.expiresAt], [sessionId, (await client.sessions.info({ sessionId })).expiresAt]);
ok(seconds(session.expiresAt, extended.expiresAt) >= 3000);
await rejects(client.sessions.extend({ sessionId, ttl: 1 }), { code: 'invalid_request', status: 400, details: { field: 'ttl' } });

// Executions.
const ran = await client.execute({
  sessionId,
  code: `import { hello } from './lib/hello.ts'; console.log(hello, process.env.NAME, process.cwd()); console.error('e'); process.exit(3)`,
  files: [{ path: 'lib/hello.ts', content: 'export const hello: string = "hi"' }],
  env: { NAME: 'é' },
  timeout: 10,
});
equal([ran.stdout, ran.stderr, ran.exitCode, ran.filesWritten], ['hi é /workspace\n', 'e\n', 3, ['lib/hello.ts']]);
equal((await client.execute({ sessionId, command: 'pwd', workingDir: 'lib' })).stdout, '/workspace/lib\n');
const late = await client.execute({ sessionId, code: 'await Bun.sleep(60_000)', timeout: 1 });
equal([late.timedOut, late.exitCode, late.reason], [true, 124, 'timeout']);
const long = await client.execute({ sessionId, code: 'console.log("read as a stream")', timeout: 90 });
equal([long.stdout, long.exitCode], ['read as a stream\n', 0]);
const { state, ...again } = await client.execution.get({ sessionId, executionId: long.executionId });
equal([state, again], ['exited', long]);

const events: ExecutionEvent[] = [];
for await (const event of client.executeStream({ sessionId, code: 'console.log("a"); await Bun.sleep(1500); console.error("b")' })) events.push(event);
equal(
  events.map((e) => (e.type === 'result' ? [e.type, e.result.exitCode] : [e.type, e.data, e.lastEventId, typeof e.executionId])),
  [['stdout', 'a\n', '2', 'string'], ['stderr', 'b\n', '4', 'string'], ['result', 0]],
);

// A stream that is left, and read again from where it was.
let left: Exclude<ExecutionEvent, { type: 'result' }> | undefined;
for await (const event of client.executeStream({ sessionId, code: `console.log('one'); while (!(await Bun.file('go').exists())) await Bun.sleep(10); console.log('two')` })) {
  if (event.type !== 'result') left = event;
  break;
}
ok(left?.executionId);
equal((await client.execution.get({ sessionId, executionId: left.executionId })).state, 'running');
await client.files.write({ sessionId, path: 'go', content: '' });
let rest = '';
let result: ExecutionResult | undefined;
for await (const event of client.execution.output({ sessionId, executionId: left.executionId, lastEventId: left.lastEventId })) {
  if (event.type === 'result') result = event.result;
  else rest += event.data;
}
equal([rest, result?.stdout], ['two\n', 'one\ntwo\n']);

// A server ends its stream, goes on, and is killed.
const server: ExecutionEvent[] = [];
for await (const event of client.executeStream({ sessionId, code: `Bun.serve({ port: 8080, fetch: () => new Response('hello') }); console.log('up')` })) server.push(event);
const last = server.at(-1);
ok(last?.type === 'result' && last.result.background);
equal(await visit(session.previewUrl), 'hello');
const { executionId, pid } = last.result;
const one = await client.processes.list({ sessionId });
equal([one.length, one[0]?.pid, one[0]?.ports], [1, pid, [8080]]);
const answered: ExecutionEvent[] = [];
for await (const event of client.execution.output({ sessionId, executionId, until: 'answer' })) answered.push(event);
equal(answered.map((e) => e.type), ['stdout', 'result']);
equal(await client.execution.kill({ sessionId, pid: 99_999 }), { killed: 0, pids: [] });
equal(await client.execution.kill({ sessionId, pid }), { killed: 1, pids: [pid] });
equal(await client.processes.list({ sessionId }), []);

// Files.
const every = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 31) % 256);
equal(await client.files.write({ sessionId, path: 'dir/bytes', content: every }), { path: 'dir/bytes', size: every.length });
equal(await client.files.read({ sessionId, path: '/workspace/dir/bytes', encoding: 'bytes' }), every);
equal(await client.files.write({ sessionId, path: 'dir/ä', content: '\ufeffö\0\u2028' }), { path: 'dir/ä', size: 9 });
equal(await client.files.read({ sessionId, path: 'dir/ä' }), '\ufeffö\0\u2028');
const page = await client.files.list({ sessionId, path: 'dir', limit: 1, offset: 1 });
equal([page.map((f) => [f.path, f.type, f.size]), page.total], [[['dir/ä', 'file', 9]], 2]);
equal(await client.files.delete({ sessionId, path: 'dir', recursive: true }), { deleted: true, path: 'dir' });

// Sleep and wake.
equal(await client.sessions.sleep({ sessionId, state: 'idle' }), { id: sessionId, state: 'idle' });
equal(await client.sessions.sleep({ sessionId, state: 'deep-sleep' }), { id: sessionId, state: 'deep-sleep' });
equal((await client.sessions.info({ sessionId })).state, 'deep-sleep');
equal(await client.files.read({ sessionId, path: 'lib/hello.ts' }), 'export const hello: string = "hi"');

// Errors.
const file = await client.files.read({ sessionId, path: 'nowhere' }).catch((error: unknown) => error);
ok(file instanceof BuntimeError && file instanceof Error);
equal([file.name, file.code, file.status, file.retryAfter], ['BuntimeError', 'file_not_found', 404, undefined]);
await rejects(client.files.write({ sessionId, path: '../x', content: '' }), { code: 'invalid_request', status: 400, details: { field: 'path' } });
await rejects(new Buntime({ apiKey: 'btk_wrong' }).sessions.list(), { code: 'unauthorized', status: 401 });
const memory = { sessionId, code: `const all = []; for (;;) all.push(Buffer.alloc(50 << 20, 1))` };
const streamed = async () => {
  for await (const event of client.executeStream(memory)) void event;
};
for (const run of [() => client.execute(memory), streamed]) {
  await rejects(run(), (error) => error instanceof BuntimeError && error.status === 507 && error.code === 'memory_limit_exceeded' && error.details?.['result'] !== undefined);
}

// Time and signals.
const why = new Error('enough');
await rejects(client.execute({ sessionId, code: 'await Bun.sleep(20_000)' }, { signal: AbortSignal.timeout(100) }), { name: 'TimeoutError' });
await rejects(client.sessions.list({}, { signal: AbortSignal.abort(why) }), why);

equal(await client.sessions.delete({ sessionId }), { id: sessionId, deleted: true });
await rejects(client.sessions.delete({ sessionId }), { code: 'session_not_found', status: 404 });
await rejects(client.execute({ sessionId, code: '1' }), { code: 'session_not_found', status: 404 });
