// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command run is `make run`: it gets what is missing, starts the system on
// this machine, runs TypeScript in a first session, says how to go on, and
// ends everything when it is interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/buntime/buntime/e2e/stack"
)

// friendlyAddr is where the front-end listens, unless somebody else does.
const friendlyAddr = "127.0.0.1:8700"

// stopTimeout bounds the end: hundreds of sessions take some seconds.
const stopTimeout = 2 * time.Minute

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run() error {
	if os.Geteuid() != 0 {
		return errors.New("root is needed, for namespaces, cgroups and mounts; try `sudo make run`")
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	p := newProgress(os.Stdout)

	for _, target := range []string{"nomad", "consul", "bun", "rootfs", "build"} {
		err := p.step(target, func() (string, error) { return makeTarget(ctx, target) })
		if err != nil {
			return interrupted(ctx, err)
		}
	}
	var system *stack.Stack
	err := p.step("start", func() (_ string, err error) {
		var parts partTimes
		system, err = stack.Start(ctx, stack.Options{
			Listen: listen(), Progress: parts.add, Frontend: map[string]any{"pool": map[string]any{}},
		})
		return parts.String(), err
	})
	if err != nil {
		return interrupted(ctx, err)
	}
	return errors.Join(serve(ctx, p, system), stop(p, system))
}

// serve shows that the system works and keeps it until the end.
func serve(ctx context.Context, p *progress, system *stack.Stack) error {
	var first *session
	err := p.step("first session", func() (_ string, err error) {
		first, err = firstSession(ctx, system)
		if err != nil {
			return "", err
		}
		return first.summary(), nil
	})
	if err != nil {
		return interrupted(ctx, fmt.Errorf("%w\nend of the front-end's log:\n%s\nand of the Nomad client's and the driver's:\n%s",
			err, system.Logs("front-end", 10), system.Logs("nomad-client", 10)))
	}
	if err := writeEnv(system); err != nil {
		return err
	}
	fmt.Print(first.howTo(system))
	return system.Wait(ctx)
}

// stop ends the system. It has its own time: it is the interrupt that leads
// here, and another one is not to leave it half done.
func stop(p *progress, system *stack.Stack) error {
	fmt.Println()
	ctx, cancel := context.WithTimeoutCause(context.Background(), stopTimeout, fmt.Errorf("not done within %s", stopTimeout))
	defer cancel()
	return p.step("stop", func() (string, error) {
		return "everything has ended", system.Stop(ctx)
	})
}

// interrupted makes the errors that follow from an interrupt one plain word.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// listen is the friendly address, or empty for any if it is taken.
func listen() string {
	listener, err := net.Listen("tcp", friendlyAddr)
	if err != nil {
		return ""
	}
	listener.Close()
	return friendlyAddr
}
