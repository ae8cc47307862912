// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { CallOptions } from './options.js';
import type { components } from './openapi.js';
import { paged } from './page.js';
import { json, type Transport } from './transport.js';
import type {
  ArchiveParams,
  DeleteFileParams,
  FileEntry,
  FileParams,
  ListFilesParams,
  Page,
  UnpackedArchive,
  UnpackParams,
  WriteFileParams,
  WrittenFile,
} from './types.js';
import type { Watch } from './watch.js';

type Wire = components['schemas'];

const tar = 'application/x-tar';

/** In milliseconds: the server's time for an archive, and a little more. */
const archiveTime = 610_000;

/** Files of sessions' workspaces. */
export class Files {
  constructor(private readonly transport: Transport) {}

  /** Lists one directory, sorted by path. */
  async list(params: ListFilesParams, options?: CallOptions): Promise<Page<FileEntry>> {
    const { sessionId, path, limit, offset } = params;
    return this.transport.call(
      { method: 'GET', path: '/files/list', query: { sessionId, path, limit, offset }, repeat: 'always', read: paged((w: Wire['Files']) => w.files) },
      options,
    );
  }

  /** Writes a file in one step, with the directories above it. */
  async write(params: WriteFileParams, options?: CallOptions): Promise<WrittenFile> {
    const { content, ...rest } = params;
    const body: Wire['WriteRequest'] = typeof content === 'string' ? { ...rest, content } : { ...rest, content: base64(content), encoding: 'base64' };
    return this.transport.call({ method: 'POST', path: '/files/write', body, repeat: 'always', read: json<WrittenFile> }, options);
  }

  /** Reads a file: as text, or with `encoding: 'bytes'` as it is. */
  async read(params: FileParams & { encoding?: 'utf8' }, options?: CallOptions): Promise<string>;
  async read(params: FileParams & { encoding: 'bytes' }, options?: CallOptions): Promise<Uint8Array>;
  async read(params: FileParams & { encoding?: 'utf8' | 'bytes' }, options?: CallOptions): Promise<string | Uint8Array> {
    const { sessionId, path, encoding } = params;
    const content = await this.transport.call({ method: 'GET', path: '/files/read', query: { sessionId, path }, repeat: 'always', read: bytes }, options);
    return encoding === 'bytes' ? content : new TextDecoder('utf-8', { ignoreBOM: true }).decode(content);
  }

  /** Reads a directory as a tar archive. What is in it was made by the session: do not trust its names. */
  async archive(params: ArchiveParams, options?: CallOptions): Promise<Uint8Array> {
    const { sessionId, path } = params;
    const headers = { Accept: tar };
    return this.transport.call({ method: 'GET', path: '/files/archive', query: { sessionId, path }, headers, repeat: 'always', atLeast: archiveTime, read: bytes }, options);
  }

  /** Unpacks a tar archive into a directory, which is made if it is not there. */
  async unpack(params: UnpackParams, options?: CallOptions): Promise<UnpackedArchive> {
    const { sessionId, path, archive } = params;
    const headers = { 'Content-Type': tar };
    return this.transport.call(
      { method: 'PUT', path: '/files/archive', query: { sessionId, path }, headers, body: archive, repeat: 'always', atLeast: archiveTime, read: json<UnpackedArchive> },
      options,
    );
  }

  /** Deletes a file or directory. */
  async delete(params: DeleteFileParams, options?: CallOptions): Promise<{ deleted: boolean; path: string }> {
    const { sessionId, path, recursive } = params;
    const gone = { code: 'file_not_found', answer: { deleted: true, path } };
    return this.transport.call(
      { method: 'DELETE', path: '/files', query: { sessionId, path, recursive }, repeat: 'always', gone, read: json<Wire['Removed']> },
      options,
    );
  }
}

async function bytes(response: Response, watch: Watch): Promise<Uint8Array> {
  const content = new Uint8Array(await response.arrayBuffer());
  watch.end();
  return content;
}

function base64(content: Uint8Array): string {
  const piece = 0x8000; // as many arguments as every engine takes
  const pieces: string[] = [];
  for (let i = 0; i < content.length; i += piece) pieces.push(String.fromCharCode(...content.subarray(i, i + piece)));
  return btoa(pieces.join(''));
}
