// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

/** The two streams of an execution. */
export type StreamName = 'stdout' | 'stderr';

/**
 * Where a reader of an execution's output is, so that every piece comes once
 * over any number of connections.
 *
 * The id of an event is a byte offset in both streams together: everything
 * before it has been sent, nothing behind it. An event has none while the other
 * stream has a character half printed. So what came since the last id comes
 * again on the next connection, and is dropped there.
 */
export class Position {
  /** What to send as Last-Event-ID. */
  lastEventId: string;
  /** How much of each stream was delivered that lies behind lastEventId, in UTF-16 units. */
  private beyond: Record<StreamName, number> = { stdout: 0, stderr: 0 };
  /** How much of that this connection has yet to repeat. */
  private repeated: Record<StreamName, number> = { stdout: 0, stderr: 0 };

  constructor(lastEventId = '0') {
    this.lastEventId = lastEventId;
  }

  /** To be called before the first event of each further connection. */
  again(): void {
    this.repeated = { ...this.beyond };
  }

  /** Takes an event's data and returns what of it is new. */
  take(stream: StreamName, data: string, id: string | undefined): string {
    const old = Math.min(this.repeated[stream], data.length);
    this.repeated[stream] -= old;
    if (id !== undefined) {
      this.lastEventId = id;
      this.beyond = { ...this.repeated };
    } else {
      this.beyond[stream] += data.length - old;
    }
    return data.slice(old);
  }
}
