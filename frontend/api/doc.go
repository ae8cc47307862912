// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package api serves the sessions over HTTP.
//
// Routes, parameters and the OpenAPI document are huma's. Three things are
// ours because clients rely on them to the letter: bodies are decoded strictly
// and once (decode.go), every error has one envelope (errors.go), and what
// concerns the inside of a session is checked here, forwarded to its node and
// passed back as it comes (forward.go, relay.go).
package api
