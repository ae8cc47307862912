// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

/** A server-sent event. */
export interface ServerEvent {
  name: string;
  id?: string;
  data: string;
}

/**
 * Reads the server-sent events of a body. An event that breaks off is none.
 * `alive` is called with each piece that comes, comments included.
 */
export async function* serverEvents(body: ReadableStream<Uint8Array>, alive: () => void): AsyncGenerator<ServerEvent, void> {
  let event: Partial<ServerEvent> = {};
  for await (const line of lines(body, alive)) {
    if (line === '') {
      if (event.data !== undefined) yield { name: 'message', ...event, data: event.data };
      event = {};
      continue;
    }
    const colon = line.indexOf(':');
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? '' : line.slice(colon + (line[colon + 1] === ' ' ? 2 : 1));
    if (field === 'event') event.name = value;
    else if (field === 'id') event.id = value;
    else if (field === 'data') event.data = event.data === undefined ? value : `${event.data}\n${value}`;
  }
}

/** Lines, without their ends. Long ones come in many pieces, which are put together once. */
async function* lines(body: ReadableStream<Uint8Array>, alive: () => void): AsyncGenerator<string, void> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let begun: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const parts = decoder.decode(value, { stream: true }).split('\n');
      for (const part of parts.slice(0, -1)) {
        const line = begun.join('') + part;
        begun = [];
        yield line.endsWith('\r') ? line.slice(0, -1) : line;
      }
      begun.push(parts[parts.length - 1] ?? '');
    }
  } finally {
    // The connection may be gone already, which is what is wanted.
    reader.cancel().catch(() => undefined);
  }
}
