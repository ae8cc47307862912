// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox"
)

// runner is a Bun process that waits for code in a cgroup of its own.
type runner struct {
	unit  string
	group sandbox.Unit
	cpu   time.Duration // what its start took
}

// prepareTimeout bounds the start of a runner. Bun takes 5 ms on a quiet
// machine and 90 with a cold page cache; a session at the end of its CPU quota
// may wait for some periods.
const prepareTimeout = 20 * time.Second

// runners keeps some runners ready in the working directory that nearly every
// execution uses.
type runners struct {
	session *Session

	mu       sync.Mutex
	ready    []*runner
	starting int
	waiting  int           // for one that is being started
	changed  chan struct{} // closed and replaced when one is started, or was not
}

// The kinds of what has a cgroup of its own, as its name begins.
const (
	runnerUnit  = "r"
	commandUnit = "c"
	execUnit    = "x"
)

// newUnit names a cgroup and what runs in it.
func newUnit(kind string) string { return kind + "-" + strings.ToLower(rand.Text()[:16]) }

// prepare starts a runner in dir.
func (r *runners) prepare(ctx context.Context, dir string) (*runner, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, prepareTimeout, errors.New("the runner did not start in time"))
	defer cancel()
	unit := newUnit(runnerUnit)
	g, err := r.session.box.Units().New(unit)
	if err != nil {
		return nil, fmt.Errorf("create cgroup of a runner: %w", err)
	}
	run := &runner{unit: unit, group: g}
	ev, err := r.session.prepareIn(ctx, unit, dir, g)
	if err == nil && ev.Event != wire.EventReady {
		err = errors.New(ev.Error)
	}
	if err != nil {
		r.session.remove(g)
		return nil, fmt.Errorf("start a runner: %w", err)
	}
	if st, err := g.Stats(); err == nil {
		run.cpu = st.CPU
	}
	return run, nil
}

// take returns a ready runner for dir, waits for one that is being started for
// nobody else, or starts one.
func (r *runners) take(ctx context.Context, dir string) (*runner, error) {
	if dir != workspaceDir {
		return r.prepare(ctx, dir)
	}
	r.mu.Lock()
	for {
		if len(r.ready) > 0 {
			run := r.ready[0]
			r.ready = r.ready[1:]
			r.mu.Unlock()
			return run, nil
		}
		if r.waiting >= r.starting {
			r.mu.Unlock()
			return r.prepare(ctx, dir)
		}
		r.waiting++
		changed := r.changed
		r.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		r.mu.Lock()
		r.waiting--
		if err != nil {
			r.mu.Unlock()
			return nil, err
		}
	}
}

// await waits while a runner is being started and none is ready.
func (r *runners) await(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.ready) == 0 {
		if r.starting == 0 {
			return errors.New("no runner could be started")
		}
		changed := r.changed
		r.mu.Unlock()
		var err error
		select {
		case <-changed:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		r.mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// fill starts runners in the background until want are ready.
func (r *runners) fill(want int) {
	r.mu.Lock()
	missing := want - len(r.ready) - r.starting
	if missing <= 0 {
		r.mu.Unlock()
		return
	}
	r.starting += missing
	r.mu.Unlock()
	release := r.session.life.hold()
	r.session.goDo(func() {
		defer release()
		for range missing {
			run, err := r.prepare(r.session.ctx, workspaceDir)
			r.mu.Lock()
			r.starting--
			if err == nil {
				r.ready = append(r.ready, run)
			}
			close(r.changed)
			r.changed = make(chan struct{})
			r.mu.Unlock()
			if err != nil && r.session.ctx.Err() == nil {
				r.session.log.Warn("no runner could be started", "error", err)
			}
		}
	})
}

// discard ends a runner that will not be used.
func (r *runners) discard(run *runner) {
	ctx, cancel := context.WithTimeout(r.session.ctx, killTimeout)
	defer cancel()
	// Init learns of it so that it forgets the runner; the cgroup is what ends it.
	_, _ = r.session.guest.ask(ctx, wire.Request{Op: wire.OpDiscard, ID: run.unit}, nil)
	r.session.remove(run.group)
}

// prepareIn asks init for a runner in the cgroup g.
func (s *Session) prepareIn(ctx context.Context, unit, dir string, g sandbox.Unit) (wire.Event, error) {
	c, err := s.guest.requestIn(ctx, wire.Request{Op: wire.OpPrepare, ID: unit, Dir: dir}, g)
	if err != nil {
		return wire.Event{}, err
	}
	defer c.Close()
	return c.event(ctx)
}
