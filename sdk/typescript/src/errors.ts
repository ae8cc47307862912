// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { components } from './openapi.js';

/**
 * What went wrong. The first three are the client's own, with status 0 where no
 * answer came; all others are the API's.
 */
export type ErrorCode =
  | 'connection_error'
  | 'client_timeout'
  | 'invalid_response'
  | 'invalid_request'
  | 'unauthorized'
  | 'forbidden'
  | 'session_not_found'
  | 'file_not_found'
  | 'execution_not_found'
  | 'not_found'
  | 'method_not_allowed'
  | 'execution_timeout'
  | 'request_timeout'
  | 'session_busy'
  | 'idempotency_conflict'
  | 'file_too_large'
  | 'unsupported_media_type'
  | 'rate_limit_exceeded'
  | 'session_limit_exceeded'
  | 'internal_error'
  | 'service_unavailable'
  | 'memory_limit_exceeded'
  | 'disk_full'
  // Codes to come, without losing the completion of those above.
  | (string & Record<never, never>);

/** Every error of the client, but for the reason of an aborted signal. */
export class BuntimeError extends Error {
  override readonly name = 'BuntimeError';
  readonly code: ErrorCode;
  /** The HTTP status; 0 where no answer came. */
  readonly status: number;
  /** More about it: `field` names the input that was refused, `result` is what an execution had done. */
  readonly details?: Record<string, unknown>;
  /** In seconds: when to try again. */
  readonly retryAfter?: number;

  constructor(
    code: ErrorCode,
    message: string,
    status: number,
    more: { details?: Record<string, unknown> | undefined; retryAfter?: number | undefined; cause?: unknown } = {},
  ) {
    super(message, more.cause === undefined ? undefined : { cause: more.cause });
    this.code = code;
    this.status = status;
    if (more.details !== undefined) this.details = more.details;
    if (more.retryAfter !== undefined) this.retryAfter = more.retryAfter;
  }
}

/** The error about an input that is not worth sending. */
export function invalid(field: string, message: string): BuntimeError {
  return new BuntimeError('invalid_request', message, 0, { details: { field } });
}

/** The error of an answer that is no success. */
export function fromAnswer(status: number, headers: Headers, text: string): BuntimeError {
  const retryAfter = seconds(headers.get('Retry-After'));
  const error = envelope(text);
  if (error) return new BuntimeError(error.code, error.message, status, { details: error.details, retryAfter });
  // Somebody on the way has answered.
  return new BuntimeError('invalid_response', `status ${status} without an error of the API: ${text.slice(0, 200)}`, status, { retryAfter });
}

/** The error of a stream's error event, which has no status of its own. */
export function fromEvent(text: string): BuntimeError {
  const error = envelope(text);
  if (error) return new BuntimeError(error.code, error.message, statuses[error.code] ?? 500, { details: error.details });
  return new BuntimeError('invalid_response', `error event without an error of the API: ${text.slice(0, 200)}`, 200);
}

/** Reads JSON of an answer. */
export function parse<T>(text: string, status: number): T {
  try {
    return JSON.parse(text) as T;
  } catch (cause) {
    throw new BuntimeError('invalid_response', `answer is no JSON: ${text.slice(0, 200)}`, status, { cause });
  }
}

/** What can end an execution after its answer has begun. */
const statuses: Record<string, number> = {
  execution_not_found: 404,
  execution_timeout: 408,
  service_unavailable: 503,
  memory_limit_exceeded: 507,
  disk_full: 507,
};

function envelope(text: string): components['schemas']['Error'] | undefined {
  try {
    const { error } = JSON.parse(text) as components['schemas']['Failure'];
    return typeof error.code === 'string' && typeof error.message === 'string' ? error : undefined;
  } catch {
    return undefined;
  }
}

/** Retry-After in seconds: a number, or as proxies may write it, a date. */
function seconds(header: string | null): number | undefined {
  if (header === null) return undefined;
  const n = Number(header);
  const value = Number.isNaN(n) ? Math.ceil((Date.parse(header) - Date.now()) / 1000) : n;
  return Number.isNaN(value) ? undefined : Math.max(0, value);
}
