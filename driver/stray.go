// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// A stray is a task that was started and that Nomad knows nothing of: its agent was killed
// after it had asked for the task and before it had noted the answer. The agent that comes
// next starts the task anew, under another id, or forgets it. Nobody would ever end it, as
// the plugin outlives agents.
const (
	// strayAfter is for how long an agent has been there, and found no task again, without
	// a question about one that an earlier agent has started, before that is taken for a
	// stray. An agent may wait for the fingerprints of all plugins first, for 55 s.
	strayAfter = 3 * time.Minute
	// strayEvery is how often they are looked for.
	strayEvery = 10 * time.Second
	// strayPatience is for a session to be stored, or a program to end.
	strayPatience = 20 * time.Second
	// aloneTimeout is for another start, and for what that has left to end.
	aloneTimeout = startTimeout + strayPatience + stopMargin + destroyTimeout
)

// task is one that Nomad asks about.
func (d *Driver) task(id string) (*taskHandle, bool) {
	h, ok := d.tasks.get(id)
	if ok {
		h.asked.Store(true)
	}
	return h, ok
}

// attendance is what is known of the agents that there are, by their asking for fingerprints.
type attendance struct {
	mu    sync.Mutex
	here  int       // there is one, or for a moment two
	since time.Time // the last has come
	found time.Time // it has found a task again, or has come
}

// attend has an agent count as there until ctx ends.
func (d *Driver) attend(ctx context.Context) {
	a := &d.agents
	a.mu.Lock()
	defer a.mu.Unlock()
	a.here++
	a.since = time.Now()
	a.found = a.since
	context.AfterFunc(ctx, func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.here--
	})
}

// recovering notes that the agent is at finding its tasks again.
func (a *attendance) recovering() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.found = time.Now()
}

// any says whether there is one.
func (a *attendance) any() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.here > 0
}

// settled says since when an agent is there that has had time to ask about each task that
// it knows. None is the zero time.
func (a *attendance) settled(after time.Duration) (since time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.here == 0 || time.Since(a.found) < after {
		return time.Time{}
	}
	return a.since
}

// endStrays ends strays until the plugin ends.
func (d *Driver) endStrays() {
	tick := time.NewTicker(d.strayEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-d.ctx.Done():
			return
		}
		since := d.agents.settled(d.strayAfter)
		for _, h := range d.tasks.all() {
			if h.asked.Load() || !h.wanted.Before(since) {
				continue
			}
			if err := d.endStray(h); err != nil && d.ctx.Err() == nil {
				d.logger.Error("could not end a task that Nomad does not know", "task_id", h.id, "error", err)
			}
		}
	}
}

// endStray ends a task as a stop would: a session goes to sleep.
func (d *Driver) endStray(h *taskHandle) error {
	d.logger.Warn("ending a task that Nomad does not know: its agent ended before it had noted the task", "task_id", h.id)
	return errors.Join(d.StopTask(h.id, strayPatience, ""), d.DestroyTask(h.id, true))
}

// alone waits until no other start of the same allocation's task is under way, and ends
// what one has left, which Nomad cannot know any more: it would be in the way. done is to
// be called once the start is over.
func (d *Driver) alone(cfg *drivers.TaskConfig) (done func(), err error) {
	ctx, cancel := context.WithTimeoutCause(d.ctx, aloneTimeout, fmt.Errorf("not over within %s", aloneTimeout))
	defer cancel()
	place := placeOf(cfg)
	mine := make(chan struct{})
	for {
		d.mu.Lock()
		other, busy := d.starting[place]
		if !busy {
			d.starting[place] = mine
		}
		d.mu.Unlock()
		if !busy {
			break
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for an earlier start of %s: %w", place, context.Cause(ctx))
		}
	}
	done = func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.starting, place)
		close(mine)
	}
	for _, h := range d.tasks.all() {
		if h.place != place {
			continue
		}
		if err := d.endStray(h); err != nil {
			done()
			return nil, fmt.Errorf("end what an earlier start of %s has left: %w", place, err)
		}
	}
	return done, nil
}

// placeOf names what Nomad has one task of at a time.
func placeOf(cfg *drivers.TaskConfig) string { return cfg.AllocID + "/" + cfg.Name }
