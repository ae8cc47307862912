// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import { BuntimeError } from './errors.js';

/** Bounds the time of one try, and lets the caller's signal end it. */
export class Watch {
  private readonly controller = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;
  private late = false;
  private readonly abort = () => this.controller.abort(this.outer?.reason);

  /** `milliseconds` is the time, from now. */
  constructor(
    private milliseconds: number,
    private readonly outer?: AbortSignal,
  ) {
    if (outer?.aborted) this.abort();
    else outer?.addEventListener('abort', this.abort, { once: true });
    this.restart();
  }

  /** For what is to end with the time. */
  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** Begins the time anew, with another length if one is given. */
  restart(milliseconds = this.milliseconds): void {
    this.milliseconds = milliseconds;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.late = true;
      this.controller.abort();
    }, Math.min(milliseconds, longest));
  }

  /** Ends the watch. What is still under way goes with `cut`. */
  end(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener('abort', this.abort);
  }

  /** Ends the watch, and what it watches. */
  cut(): void {
    this.end();
    this.controller.abort();
  }

  /** What to throw for an error of what was watched. */
  explain(error: unknown, what: string): unknown {
    if (error instanceof BuntimeError) return error;
    if (this.outer?.aborted) return this.outer.reason;
    if (this.late) return new BuntimeError('client_timeout', `${what}: no answer within ${this.milliseconds} ms`, 0);
    const why = error instanceof Error ? (error.cause instanceof Error ? error.cause.message : error.message) : String(error);
    return new BuntimeError('connection_error', `${what}: ${why}`, 0, { cause: error });
  }
}

/** What timers take. */
const longest = 2 ** 31 - 1;
