// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"
)

const (
	// slotTimeout is how long a slot may take until it is ready. One that waits
	// longer finds no room, or its node is in trouble.
	slotTimeout = 30 * time.Second
	// keepEvery is how often the number of slots is considered when none changes.
	keepEvery = time.Second
	// firstRest and lastRest are how long no slots are made after one could not be.
	firstRest = time.Second
	lastRest  = 30 * time.Second
)

// keeper keeps slots ready: it makes them, and ends those of no more use. One
// front-end has it, the leader.
type keeper struct {
	*Service
	work sync.WaitGroup

	mu     sync.Mutex // of what follows
	making map[string]Shape
	ending map[string]bool
	// handled has those that were just made, or were not: the list may be behind.
	handled map[string]time.Time
	fails   int // slots that could not be made in a row
	rests   time.Time
	done    chan struct{} // told when one was made, or could not be
}

// keepPool keeps the slots until the context ends.
func (s *Service) keepPool(ctx context.Context) {
	if s.Pool.Max == 0 {
		return // the reaper ends what another's settings have left
	}
	k := &keeper{Service: s, making: map[string]Shape{}, ending: map[string]bool{}, handled: map[string]time.Time{}, done: make(chan struct{}, 1)}
	defer k.work.Wait() // which the context ends
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		slots, changed, known := s.pool.all(s.Now())
		if known {
			k.round(ctx, slots)
		}
		select {
		case <-changed:
		case <-k.done:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// round ends what is of no use and makes what is missing.
func (k *keeper) round(ctx context.Context, slots []*Slot) {
	now := k.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.handled, func(_ string, at time.Time) bool { return now.Sub(at) > slotTimeout })
	have := map[Shape]int{}
	for _, shape := range k.making {
		have[shape]++
	}
	for _, slot := range slots {
		_, making := k.making[slot.ID]
		switch why := k.useless(slot, now); {
		case k.ending[slot.ID], making:
		case why != "":
			k.retire(ctx, slot, why)
		case slot.Ready():
			have[slot.Shape]++
		case !k.handled[slot.ID].IsZero():
		default: // of a leader before
			have[slot.Shape]++
			k.start(ctx, slot, false)
		}
	}
	if now.Before(k.rests) {
		return
	}
	for shape, want := range k.wanted() {
		for n := have[shape]; n < want && len(k.making) < k.Pool.Refills; n++ {
			k.start(ctx, &Slot{
				ID: NewID(), Shape: shape, Job: k.Scheduler.JobVersion(),
				Made: now.UTC(), Ends: now.UTC().Add(k.Pool.MaxAge),
			}, true)
		}
	}
}

// wanted is how many slots there are to be.
func (k *keeper) wanted() map[Shape]int {
	return map[Shape]int{DefaultLimits.Shape(): k.Pool.Min}
}

// useless says why nobody should take a slot any more, or "".
func (k *keeper) useless(slot *Slot, now time.Time) string {
	switch {
	case !now.Before(slot.Ends):
		return "old"
	case slot.Job != k.Scheduler.JobVersion():
		return "of another version of the job"
	case !slot.Ready() && now.Sub(slot.Made) > 2*slotTimeout:
		return "never ready"
	}
	return ""
}

// retire ends a slot in the background. Called with mu held.
func (k *keeper) retire(ctx context.Context, slot *Slot, why string) {
	k.ending[slot.ID] = true
	k.work.Go(func() {
		err := k.endSlot(ctx, slot, why)
		if err != nil && ctx.Err() == nil {
			k.Log.Warn("end slot; trying again", "slot", slot.ID, "err", err)
			pause(ctx, time.Second)
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.ending, slot.ID)
	})
}

// endSlot ends a slot unless somebody has taken it.
func (s *Service) endSlot(ctx context.Context, slot *Slot, why string) error {
	err := s.Store.DropSlot(ctx, slot)
	if errors.Is(err, ErrConflict) {
		return nil // taken, or another's business
	}
	if err != nil {
		return fmt.Errorf("drop slot %s: %w", slot.ID, err)
	}
	s.Log.Info("end slot", "slot", slot.ID, "why", why)
	return s.release(ctx, slot.ID)
}

// start makes a slot in the background, from the beginning if it is new. Called with
// mu held.
func (k *keeper) start(ctx context.Context, slot *Slot, fresh bool) {
	k.making[slot.ID] = slot.Shape
	k.work.Go(func() {
		err := k.make(ctx, slot, fresh)
		if err != nil && !errors.Is(err, ErrConflict) && ctx.Err() == nil {
			k.Log.Warn("make slot", "slot", slot.ID, "err", err)
		}
		k.made(slot, err)
	})
}

// made notes that a slot is ready, or could not be made.
func (k *keeper) made(slot *Slot, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.making, slot.ID)
	k.handled[slot.ID] = k.Now()
	if err == nil {
		k.fails = 0
	} else {
		k.rests = k.Now().Add(min(firstRest<<min(k.fails, 10), lastRest))
		k.fails++
	}
	select {
	case k.done <- struct{}{}:
	default:
	}
}

// make makes a slot and returns once it is ready to be taken. The record comes first,
// so that whatever is of a slot has one, or is nobody's.
func (k *keeper) make(ctx context.Context, slot *Slot, fresh bool) error {
	limited, cancel := context.WithTimeoutCause(ctx, slotTimeout, fmt.Errorf("not ready in %v", slotTimeout))
	defer cancel()
	since := slot.Version
	if fresh {
		if err := k.Store.AddSlot(limited, slot); err != nil {
			return fmt.Errorf("add slot: %w", err) // if it is there all the same, it will be finished
		}
		since = slot.Version
		if err := k.Scheduler.StartSlot(limited, slot); err != nil {
			return errors.Join(fmt.Errorf("start job: %w", err), k.unmake(ctx, slot))
		}
	}
	c, err := k.Store.WaitClaim(limited, slot.ID, firstEpoch, since)
	if err != nil {
		return errors.Join(fmt.Errorf("wait for a node: %w", err), k.unmake(ctx, slot))
	}
	ready := *slot
	ready.Claim = c
	if err := k.Node.Prepared(limited, ready.session()); err != nil {
		return errors.Join(fmt.Errorf("wait until it is ready: %w", err), k.unmake(ctx, slot))
	}
	if err := k.Store.UpdateSlot(limited, &ready); err != nil {
		return fmt.Errorf("note that it is ready: %w", err)
	}
	k.pool.add(&ready)
	k.line.serve()
	return nil
}

// unmake ends a slot that did not become ready. When the leadership ends, the next
// leader may finish it.
func (k *keeper) unmake(ctx context.Context, slot *Slot) error {
	if ctx.Err() != nil {
		return nil
	}
	ctx, cancel := cleanup(ctx)
	defer cancel()
	return k.endSlot(ctx, slot, "not ready in time")
}
