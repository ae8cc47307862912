// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// slotTimeout is how long a slot may take until it is ready. One that waits
	// longer finds no room, or its node is in trouble.
	slotTimeout = 30 * time.Second
	// firstRest and lastRest are how long no slots are made after one could not be.
	firstRest = time.Second
	lastRest  = 30 * time.Second
)

// making is a slot that is being made.
type making struct {
	shape  Shape
	node   string // where it would best be
	stored uint64 // the version of its record; 0 before it has one
	cancel context.CancelCauseFunc
}

// errLost says that somebody has ended a slot that was being made: its job is dead, or
// it was in the way.
var errLost = errors.New("the slot is gone")

// start makes a slot in the background, from the beginning if it has no record yet.
// Called with mu held.
func (k *keeper) start(ctx context.Context, slot *Slot) {
	limited, cancel := context.WithCancelCause(ctx)
	k.making[slot.ID] = &making{shape: slot.Shape, node: slot.Node, stored: slot.Version, cancel: cancel}
	k.work.Go(func() {
		defer cancel(nil)
		begin, fresh := k.Now(), slot.Version == 0
		err := k.make(limited, slot)
		if err != nil && ctx.Err() == nil {
			k.Log.Warn("make slot", "slot", slot.ID, "err", err)
		}
		if ctx.Err() == nil && !errors.Is(err, errLost) {
			k.Observer.MadeSlot(k.Now().Sub(begin), outcome(ctx, err))
		}
		k.made(slot.ID, fresh, k.Now().Sub(begin), err)
	})
}

// made notes that a slot is ready, or could not be made.
func (k *keeper) made(id string, fresh bool, took time.Duration, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.making, id)
	k.handled[id] = k.Now()
	switch {
	case err == nil && fresh:
		k.learner.made(took)
		k.fails = 0
	case err != nil && !errors.Is(err, errLost):
		k.rests = k.Now().Add(min(firstRest<<min(k.fails, 10), lastRest))
		k.fails++
	}
	k.poke()
}

// make makes a slot and returns once it is ready to be taken. The record comes first,
// so that whatever is of a slot has one, or is nobody's.
func (k *keeper) make(ctx context.Context, slot *Slot) error {
	limited, cancel := context.WithTimeoutCause(ctx, slotTimeout, fmt.Errorf("not ready in %v", slotTimeout))
	defer cancel()
	if slot.Version == 0 {
		if err := k.Store.AddSlot(limited, slot); err != nil {
			return fmt.Errorf("add slot: %w", err) // if it is there all the same, it will be finished
		}
		k.mu.Lock()
		k.making[slot.ID].stored = slot.Version
		k.mu.Unlock()
	}
	// That of a leader before may have its job already, or not yet.
	if err := k.Scheduler.StartSlot(limited, slot); err != nil && !errors.Is(err, ErrExists) {
		return errors.Join(fmt.Errorf("start job: %w", err), k.unmake(ctx, slot))
	}
	c, err := k.Store.WaitClaim(limited, slot.ID, firstEpoch, slot.Version)
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
		return context.Cause(ctx)
	}
	ctx, cancel := cleanup(ctx)
	defer cancel()
	return k.endSlot(ctx, slot, "not ready in time")
}
