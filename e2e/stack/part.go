// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Part is one of the system's programs. It can be ended, made to stand still and
// started again.
type Part struct {
	name  string
	end   syscall.Signal // with which its operator ends it
	start func(ctx context.Context) (*process, error)
	// ready waits until the part that was started can be used.
	ready   func(ctx context.Context) error
	process *process // nil before the first start
	paused  bool
}

// run starts the part and waits until it is ready.
func (p *Part) run(ctx context.Context) error {
	var err error
	if p.process, err = p.start(ctx); err != nil {
		return err
	}
	return p.process.until(ctx, p.ready)
}

// Alive says whether the part runs, or stands still.
func (p *Part) Alive() bool { return p.process.alive() }

// answers says whether a request would not hang.
func (p *Part) answers() bool { return p.Alive() && !p.paused }

// Kill sends the part a signal and waits for its end.
func (p *Part) Kill(ctx context.Context, signal os.Signal) error {
	if p.process == nil {
		return fmt.Errorf("signal %s: it was never started", p.name)
	}
	p.paused = false
	return p.process.kill(ctx, signal)
}

// Restart ends the part as its operator would, if it still runs, and starts it
// again with the same configuration and data.
func (p *Part) Restart(ctx context.Context) error {
	if err := p.stop(ctx); err != nil {
		return err
	}
	return p.run(ctx)
}

// Pause makes the part stand still, and returns once it does.
func (p *Part) Pause(ctx context.Context) error {
	if !p.Alive() {
		return fmt.Errorf("pause %s: it does not run", p.name)
	}
	p.paused = true
	return pause(ctx, p.process.pid())
}

// Resume lets the part go on.
func (p *Part) Resume() error {
	p.paused = false
	if !p.Alive() {
		return nil
	}
	return p.process.signal(syscall.SIGCONT)
}

func (p *Part) stop(ctx context.Context) error {
	if err := p.Resume(); err != nil {
		return err
	}
	return p.process.stop(ctx, p.end)
}

// pause stops a process and waits until all of its threads stand still.
func pause(ctx context.Context, pid int) error {
	const look = 5 * time.Millisecond // a thread stops when it next leaves the kernel
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	for {
		running, err := threadsRunning(pid)
		if err != nil || running == 0 {
			return err
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return fmt.Errorf("wait until process %d stands still: %d threads run: %w", pid, running, context.Cause(ctx))
		}
	}
}

func threadsRunning(pid int) (n int, err error) {
	stats, err := filepath.Glob(procFile(pid, "task/*/stat"))
	if err != nil {
		return 0, err
	}
	for _, path := range stats {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // a thread that has ended
		}
		// 123 (name) T …, where the name may have anything in it.
		if i := bytes.LastIndexByte(text, ')'); i >= 0 && i+2 < len(text) && text[i+2] != 'T' {
			n++
		}
	}
	return n, nil
}
