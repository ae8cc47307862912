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

// start makes a slot in the background, from the beginning if it is new. Called with
// mu held.
func (k *keeper) start(ctx context.Context, slot *Slot, fresh bool) {
	k.making[slot.ID] = slot
	k.work.Go(func() {
		begin := k.Now()
		err := k.make(ctx, slot, fresh)
		if fresh && err == nil {
			k.mu.Lock()
			k.learner.made(k.Now().Sub(begin))
			k.mu.Unlock()
		}
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
	k.poke()
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
