// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package mcp serves Buntime's sessions to models, by the Model Context Protocol: as a
// program that an agent starts (ServeStdio), and at the front-ends (Handler).
//
// What a tool cannot do it says as a result, which a model reads: what happened, why,
// and what to do. Calls that name no session use that of their conversation, which is
// made when it is first needed:
//
//   - on stdio the conversation is the connection;
//   - over HTTP it is what the Mcp-Session-Id names. The front-ends keep nothing of it:
//     the Buntime session has it in its metadata, and is created with an Idempotency-Key
//     that is made of it, so that any front-end finds the same one;
//   - a client that speaks a protocol without sessions (2026-07-28 and later) has no
//     conversation: a session is made for the call, and the result tells its id.
//
// A call that the client cancels has its execution killed. A connection that breaks
// cancels nothing, as with the API, but in those later protocols, where that is how a
// client cancels.
package mcp
