// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// All tools, by the official client, on one of both transports: tour.ts http|stdio.
import assert from 'node:assert/strict';

import { connect, fails, says, call, type Result } from './client.ts';

const kind = process.argv[2] as 'http' | 'stdio';
const { client, close } = await connect(kind);

async function tools() {
  const { tools } = await client.listTools();
  assert.deepEqual(tools.map((t) => t.name).sort(), [
    'execute_code', 'get_preview_url', 'kill_processes', 'list_files', 'read_file', 'run_command', 'session_info', 'write_file',
  ]);
  for (const t of tools) {
    assert.ok(t.description && t.description.length > 40, t.name);
    for (const [name, p] of Object.entries(t.inputSchema.properties ?? {})) assert.ok((p as { description?: string }).description, `${t.name} ${name}`);
  }
  assert.match(client.getInstructions() ?? '', /get_preview_url/);
}

// Two first calls at a time get one session.
async function oneSession(): Promise<string> {
  const first = await Promise.all([1, 2].map((n) => call(client, 'execute_code', { code: `console.log(${n})` })));
  const [a, b] = first.map((r) => r.structuredContent!.sessionId as string);
  assert.equal(a, b);
  assert.ok(first.some((r) => says(r).includes(`new session ${a}`)), says(first[0]!));
  console.log(`session ${a}`);
  return a!;
}

