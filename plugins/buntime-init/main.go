// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command buntime-init is PID 1 of a sandbox. The driver plugin starts it; it is
// of no use by hand.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/buntime/buntime/driver/guest"
)

func main() {
	if os.Args[0] == guest.ShimName {
		guest.Shim()
	}
	if err := guest.Init(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "buntime-init:", err)
		os.Exit(1)
	}
}
