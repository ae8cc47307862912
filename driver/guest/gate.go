// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import _ "embed"

// Gate is the source of the module that holds a runner back until it has code.
//
//go:embed gate.ts
var Gate string

// GatePath is where it lies in a sandbox.
const GatePath = "/run/buntime/gate.ts"

// gateFD is the gate's descriptor to init; gate.ts has it too. It is this high so
// that the numbers of the descriptors that a program opens are those of plain
// `bun run`, and no higher because the kernel's first table has 64 places: a
// process with threads waits for a grace period of RCU, 15 ms, when it grows.
const gateFD = 63

// What the gate says.
const (
	gateReached   = 'R'
	gateEvaluated = 'E'
	gateExiting   = 'X'
)
