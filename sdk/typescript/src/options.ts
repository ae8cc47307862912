// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { BuntimeError } from './errors.js';

/** Options of a client. */
export interface BuntimeOptions {
  /** An API key, `btk_…`. Default: the environment's `BUNTIME_API_KEY`. */
  apiKey?: string | undefined;
  /** Where the API is. Default: the environment's `BUNTIME_BASE_URL`. */
  baseUrl?: string | undefined;
  /** In milliseconds, for each try of a call; executions have their own time and some more. Default: 30000. */
  timeout?: number | undefined;
  /** How often a call is tried again. Default: 2. */
  maxRetries?: number | undefined;
  /** In milliseconds, before the first further try; it doubles. What the server says in Retry-After counts more. Default: 1000. */
  retryDelay?: number | undefined;
  /** Told before each further try, of which `attempt` is the number, from 1. */
  onRetry?: ((error: BuntimeError, attempt: number) => void) | undefined;
}

/** Options of one call. */
export interface CallOptions {
  /** Ends the call, whose error is the signal's reason. An execution goes on without it. */
  signal?: AbortSignal | undefined;
  /** Instead of the client's. */
  timeout?: number | undefined;
  /** Instead of the client's. */
  maxRetries?: number | undefined;
}

/** Options with what was left out. */
export interface Settings {
  apiKey: string;
  baseUrl: string;
  timeout: number;
  maxRetries: number;
  retryDelay: number;
  onRetry: (error: BuntimeError, attempt: number) => void;
}

/** Completes and checks a client's options. */
export function settle(options: BuntimeOptions): Settings {
  const apiKey = options.apiKey ?? env('BUNTIME_API_KEY');
  const baseUrl = options.baseUrl ?? env('BUNTIME_BASE_URL');
  if (!apiKey) throw missing('apiKey', 'BUNTIME_API_KEY');
  if (!baseUrl) throw missing('baseUrl', 'BUNTIME_BASE_URL');
  if (!/^https?:\/\//.test(baseUrl) || !URL.canParse(baseUrl)) throw wrong('baseUrl', `${baseUrl} is no http or https URL`);
  const { timeout = 30_000, maxRetries = 2, retryDelay = 1_000, onRetry = () => undefined } = options;
  for (const [name, value] of Object.entries({ timeout, maxRetries, retryDelay })) {
    if (!(value >= 0)) throw wrong(name, `${name} is ${value}, which is no number from 0 on`);
  }
  return { apiKey, baseUrl: baseUrl.replace(/\/+$/, ''), timeout, maxRetries, retryDelay, onRetry };
}

// Types of Node's are not a part of this package.
declare const process: { env: Record<string, string | undefined> } | undefined;

function env(name: string): string | undefined {
  return typeof process === 'undefined' ? undefined : process.env[name];
}

function missing(option: string, variable: string): BuntimeError {
  return wrong(option, `${option} is missing: pass it, or set ${variable}`);
}

function wrong(option: string, message: string): BuntimeError {
  return new BuntimeError('invalid_request', message, 0, { details: { field: option } });
}
