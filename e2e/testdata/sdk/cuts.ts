// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Streams over connections that break after some thousand bytes.
import { Buntime } from 'buntime.sh';
import { equal, ok, watched } from './check.js';

const session = await watched(new Buntime()).sessions.create();
let cuts = 0;
const client = new Buntime({ baseUrl: process.env['BUNTIME_BAD_URL'], maxRetries: 100, retryDelay: 5, onRetry: () => cuts++ });

// Each character is cut in pieces, and by the other stream's.
const program = `
  const out = Buffer.from('añ€😀|'.repeat(400)), err = Buffer.from('😀z'.repeat(300));
  let o = 0, e = 0;
  while (o < out.length || e < err.length) {
    await Bun.write(Bun.stdout, out.subarray(o, o += 7));
    await Bun.write(Bun.stderr, err.subarray(e, e += 3));
    if (o % 70 === 0) await Bun.sleep(2);
  }
`;

async function check(ends: string): Promise<void> {
  const seen = { stdout: '', stderr: '', results: 0 };
  for await (const event of client.executeStream({ sessionId: session.id, code: program + ends })) {
    if (event.type !== 'result') seen[event.type] += event.data;
    else {
      seen.results++;
      equal(event.result.exitCode, 0);
    }
  }
  equal(seen, { stdout: 'añ€😀|'.repeat(400), stderr: '😀z'.repeat(300), results: 1 });
}

await check('');
ok(cuts > 3, `the connection was cut ${cuts} times`);
await check(`Bun.serve({ port: 8080, fetch: () => new Response('hello') })`);
console.log('cuts', cuts);
