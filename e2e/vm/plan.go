// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package vm runs tests of the driver in a virtual machine with cgroup v2 and
// nothing else, on Debian's own kernel. The machine that develops Buntime may
// have cgroup v1, and has one kernel only.
package vm

// Plan is what the machine's init is to run.
type Plan struct {
	Runs []Run `json:"runs"`
}

// Run is a compiled test of one package.
type Run struct {
	// Package is a path from the root of the work tree. The binary lies in that
	// directory below Tree, and runs there.
	Package string   `json:"package"`
	Args    []string `json:"args"`
}

const (
	// Tree is the work tree in the machine, as far as the tests need it.
	Tree = "/buntime"
	// Binary is the name of a compiled test in the directory of its package.
	Binary = "vm.test"
	// PlanFile is the Plan, below Tree.
	PlanFile = "plan.json"
	// Inside is the variable that tells tests that the machine is theirs alone.
	Inside = "BUNTIME_TEST_VM"
	// Port is where the tests' output comes out of the machine: its second
	// serial port. The kernel has the first to itself.
	Port = "/dev/ttyS1"

	// Up is the first line on Port, and tells that the machine has booted.
	Up = "\x01up "
	// Begin and a package is the line before the output of a run.
	Begin = "\x01begin "
	// End and an exit code is the line after it.
	End = "\x01end "
	// Down is the last line; an error may follow in it.
	Down = "\x01down "
)
