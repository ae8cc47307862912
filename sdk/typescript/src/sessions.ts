// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { CallOptions } from './options.js';
import type { components } from './openapi.js';
import { paged } from './page.js';
import { json, segment, type Transport } from './transport.js';
import type { CreateParams, ExtendParams, ListSessionsParams, Page, Session, SessionInfo, SessionParams, SessionState, SessionSummary, SleepParams } from './types.js';

type Wire = components['schemas'];

/** In milliseconds: a workspace may go to the store first. */
const restTimeout = 130_000;

/** Sessions: isolated Bun sandboxes with files and processes that stay. */
export class Sessions {
  /** `timeouts` are those of sessions whose executions have other time-outs than usual, in seconds. */
  constructor(
    private readonly transport: Transport,
    private readonly timeouts: Map<string, number>,
  ) {}

  /**
   * Creates a session. Where the server does not heed Idempotency-Key, a try of
   * which no answer came may have made one more; it ends at its ttl.
   */
  async create(params: CreateParams = {}, options?: CallOptions): Promise<Session> {
    const body: Wire['CreateRequest'] = params;
    const created = withId(
      await this.transport.call({ method: 'POST', path: '/sessions/create', body, repeat: 'always', key: true, read: json<Wire['Created']> }, options),
    );
    if (params.resourceLimits?.timeout !== undefined) this.timeouts.set(created.id, created.resourceLimits.timeout);
    return created;
  }

  /** Looks at a session, which neither wakes it nor counts as activity. */
  async info({ sessionId }: SessionParams, options?: CallOptions): Promise<SessionInfo> {
    return withId(await this.transport.call({ method: 'GET', path: path(sessionId), repeat: 'always', read: json<Wire['Session']> }, options));
  }

  /** Lists sessions, newest first. */
  async list({ metadata = {}, ...query }: ListSessionsParams = {}, options?: CallOptions): Promise<Page<SessionSummary>> {
    const chosen = Object.fromEntries(Object.entries(metadata).map(([name, value]) => [`metadata.${name}`, value]));
    return this.transport.call(
      { method: 'GET', path: '/sessions', query: { ...query, ...chosen }, repeat: 'always', read: paged((w: Wire['Sessions']) => w.sessions.map(withId)) },
      options,
    );
  }

  /** Deletes a session, at once and for good. */
  async delete({ sessionId }: SessionParams, options?: CallOptions): Promise<{ deleted: boolean; id: string }> {
    const gone = { code: 'session_not_found', answer: { deleted: true, sessionId } };
    const deleted = await this.transport.call({ method: 'DELETE', path: path(sessionId), repeat: 'always', gone, read: json<Wire['Deleted']> }, options);
    this.timeouts.delete(sessionId);
    return withId(deleted);
  }

  /** Puts a session's end off to `ttl` seconds from now, unless it is later already. That wakes the session. */
  async extend({ sessionId, ...body }: ExtendParams, options?: CallOptions): Promise<{ id: string; expiresAt: string }> {
    const checked: Wire['ExtendRequest'] = body;
    return withId(
      await this.transport.call(
        { method: 'POST', path: `${path(sessionId)}/extend`, body: checked, repeat: 'always', atLeast: restTimeout, read: json<Wire['Extended']> },
        options,
      ),
    );
  }

  /** Puts a session to rest, and returns once it is there. */
  async sleep({ sessionId, ...body }: SleepParams, options?: CallOptions): Promise<{ id: string; state: SessionState }> {
    const checked: Wire['SleepRequest'] = body;
    return withId(
      await this.transport.call(
        { method: 'POST', path: `${path(sessionId)}/sleep`, body: checked, repeat: 'always', atLeast: restTimeout, read: json<Wire['Rested']> },
        options,
      ),
    );
  }
}

function path(sessionId: string): string {
  return `/sessions/${segment('sessionId', sessionId)}`;
}

function withId<T extends { sessionId: string }>({ sessionId, ...rest }: T): Omit<T, 'sessionId'> & { id: string } {
  return { id: sessionId, ...rest };
}
