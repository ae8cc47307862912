// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { CallOptions } from './options.js';
import type { components } from './openapi.js';
import { json, type Transport } from './transport.js';
import type { Process, SessionParams } from './types.js';

/** Processes of sessions. */
export class Processes {
  constructor(private readonly transport: Transport) {}

  /** Lists what runs. */
  async list({ sessionId }: SessionParams, options?: CallOptions): Promise<Process[]> {
    const { processes } = await this.transport.call(
      { method: 'GET', path: '/processes', query: { sessionId }, repeat: 'always', read: json<components['schemas']['Processes']> },
      options,
    );
    return processes;
  }
}
