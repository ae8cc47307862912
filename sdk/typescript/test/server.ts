// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { after } from 'node:test';

import { Buntime, type BuntimeOptions } from '../src/index.js';

/** A request that the server got. */
export interface Got {
  method: string;
  path: string;
  headers: IncomingMessage['headers'];
  body: Record<string, unknown>;
  at: number;
}

/** Answers one request. */
export type Step = (res: ServerResponse, got: Got) => void;

/** An API that answers each request as the next step says, and the last one over again. */
export interface Fake {
  url: string;
  got: Got[];
  steps: Step[];
  close(): Promise<void>;
}

/** Starts a fake API, at a port if one is given. */
export async function fake(steps: Step[], port = 0): Promise<Fake> {
  const got: Got[] = [];
  const server = createServer((req, res) => {
    const pieces: Buffer[] = [];
    req.on('data', (piece: Buffer) => pieces.push(piece));
    req.on('end', () => {
      const text = Buffer.concat(pieces).toString();
      const body = text === '' ? {} : (JSON.parse(text) as Record<string, unknown>);
      const one: Got = { method: req.method ?? '', path: req.url ?? '', headers: req.headers, body, at: performance.now() };
      got.push(one);
      const step = api.steps[Math.min(got.length, api.steps.length) - 1];
      step?.(res, one);
    });
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  const close = () =>
    new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  after(close);
  const api: Fake = { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, got, steps, close };
  return api;
}

/** A client of a fake API that waits for hardly anything. */
export function clientOf(api: { url: string }, options: BuntimeOptions = {}): Buntime {
  return new Buntime({ apiKey: 'btk_test', baseUrl: api.url, retryDelay: 1, ...options });
}

/** Answers with JSON. */
export function says(body: unknown, status = 200, headers: Record<string, string> = {}): Step {
  return (res) => {
    res.writeHead(status, { 'Content-Type': 'application/json', ...headers });
    res.end(JSON.stringify(body));
  };
}

/** Answers with an error of the API. */
export function fails(status: number, code: string, headers: Record<string, string> = {}, details?: object): Step {
  return says({ error: { code, message: `it is ${code}`, ...(details && { details }) } }, status, headers);
}

/** Breaks the connection without an answer. */
export const cuts: Step = (res) => void res.socket?.destroy();

/** Never answers. */
export const hangs: Step = () => undefined;

/** Answers with the text of events, and then ends as told. */
export function streams(text: string, end: 'end' | 'cut' | 'hang' = 'end', executionId = 'exe_1'): Step {
  return (res) => {
    res.writeHead(200, { 'Content-Type': 'text/event-stream', 'X-Execution-Id': executionId });
    res.write(text, () => {
      if (end === 'end') res.end();
      // A moment later: Bun forgets what came when the connection breaks at once.
      if (end === 'cut') setTimeout(() => res.socket?.destroy(), 10);
    });
  };
}

/** An event as the API writes it. */
export function event(name: string, data: unknown, id?: number): string {
  return `event: ${name}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`;
}

/** A port at which nobody listens. */
export async function freePort(): Promise<number> {
  const api = await fake([]);
  await api.close();
  return Number(new URL(api.url).port);
}

/** What an execution came to. */
export const done = { stdout: '', stderr: '', exitCode: 0, executionId: 'exe_1' };
