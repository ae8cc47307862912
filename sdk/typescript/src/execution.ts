// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { CallOptions } from './options.js';
import type { components } from './openapi.js';
import { output } from './stream.js';
import { json, segment, type Transport } from './transport.js';
import type { ExecutionEvent, ExecutionParams, ExecutionRecord, Killed, KillParams, OutputParams } from './types.js';

/** Executions that were begun. */
export class Execution {
  constructor(private readonly transport: Transport) {}

  /** Kills one process of a session, or all. */
  async kill(params: KillParams, options?: CallOptions): Promise<Killed> {
    const body: components['schemas']['KillRequest'] = params;
    // A program may count signals; SIGKILL comes once anyway.
    const repeat = params.signal === undefined ? 'always' : 'unsent';
    return this.transport.call({ method: 'POST', path: '/execution/kill', body, repeat, read: json<Killed> }, options);
  }

  /** Looks an execution up, also one that runs. */
  async get({ sessionId, executionId }: ExecutionParams, options?: CallOptions): Promise<ExecutionRecord> {
    return this.transport.call(
      { method: 'GET', path: `/executions/${segment('executionId', executionId)}`, query: { sessionId }, repeat: 'always', read: json<ExecutionRecord> },
      options,
    );
  }

  /** Reads the output of an execution from any point on, until it ends. */
  output(params: OutputParams, options: CallOptions = {}): AsyncGenerator<ExecutionEvent, void> {
    return output(this.transport, params, options);
  }
}
