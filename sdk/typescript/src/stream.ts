// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { BuntimeError, fromEvent, parse } from './errors.js';
import type { components } from './openapi.js';
import type { CallOptions } from './options.js';
import { Position } from './position.js';
import { serverEvents, type ServerEvent } from './sse.js';
import { segment, type Call, type Transport } from './transport.js';
import type { ExecuteParams, ExecutionEvent, ExecutionResult, OutputParams } from './types.js';
import type { Watch } from './watch.js';

/** An answer that is events. */
interface Connection {
  executionId: string | undefined;
  body: ReadableStream<Uint8Array>;
  watch: Watch;
}

/**
 * Runs code, and reads its output until it has its answer. When the connection
 * is cut, the execution goes on at the server, and so does this at the last byte
 * that has come.
 */
export async function* execute(
  transport: Transport,
  params: ExecuteParams,
  atLeast: number,
  options: CallOptions,
): AsyncGenerator<ExecutionEvent, void> {
  const body: components['schemas']['ExecuteRequest'] = { ...params, stream: true };
  const connection = await transport.call({ method: 'POST', path: '/execute', body, repeat: 'keyed', atLeast, read: open }, options);
  yield* follow(transport, connection, { sessionId: params.sessionId, until: 'answer' }, new Position(), options);
}

/** Reads an execution's output until it ends. */
export async function* output(transport: Transport, params: OutputParams, options: CallOptions): AsyncGenerator<ExecutionEvent, void> {
  const from = { sessionId: params.sessionId, until: params.until };
  const position = new Position(params.lastEventId);
  const connection = await transport.call(outputCall(params.executionId, from, position), options);
  yield* follow(transport, { ...connection, executionId: params.executionId }, from, position, options);
}

type From = { sessionId: string; until: 'answer' | 'end' | undefined };

function outputCall(executionId: string, from: From, position: Position): Call<Connection> {
  return {
    method: 'GET',
    path: `/executions/${segment('executionId', executionId)}/output`,
    query: from,
    headers: { 'Last-Event-ID': position.lastEventId },
    repeat: 'always',
    read: open,
  };
}

async function open(response: Response, watch: Watch): Promise<Connection> {
  if (!response.body || !response.headers.get('Content-Type')?.startsWith('text/event-stream')) {
    throw new BuntimeError('invalid_response', 'answer is no event stream', response.status);
  }
  return { executionId: response.headers.get('X-Execution-Id') ?? undefined, body: response.body, watch };
}

async function* follow(
  transport: Transport,
  connection: Connection,
  from: From,
  position: Position,
  options: CallOptions,
): AsyncGenerator<ExecutionEvent, void> {
  const { executionId } = connection;
  const most = options.maxRetries ?? transport.settings.maxRetries;
  let cuts = 0;
  for (;;) {
    try {
      for await (const event of read(connection, transport.silence)) {
        cuts = 0;
        const told = tell(event, position, executionId);
        if (told) yield told;
        if (told?.type === 'result') return;
      }
    } catch (error) {
      if (executionId === undefined || ++cuts > most || !cut(error)) throw error;
      await transport.wait(error, cuts, options.signal);
      connection = await transport.call(outputCall(executionId, from, position), options);
      position.again();
    }
  }
}

/** The events of one connection, which has to end with a result or an error. */
async function* read({ body, watch }: Connection, silence: number): AsyncGenerator<ServerEvent, void> {
  const what = 'read events';
  watch.restart(silence);
  try {
    for await (const event of serverEvents(body, () => watch.restart())) yield event;
    throw new BuntimeError('connection_error', `${what}: the connection ended before the result`, 0);
  } catch (error) {
    throw watch.explain(error, what);
  } finally {
    watch.cut();
  }
}

/** What the caller is told of an event, if anything. */
function tell(event: ServerEvent, position: Position, executionId: string | undefined): ExecutionEvent | undefined {
  switch (event.name) {
    case 'stdout':
    case 'stderr': {
      const { data } = parse<{ data: string }>(event.data, 200);
      const fresh = position.take(event.name, data, event.id);
      return fresh === '' ? undefined : { type: event.name, data: fresh, lastEventId: position.lastEventId, ...(executionId !== undefined && { executionId }) };
    }
    case 'result':
      return { type: 'result', result: parse<ExecutionResult>(event.data, 200) };
    case 'error':
      throw fromEvent(event.data);
  }
  return undefined; // of a newer server
}

/** Whether an error is that of a connection, here or behind the server, and not of the execution. */
function cut(error: unknown): error is BuntimeError {
  return error instanceof BuntimeError && ['connection_error', 'client_timeout', 'service_unavailable'].includes(error.code);
}
