// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/sandbox"
)

// runner is a Bun process that waits for code in a cgroup of its own.
type runner struct {
	unit  string
	group sandbox.Unit
	cpu   time.Duration // what its start took
	spare bool          // one of the node's spare ones
}

// prepareTimeout bounds the start of a runner. Bun takes 5 ms on a quiet
// machine and 90 with a cold page cache; a session at the end of its CPU quota
// may wait for some periods.
const prepareTimeout = 20 * time.Second

// calm is how long nobody has to begin an execution, or to be answered, before used
// runners are replaced: to start one takes as much of the machine as to execute
// something, which it would slow down.
const calm = 10 * time.Millisecond

// runners keeps some runners ready in the working directory that nearly every
// execution uses: as many as the session has been seen to use without a pause
// (sequence), and as the node has memory for (stock).
type runners struct {
	session *Session
	stock   *stock
	most    int // by the session's limits
	refunds refunds

	mu       sync.Mutex
	ready    []*runner
	starting int
	waiting  int           // for one that is being started
	changed  chan struct{} // closed and replaced when one is started, or was not
	sequence sequence
	filling  bool        // refill runs
	timer    *time.Timer // of the next look
}

const (
	// sessionPart of what a session may have is for its waiting runners.
	sessionPart = 16
	// runnerThreads is how many threads one has, with some room.
	runnerThreads = 8
)

func newRunners(s *Session, k *stock, l driver.Limits) *runners {
	r := &runners{session: s, stock: k, most: manyRunners, changed: make(chan struct{})}
	if l.Memory > 0 {
		r.most = min(r.most, int(l.Memory/sessionPart/runnerMemory))
	}
	if l.Pids > 0 {
		r.most = min(r.most, int(l.Pids/sessionPart*2/runnerThreads))
	}
	r.most = max(r.most, 1)
	r.timer = time.AfterFunc(forgetAfter, r.look)
	r.timer.Stop() // until there was an execution
	return r
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
	begin := time.Now()
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
	if r.session.ctx.Err() == nil {
		metrics.RunnerStarts.Since(begin, err)
	}
	if err != nil {
		r.session.remove(g)
		return nil, fmt.Errorf("start a runner: %w", err)
	}
	if st, err := g.Stats(); err == nil {
		run.cpu = st.CPU
		r.refund(run.cpu)
	}
	return run, nil
}

// take returns a ready runner for dir, waits for one that is being started for
// nobody else, or starts one.
func (r *runners) take(ctx context.Context, dir string) (*runner, error) {
	if dir != workspaceDir {
		metrics.Taken("none")
		return r.prepare(ctx, dir)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence.begun(time.Now())
	r.stock.rush.begun(time.Now())
	state := "ready"
	for {
		if len(r.ready) > 0 {
			metrics.Taken(state)
			run := r.ready[0]
			r.ready = r.ready[1:]
			r.unspare(run)
			if r.sequence.now > 1 && len(r.ready)+r.starting == 0 {
				r.start(1) // the next will not wait for a calm moment
			}
			return run, nil
		}
		if r.waiting >= r.starting {
			metrics.Taken("none")
			r.mu.Unlock()
			run, err := r.prepare(ctx, dir)
			r.mu.Lock()
			return run, err
		}
		state = "starting"
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
			return nil, err
		}
	}
}

// unspare notes that a runner does not wait any more. Called with mu held.
func (r *runners) unspare(run *runner) {
	if run.spare {
		run.spare = false
		r.stock.release()
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

// fill starts runners in the background, at once, until want are ready.
func (r *runners) fill(want int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.start(want - len(r.ready) - r.starting)
}

// start starts n runners in the background. Called with mu held.
func (r *runners) start(n int) {
	if n <= 0 {
		return
	}
	r.starting += n
	release := r.session.life.hold()
	r.session.goDo(func() {
		defer release()
		for range n {
			r.add(false)
		}
	})
}

// add makes a runner, which is among those that are starting already, a ready one.
func (r *runners) add(spare bool) {
	run, err := r.prepare(r.session.ctx, workspaceDir)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting--
	switch {
	case err == nil:
		run.spare = spare
		r.ready = append(r.ready, run)
	case spare:
		r.stock.release()
	}
	close(r.changed)
	r.changed = make(chan struct{})
	if err != nil && r.session.ctx.Err() == nil && !r.session.life.gone() {
		r.session.log.Warn("no runner could be started", "error", err)
	}
}

// ended notes that an execution ends.
func (r *runners) ended() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence.ended(time.Now())
}

// answered notes that the caller of an execution has its answer.
func (r *runners) answered() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.sequence.ended(now)
	if len(r.ready)+r.starting == 0 && !r.stock.rush.on(now) {
		r.start(1)
	}
	r.timer.Reset(calm)
}

// look brings the number of waiting runners to what it should be, in a calm moment.
func (r *runners) look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if r.session.ctx.Err() != nil || r.session.life.resting() {
		return // what stands still can neither start nor end; the next answer looks again
	}
	if pause := calm - now.Sub(r.sequence.last); pause > 0 {
		r.timer.Reset(pause)
		return
	}
	want := r.want(now)
	if len(r.ready)+r.starting < want && !r.filling {
		r.filling = true
		release := r.session.life.hold()
		r.session.goDo(func() {
			defer release()
			r.refill()
		})
	}
	r.drop(want)
	if pause := r.sequence.changes(now); pause > 0 {
		r.timer.Reset(pause)
	}
}

// want is how many runners should be ready. Called with mu held.
func (r *runners) want(now time.Time) int {
	want := min(r.sequence.want(now), r.most)
	if want > 1 && r.stock.short() {
		return 1
	}
	return want
}

// early says whether it is too early to replace what was used. Called with mu held.
func (r *runners) early(now time.Time) bool {
	past := now.Sub(r.sequence.last)
	return past < calm || past < nodePatience && r.stock.rush.on(now)
}

// refill starts runners one after the other for as long as it is calm.
func (r *runners) refill() {
	for r.refillOne() {
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.filling = false
}

// refillOne starts one, unless there are enough or this is no time for it.
func (r *runners) refillOne() bool {
	done, err := r.stock.turn(r.session.ctx)
	if err != nil {
		return false
	}
	defer done()
	r.mu.Lock()
	now := time.Now()
	switch {
	case len(r.ready)+r.starting >= r.want(now), r.session.life.resting():
		r.mu.Unlock()
		return false
	case r.early(now):
		r.timer.Reset(calm)
		r.mu.Unlock()
		return false
	}
	spare := r.starting > 0 || slices.ContainsFunc(r.ready, func(run *runner) bool { return !run.spare })
	if spare && !r.stock.reserve() {
		r.mu.Unlock()
		return false
	}
	r.starting++
	r.mu.Unlock()
	r.add(spare)
	return true
}

// drop ends runners until at most want wait. Called with mu held.
func (r *runners) drop(want int) {
	for len(r.ready) > want {
		run := r.ready[len(r.ready)-1]
		r.ready = r.ready[:len(r.ready)-1]
		r.unspare(run)
		r.session.goDo(func() { r.discard(run) })
	}
}

// close lets go of what the runners have of the node's. They go with the sandbox, or
// when it is recovered.
func (r *runners) close() {
	r.timer.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range r.ready {
		r.unspare(run)
	}
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
