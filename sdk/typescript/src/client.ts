// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { BuntimeError } from './errors.js';
import { Execution } from './execution.js';
import { Files } from './files.js';
import { settle, type BuntimeOptions, type CallOptions } from './options.js';
import type { components } from './openapi.js';
import { Processes } from './processes.js';
import { Sessions } from './sessions.js';
import { execute } from './stream.js';
import { json, Transport } from './transport.js';
import type { ExecuteParams, ExecutionEvent, ExecutionResult } from './types.js';

/** In seconds: an execution's time-out where nobody has said another. */
const usualTimeout = 30;

/** In seconds: what an answer may take beyond its execution. The server says by then itself that there is none. */
const slack = 20;

/**
 * In seconds: an execution that may take longer is read as a stream, which says
 * that it lives. Runtimes, and proxies on the way, give up a silent connection.
 */
const longest = 60;

/** A client of the API. */
export class Buntime {
  readonly sessions: Sessions;
  readonly execution: Execution;
  readonly files: Files;
  readonly processes: Processes;
  private readonly transport: Transport;
  private readonly timeouts = new Map<string, number>();

  constructor(options: BuntimeOptions = {}) {
    this.transport = new Transport(settle(options));
    this.sessions = new Sessions(this.transport, this.timeouts);
    this.execution = new Execution(this.transport);
    this.files = new Files(this.transport);
    this.processes = new Processes(this.transport);
  }

  /**
   * Runs code or a command and returns what it came to, whatever its exit code.
   * An execution that stays as a server returns once it listens.
   */
  async execute(params: ExecuteParams, options: CallOptions = {}): Promise<ExecutionResult> {
    const body: components['schemas']['ExecuteRequest'] = params;
    const seconds = this.seconds(params);
    if (seconds > longest) return result(this.executeStream(params, options));
    return this.transport.call({ method: 'POST', path: '/execute', body, repeat: 'keyed', atLeast: (seconds + slack) * 1000, read: json<ExecutionResult> }, options);
  }

  /**
   * Runs code or a command and yields its output as it is printed, each byte
   * once, also over connections that break; the last event is the result. To
   * stop reading does not stop the execution.
   */
  executeStream(params: ExecuteParams, options: CallOptions = {}): AsyncGenerator<ExecutionEvent, void> {
    return execute(this.transport, params, (this.seconds(params) + slack) * 1000, options);
  }

  /** The execution's time-out, as far as this client knows it. */
  private seconds(params: ExecuteParams): number {
    return params.timeout ?? this.timeouts.get(params.sessionId) ?? usualTimeout;
  }
}

async function result(events: AsyncIterable<ExecutionEvent>): Promise<ExecutionResult> {
  for await (const event of events) {
    if (event.type === 'result') return event.result;
  }
  throw new BuntimeError('invalid_response', 'events end without a result', 200);
}