async function files() {
  assert.match(says(await call(client, 'write_file', { path: 'src/hello.ts', content: 'export const hello = "hi ñ";\n' })), /Wrote 30 bytes/);
  assert.match(says(await call(client, 'list_files', { path: 'src' })), /^src\/hello\.ts {2}30 bytes$/);
  assert.equal(says(await call(client, 'read_file', { path: 'src/hello.ts' })), 'export const hello = "hi ñ";\n');
  const part = await call(client, 'read_file', { path: 'src/hello.ts', offset: 13, length: 13 });
  assert.match(says(part), /^hello = "hi \n\[bytes 13 to 25 of 30; read on with offset 25\]$/); // ñ is not cut
  assert.equal((await call(client, 'read_file', { path: 'src/hello.ts', offset: 25 })).structuredContent!.content, 'ñ";\n');
  await fails(client, 'read_file', { path: 'src/hello.ts', offset: 1000 }, /ends before byte 1000[^]*What to do/);

  const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg==';
  await call(client, 'write_file', { path: 'dot.png', content: png, encoding: 'base64' });
  const seen = await call(client, 'read_file', { path: 'dot.png' });
  assert.deepEqual(seen.content[1], { type: 'image', mimeType: 'image/png', data: png });
  await call(client, 'write_file', { path: 'bytes', content: 'AP8A', encoding: 'base64' });
  await fails(client, 'read_file', { path: 'bytes' }, /no text[^]*What to do/);
}

async function runs() {
  const r = await call(client, 'execute_code', {
    code: `import { hello } from './src/hello.ts'; console.log(hello, process.env.NAME); console.error('e'); await Bun.write('out.txt', 'x'); process.exit(3)`,
    env: { NAME: 'Ada' },
  });
  assert.match(says(r), /^hi ñ Ada\n\[stderr\]\ne\n\[exit code 3, [^;]*; files written: out\.txt\]/);
  assert.equal(r.structuredContent!.exitCode, 3);
  assert.match(says(await call(client, 'run_command', { command: 'pwd; cat hello.ts | wc -c', workingDir: 'src' })), /^\/workspace\/src\n30\n\[exit code 0/);

  const long = await call(client, 'execute_code', { code: `console.log('begin' + 'x'.repeat(100000) + 'end')` });
  const text = says(long);
  assert.ok(text.length < 40_000 && text.startsWith('begin') && text.includes('end\n[exit code 0'), text.slice(-200));
  const [, left, path] = text.match(/(\d+) bytes are left out here; read_file (\S+) with offset/)!;
  assert.equal(Number(left), 100_009 - 30_000);
  const rest = await call(client, 'read_file', { path: path!, offset: 100_000 });
  assert.equal(says(rest), 'xxxxxend\n');
}

async function servers() {
  await fails(client, 'get_preview_url', {}, /Nothing listens on port 8080[^]*What to do: start the server first/);
  const started = await call(client, 'execute_code', { code: `Bun.serve({ port: 8080, fetch: () => new Response('hello from ' + process.pid) })` });
  const pid = started.structuredContent!.pid as number;
  assert.match(says(started), /keeps running in the background as pid \d+/);
  const url = says(await call(client, 'get_preview_url', {}));
  assert.equal(await (await fetch(url)).text(), `hello from ${pid}`);
  await fails(client, 'get_preview_url', { port: 3000 }, /what listens is on 8080[^]*3000-ses-/);
  const info = await call(client, 'session_info', {});
  assert.ok((info.structuredContent!.processes as { pid: number; ports: number[] }[]).some((p) => p.pid === pid && p.ports.includes(8080)), says(info));
  assert.match(says(await call(client, 'kill_processes', { pid })), /Ended 1/);
  assert.match(says(await call(client, 'kill_processes', {})), /Nothing runs/);
}

async function errors() {
  await fails(client, 'read_file', { path: 'nowhere' }, /file_not_found[^]*What to do: look with list_files/);
  await fails(client, 'read_file', { path: '../etc/passwd' }, /invalid_request[^]*What to do: correct path/);
  await fails(client, 'execute_code', {}, /code/);
  await fails(client, 'execute_code', { code: '1', timeout: 100_000 }, /timeout is from 1[^]*What to do: correct timeout/);
  await fails(client, 'execute_code', { code: `console.log('so far'); await Bun.sleep(60_000)`, timeout: 4 }, /so far[^]*\(timeout\)[^]*What to do: call again with a larger timeout/);
  await fails(client, 'execute_code', { code: `console.log('so far'); const all = []; for (;;) all.push(new Uint8Array(64 << 20).fill(1))` }, /memory_limit_exceeded[^]*What to do: work on less/);
  const fill = { command: 'fallocate -l 5G big || head -c 5G /dev/zero > big; ls big; rm -f big; exit 1', timeout: 120 };
  const full = await call(client, 'run_command', fill, { timeout: 150_000 });
  assert.match(says(full), /No space left[^]*Hint: the session's disk is full/);
  const missing = await call(client, 'execute_code', { code: `import 'buntime-there-is-no-such-package-0001'` });
  assert.match(says(missing), /Hint: a (package|file or package) was not found/);
  assert.match(says(await call(client, 'run_command', { command: 'nosuchcommand' })), /exit code 127[^]*Hint: the sandbox has no such command/);
  await fails(client, 'session_info', { sessionId: 'ses_00000000000000000000' }, /session_not_found[^]*leave it out/);
  await assert.rejects(client.callTool({ name: 'no_such_tool', arguments: {} }));
}

async function progress() {
  const told: string[] = [];
  let last = -1;
  await call(client, 'execute_code', { code: `for (const s of ['one', 'two', 'three']) { console.log(s); await Bun.sleep(1000) }` }, {
    onprogress: (p) => {
      assert.ok(p.progress > last);
      last = p.progress;
      told.push(p.message ?? '');
    },
  });
  assert.equal(told.join(''), 'one\ntwo\nthree\n');
  assert.ok(told.length >= 2, `${told.length}`); // a busy machine tells of two at a time
}

async function cancels() {
  const stop = new AbortController();
  const running = call(client, 'run_command', { command: 'echo here; sleep 25' }, {
    signal: stop.signal,
    onprogress: () => stop.abort(),
  });
  await assert.rejects(running);
  await idle();
}

// idle waits until nothing runs in the session.
async function idle() {
  for (const end = Date.now() + 15_000; ; await Bun.sleep(100)) {
    const info = await call(client, 'session_info', {});
    if ((info.structuredContent!.processes as unknown[]).length === 0) return;
    assert.ok(Date.now() < end, `still running: ${says(info)}`);
  }
}

async function accounts(session: string) {
  const other = await connect('http', process.env.BUNTIME_OTHER_KEY!);
  for (const [name, args] of Object.entries({
    execute_code: { code: '1' }, run_command: { command: 'ls' }, write_file: { path: 'a', content: '' }, read_file: { path: 'out.txt' },
    list_files: {}, get_preview_url: {}, kill_processes: {}, session_info: {},
  })) {
    await fails(other.client, name, { ...args, sessionId: session }, /session_not_found/);
  }
  await other.close();
}

await tools();
const session = await oneSession();
await files();
await runs();
await servers();
await Promise.all([errors(), progress()]);
await cancels();
if (kind === 'http') await accounts(session);
await close();
if (kind === 'stdio') {
  const gone = await fetch(`${process.env.BUNTIME_BASE_URL}/sessions/${session}`, { headers: { Authorization: `Bearer ${process.env.BUNTIME_API_KEY}` } });
  assert.equal(gone.status, 404); // it has ended with the connection
}
export type { Result };
