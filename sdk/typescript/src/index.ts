// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

/** Client of Buntime, for Bun and Node: sessions that run code for agents. */
export { Buntime } from './client.js';
export { BuntimeError, type ErrorCode } from './errors.js';
export type { Execution } from './execution.js';
export type { Files } from './files.js';
export type { Processes } from './processes.js';
export type { Sessions } from './sessions.js';
export type { BuntimeOptions, CallOptions } from './options.js';
export type * from './types.js';
