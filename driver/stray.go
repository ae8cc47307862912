// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
)

// A stray is a task that was started and that Nomad knows nothing of: its agent was killed
// after it had asked for the task and before it had noted the answer. The agent that comes
// next starts the task anew, under another id, or forgets it. Nobody would ever end it, as
// the plugin outlives agents.
const (
	// strayAfter is for how long nobody has asked about a task, while an agent was there
	// to ask, before it is taken for one. An agent asks about each task as soon as it has
	// noted it, and goes on with those that it has noted before it does anything else.
	strayAfter = 50 * time.Second
	// strayEvery is how often they are looked for: as in the agent's sweep, together a minute.
	strayEvery = 10 * time.Second
	// strayPatience is for a session to be stored, or a program to end.
	strayPatience = 20 * time.Second
)

// task is one that Nomad asks about.
func (d *Driver) task(id string) (*taskHandle, bool) {
	h, ok := d.tasks.get(id)
	if ok {
		h.asked.Store(true)
	}
	return h, ok
}

// attend has an agent count as there until ctx ends.
func (d *Driver) attend(ctx context.Context) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.agents++; d.agents == 1 {
		d.attended = time.Now()
	}
	context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.agents--
	})
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
		d.mu.Lock()
		there := d.agents > 0 && time.Since(d.attended) >= d.strayAfter
		d.mu.Unlock()
		if !there {
			continue
		}
		for _, h := range d.tasks.all() {
			if h.asked.Load() || time.Since(h.known) < d.strayAfter {
				continue
			}
			if err := d.endStray(h); err != nil && d.ctx.Err() == nil {
				d.logger.Error("could not end a task that Nomad does not know", "task_id", h.id, "error", err)
			}
		}
	}
}

// endStray ends a task as Nomad would: a session goes to sleep.
func (d *Driver) endStray(h *taskHandle) error {
	d.logger.Warn("ending a task that Nomad does not know: its agent ended before it had noted the task", "task_id", h.id)
	return errors.Join(d.StopTask(h.id, strayPatience, ""), d.DestroyTask(h.id, true))
}

// alone waits until no other start of the same allocation's task is under way, and ends
// what one has left, which Nomad cannot know any more: it would be in the way. done is to
// be called once the start is over.
func (d *Driver) alone(ctx context.Context, cfg *drivers.TaskConfig) (done func(), err error) {
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
