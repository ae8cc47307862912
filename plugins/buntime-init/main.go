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
	"github.com/buntime/buntime/driver/guest/wire"
)

func main() {
	switch os.Args[0] {
	case guest.ShimName:
		guest.Shim()
	case wire.LaunchName:
		guest.Launch()
	}
	if err := guest.Init(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "buntime-init:", err)
		os.Exit(1)
	}
}
