// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// What the programs have in common.
import assert from 'node:assert/strict';

import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StdioClientTransport } from '@modelcontextprotocol/sdk/client/stdio.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';
import type { RequestOptions } from '@modelcontextprotocol/sdk/shared/protocol.js';
import type { CallToolResult } from '@modelcontextprotocol/sdk/types.js';

export type Result = CallToolResult;

/** A client of the system, and how to end the connection. */
export async function connect(kind: 'http' | 'stdio', key = process.env.BUNTIME_API_KEY!, fetch?: (url: string | URL, init?: RequestInit) => Promise<Response>) {
  const client = new Client({ name: 'buntime-e2e', version: '1' });
  if (kind === 'stdio') {
    await client.connect(
      new StdioClientTransport({
        command: process.env.BUNTIME_COMMAND!,
        args: ['mcp'],
        env: { BUNTIME_BASE_URL: process.env.BUNTIME_BASE_URL!, BUNTIME_API_KEY: key, HOME: '/nonexistent' },
      }),
    );
    return { client, close: () => client.close() };
  }
  const transport = new StreamableHTTPClientTransport(new URL(`${process.env.BUNTIME_BASE_URL}/mcp`), {
    requestInit: { headers: { Authorization: `Bearer ${key}` } },
    ...(fetch && { fetch }),
  });
  await client.connect(transport);
  return {
    client,
    transport,
    close: async () => {
      await transport.terminateSession();
      await client.close();
    },
  };
}

/** Calls a tool that has to do what it is told. */
export async function call(client: Client, name: string, args: Record<string, unknown>, options?: RequestOptions): Promise<Result> {
  const r = (await client.callTool({ name, arguments: args }, undefined, options)) as Result;
  assert.ok(!r.isError, `${name}: ${says(r)}`);
  return r;
}

/** Calls a tool that has to say why not. */
export async function fails(client: Client, name: string, args: Record<string, unknown>, why: RegExp): Promise<void> {
  const r = (await client.callTool({ name, arguments: args })) as Result;
  assert.ok(r.isError, `${name} ${JSON.stringify(args)}: no error: ${says(r)}`);
  assert.match(says(r), why);
}

export function says(r: Result): string {
  const [first] = r.content;
  assert.ok(first?.type === 'text');
  return first.text;
}
