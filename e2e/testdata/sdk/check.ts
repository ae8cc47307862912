// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// What the programs of TestSDK look at their results with.
import { get } from 'node:http';
import { Buntime, type ExecutionResult } from 'buntime.sh';

export { deepEqual as equal, ok, rejects } from 'node:assert/strict';

/** A client that keeps its results, and tells the test which sessions it made. */
export function watched(client: Buntime): Buntime & { results: ExecutionResult[]; made: string[] } {
  const results: ExecutionResult[] = [];
  const made: string[] = [];
  const execute = client.execute.bind(client);
  client.execute = async (...args) => {
    const result = await execute(...args);
    results.push(result);
    return result;
  };
  const create = client.sessions.create.bind(client.sessions);
  client.sessions.create = async (...args) => {
    const session = await create(...args);
    made.push(session.id);
    console.log('session', session.id);
    return session;
  };
  return Object.assign(client, { results, made });
}

/** Seconds between two times of the API. */
export function seconds(from: string, to: string): number {
  for (const time of [from, to]) {
    if (!/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/.test(time)) throw new Error(`${time} is no time of the API`);
  }
  return (Date.parse(to) - Date.parse(from)) / 1000;
}

/** What a preview says. Its name need not resolve here. */
export function visit(url: string): Promise<string> {
  const { host, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const req = get({ host: '127.0.0.1', port, headers: { Host: host } }, (res) => {
      let text = '';
      res.setEncoding('utf8');
      res.on('data', (piece) => (text += piece));
      res.on('end', () => resolve(text));
    });
    req.on('error', reject);
  });
}
