// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Nomad-driver-bun is Nomad's task driver "bun". Nomad starts it; it serves
// nothing when started by hand.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/agent"
	"github.com/buntime/buntime/driver/owner"
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
		d = driver.New(ctx, logger, open)
		go endWithAgent(d, logger)
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

// owned is a Runtime that has its state directory for itself.
type owned struct {
	driver.Runtime
	lock io.Closer
}

func open(ctx context.Context, config *driver.Config, log hclog.Logger) (driver.Runtime, error) {
	lock, err := owner.Own(ctx, config.StateDir, log)
	if err != nil {
		return nil, err
	}
	r, err := agent.Open(ctx, config, log)
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return owned{r, lock}, nil
}

// Close implements driver.Runtime.
func (o owned) Close() error { return errors.Join(o.Runtime.Close(), o.lock.Close()) }

// endWithAgent ends this process once the agent that started it has ended, there is no other,
// and it has no tasks. An agent that ends while it starts its plugin leaves that behind, and
// the next one knows nothing of it; one with tasks it finds again.
func endWithAgent(d *driver.Driver, log hclog.Logger) {
	if err := owner.AwaitAgent(); err != nil {
		log.Warn("a process of the plugin that is left behind would stay", "error", err)
		return
	}
	for unneeded := 0; unneeded < 2; { // an agent may be away between two questions
		if unneeded++; d.Needed() {
			unneeded = 0
		}
		time.Sleep(unneededPause)
	}
	time.AfterFunc(closeTimeout, func() { os.Exit(1) })
	_ = d.Close() // there is nobody to tell
	os.Exit(0)
}

// unneededPause is between two looks whether this process is needed.
const unneededPause = 500 * time.Millisecond

// closeTimeout bounds what a process that nobody knows of does at its end.
const closeTimeout = 10 * time.Second

// traceTimeout bounds the sending of the last traces.
const traceTimeout = 3 * time.Second
