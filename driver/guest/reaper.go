// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// process is a child of init's that it has started.
type process struct {
	pid int
	// done is closed once the process is reaped; status and usage are valid then.
	done   chan struct{}
	status syscall.WaitStatus
	usage  syscall.Rusage // its own and that of the children it waited for
}

// alive tells whether the process was not reaped yet.
func (p *process) alive() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// code is the exit code as a shell tells it, and the signal that ended it, if
// any. Valid once done is closed.
func (p *process) code() (code, sig int) { return exitCode(p.status) }

func exitCode(ws syscall.WaitStatus) (code, sig int) {
	if ws.Signaled() {
		return 128 + int(ws.Signal()), int(ws.Signal())
	}
	return ws.ExitStatus(), 0
}

// reaper waits for all children, those of init's making and those that their
// parents left to it. Its lock is held from before a fork until the child is
// known, and for each wait: so none is reaped unknown, and no signal reaches a
// number that was given out again.
type reaper struct {
	mu       sync.Mutex
	children map[int]*process
	closed   bool // nothing more starts
}

var errClosing = errors.New("init ends")

func newReaper() *reaper { return &reaper{children: make(map[int]*process)} }

// start registers the process that fork makes.
func (r *reaper) start(fork func() (pid int, err error)) (*process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, errClosing
	}
	pid, err := fork()
	if err != nil {
		return nil, err
	}
	p := &process{pid: pid, done: make(chan struct{})}
	r.children[pid] = p
	return p, nil
}

// run reaps until ctx ends.
func (r *reaper) run(ctx context.Context) {
	// One signal may stand for many children, so one place is enough.
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	for {
		r.reap()
		select {
		case <-ended:
		case <-ctx.Done():
			return
		}
	}
}

func (r *reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var ws syscall.WaitStatus
		var usage syscall.Rusage
		pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, &usage)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if p := r.children[pid]; p != nil {
			delete(r.children, pid)
			p.status, p.usage = ws, usage
			close(p.done)
		}
	}
}

// signalGroup sends sig to the process group that p leads, unless p is reaped.
func (r *reaper) signalGroup(p *process, sig syscall.Signal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.alive() {
		_ = unix.Kill(-p.pid, sig) // fails only for a zombie
	}
}

// close ends every process that was started, with its group, and starts no more.
func (r *reaper) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for pid := range r.children {
		_ = unix.Kill(-pid, unix.SIGKILL)
		_ = unix.Kill(pid, unix.SIGKILL) // one that has no group of its own yet
	}
}
