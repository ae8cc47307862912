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
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/agent"
	"github.com/buntime/buntime/driver/tracing"
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
	untrace := func(context.Context) error { return nil }
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
		stop, err := tracing.Start(ctx, "buntime-node", func(err error) { logger.Warn("traces cannot be sent", "error", err) })
		if err != nil {
			logger.Error("there will be no traces", "error", err)
		} else {
			untrace = stop
		}
		d = driver.New(ctx, logger, agent.Open)
		return d
	})
	err := d.Close()
	ctx, cancel := context.WithTimeout(context.Background(), traceTimeout)
	defer cancel()
	_ = untrace(ctx) // there is nobody to tell
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// traceTimeout bounds the sending of the last traces.
const traceTimeout = 3 * time.Second
