// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { BuntimeError } from './errors.js';

/**
 * Whether a call may be made a second time:
 * - always: to do it twice is to do it once.
 * - unsent: only if nothing of it can have been done.
 * - keyed: it runs code and carries an Idempotency-Key. It is as 'always' once
 *   the server has shown that it heeds such keys, and as 'unsent' until then.
 */
export type Repeat = 'always' | 'unsent' | 'keyed';

/**
 * Whether to try again after an error. What must not be done twice is sent again
 * in three cases only: nobody has accepted the connection, the server has refused
 * the request for its rate, which it does before it looks at it, or it says itself
 * that nothing was done. After a broken connection, a time-out or any other 5xx it
 * is not.
 *
 * A server that heeds keys echoes the Idempotency-Key header of a POST /execute in
 * its answer, which widens this for executions: see Transport.once.
 */
export function mayRepeat(repeat: Repeat, heedsKeys: boolean, error: BuntimeError): boolean {
  if (notDone(error)) return true;
  return (repeat === 'always' || (repeat === 'keyed' && heedsKeys)) && passing(error);
}

/** Whether it is certain that the server has done nothing, and may do it later. */
export function notDone(error: BuntimeError): boolean {
  if (error.code === 'connection_error') return unsent.has(systemCode(error.cause));
  if (error.code === 'service_unavailable' && error.details?.done === 'no') return true;
  return error.code === 'rate_limit_exceeded' && error.retryAfter !== undefined;
}

/** Whether the same may go well a moment later. 429 without Retry-After is a limit that time does not lift. */
function passing(error: BuntimeError): boolean {
  switch (error.status) {
    case 0:
      return error.code === 'connection_error' || error.code === 'client_timeout';
    case 429:
      return error.retryAfter !== undefined;
    case 500:
    case 502:
    case 503:
    case 504:
      return true;
  }
  return false;
}

/** Codes of errors that come before there is a connection: Node's, and those of Bun before 1.3. */
const unsent = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'UND_ERR_CONNECT_TIMEOUT', 'ConnectionRefused', 'FailedToOpenSocket']);

/** The system's code of fetch's error: Bun has it there, Node in the cause. */
function systemCode(error: unknown): string {
  for (let e = error, depth = 0; e instanceof Error && depth < 4; e = e.cause, depth++) {
    if ('code' in e && typeof e.code === 'string') return e.code;
  }
  return '';
}

/** In milliseconds: how long to wait before further try number `attempt`. */
export function delay(error: BuntimeError, attempt: number, first: number): number {
  return error.retryAfter !== undefined ? error.retryAfter * 1000 : first * 2 ** (attempt - 1);
}

/** Waits, or throws the signal's reason. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort);
      resolve();
    }, milliseconds);
    if (signal?.aborted) abort();
    else signal?.addEventListener('abort', abort, { once: true });
  });
}
