// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command buntime-restorer serves the workspaces that are in use before all of them is
// there. The driver plugin starts it; it is of no use by hand.
package main

import (
	"fmt"
	"os"

	"github.com/buntime/buntime/driver/restorer"
	"github.com/buntime/buntime/driver/sandbox/fuse"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: buntime-restorer check | <state directory>")
		os.Exit(2)
	}
	do := restorer.Run
	if os.Args[1] == "check" { // and no absolute path
		do = func(string) error { return fuse.Supported() }
	}
	if err := do(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "buntime-restorer:", err)
		os.Exit(1)
	}
}
