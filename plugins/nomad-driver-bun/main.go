// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Nomad-driver-bun is Nomad's task driver "bun". Nomad starts it; it serves
// nothing when started by hand.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/agent"
)

// init keeps the first thread for main: Go never ends it, so that a goroutine
// which gives its thread up in another namespace must not be on it.
func init() { runtime.LockOSThread() }

func main() {
	// After a Nomad agent was killed nobody reads our log, and Go dies of
	// a write to such a standard error. We are to outlive that agent; the next
	// one finds us again. Notify and not Ignore: an ignored signal would be
	// ignored by all children too.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)

	var d *driver.Driver
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
		d = driver.New(ctx, logger, agent.Open)
		return d
	})
	if err := d.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
