// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

import type { components } from './openapi.js';

type Wire = components['schemas'];

/** The client's `id` is the API's `sessionId`. */
type WithId<T extends { sessionId: string }> = Omit<T, 'sessionId'> & { id: string };

/** A session that was created. */
export type Session = WithId<Wire['Created']>;
/** What there is to know of a session. */
export type SessionInfo = WithId<Wire['Session']>;
/** A session in a list. */
export type SessionSummary = WithId<Wire['Listed']>;
/** Memory and disk in MB, CPU in cores, time-out of executions in seconds. */
export type ResourceLimits = Wire['Limits'];
/** `idle`: its processes stand still. `deep-sleep`: it is its files, in the object store. */
export type SessionState = SessionSummary['state'];

/** What an execution came to. */
export type ExecutionResult = Omit<Wire['Execution'], 'state'>;
/** The same, of an execution that is looked up. */
export type ExecutionRecord = ExecutionResult & { state: NonNullable<Wire['Execution']['state']> };
/** What was killed. */
export type Killed = Wire['Killed'];
/** A running process. */
export type Process = Wire['Process'];
/** An entry of a directory. */
export type FileEntry = Wire['File'];
/** A file that was written. */
export type WrittenFile = Wire['Written'];
/** What an archive had. */
export type UnpackedArchive = Wire['Unpacked'];

/** A part of a list. `total` is how many there are on all pages. */
export type Page<T> = T[] & { total: number };

/** What names a session. */
export interface SessionParams {
  sessionId: string;
}

/** What to create. */
export interface CreateParams {
  /** Life in seconds, from 300 on. Default: 86400. */
  ttl?: number;
  /** Comes back as it is; at most 16 KB of JSON. */
  metadata?: Record<string, unknown>;
  /** What differs from the defaults: 1024 MB of memory and of disk, 0.25 cores, 30 seconds. */
  resourceLimits?: Partial<ResourceLimits>;
}

/** Which page of a list. */
export interface PageParams {
  /** At most 100. Default: 50. */
  limit?: number;
  /** Default: 0. */
  offset?: number;
}

/** Which sessions. */
export interface ListSessionsParams extends PageParams {
  state?: SessionState;
  /** Those whose metadata has these values. */
  metadata?: Record<string, string>;
}

/** How long to live. */
export interface ExtendParams extends SessionParams {
  /** In seconds from now, from 300 on. */
  ttl: number;
}

/** Which rest. */
export interface SleepParams extends SessionParams {
  state: Exclude<SessionState, 'active'>;
  /** Also while something runs, which ends it or stops it. */
  force?: boolean;
}

/** What to run: `code` or `command`. */
export type ExecuteParams = SessionParams & {
  /** Written first. */
  files?: { path: string; content: string }[];
  /** For this execution. */
  env?: Record<string, string>;
  /** In seconds. Default: the session's. */
  timeout?: number;
  /** In the workspace, which is the default. */
  workingDir?: string;
} & (
    | {
        /** A TypeScript or JavaScript module. */
        code: string;
        command?: never;
      }
    | {
        /** For a POSIX shell. */
        command: string;
        code?: never;
      }
  );

/** What comes of a stream: output as it is printed, and at last the result. */
export type ExecutionEvent =
  | {
      type: 'stdout' | 'stderr';
      data: string;
      executionId?: string;
      /** For `execution.output`, to go on from here. */
      lastEventId: string;
    }
  | { type: 'result'; result: ExecutionResult };

/** What names an execution. */
export interface ExecutionParams extends SessionParams {
  executionId: string;
}

/** What to read of an execution's output. */
export interface OutputParams extends ExecutionParams {
  /** Of the last event that came. Default: all from the start. */
  lastEventId?: string;
  /** What ends it: the answer of `execute`, or the end of its process. That differs for a server. Default: end. */
  until?: 'answer' | 'end';
}

/** What to kill. */
export interface KillParams extends SessionParams {
  /** Default: all. */
  pid?: number;
  /** By name or number. Default: SIGKILL, to the process and all that came of it. */
  signal?: string | number;
}

/** What to list. */
export interface ListFilesParams extends SessionParams, PageParams {
  /** A directory. Default: the workspace. */
  path?: string;
}

/** What names a file. */
export interface FileParams extends SessionParams {
  /** `a/b`, `./a/b` or `/workspace/a/b`. */
  path: string;
}

/** What to write. */
export interface WriteFileParams extends FileParams {
  content: string | Uint8Array;
  /** Of a text. Default: utf8. */
  encoding?: 'utf8' | 'base64';
}

/** What to delete. */
export interface DeleteFileParams extends FileParams {
  /** Whether a directory goes with what is in it. */
  recursive?: boolean;
}

/** Which directory. */
export interface ArchiveParams extends SessionParams {
  /** Default: the workspace. */
  path?: string;
}

/** What to unpack, and where. */
export interface UnpackParams extends ArchiveParams {
  /** A tar, not compressed. */
  archive: Uint8Array;
}
