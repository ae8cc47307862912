// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package jobs holds the HCL of the jobs that the front-end registers, and
// some for operators to start from.
package jobs

import _ "embed"

// Session is the job of one session, to be stamped by the front-end.
//
//go:embed session.nomad.hcl
var Session string
