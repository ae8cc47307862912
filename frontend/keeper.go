// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"sync"
	"time"
)

// keepEvery is how often the number of slots is considered when none changes.
const keepEvery = time.Second

// slotMemory is what a slot takes of its node, in MB: init, a runner that waits, and
// what the kernel has for them.
const slotMemory = 24

// keeper keeps slots ready: it makes them, and ends those of no more use. One
// front-end has it, the leader.
type keeper struct {
	*Service
	work sync.WaitGroup
	done chan struct{} // told when a slot was made, or could not be, and of nodes

	mu sync.Mutex // of what follows
	// making has the slots that are being made, ending those being ended, and handled
	// those that were just made or not: the list may be behind.
	making  map[string]*making
	ending  map[string]bool
	handled map[string]time.Time
	nodes   map[string]NodeState // nil while they are not known
	learner *learner
	heard   bool // whether reports were read before
	fails   int  // slots that could not be made in a row
	rests   time.Time
	offered map[string]bool // slots that were ready when looked at last
	patience
}

func newKeeper(s *Service) *keeper {
	return &keeper{
		Service: s, done: make(chan struct{}, 1), making: map[string]*making{}, ending: map[string]bool{},
		handled: map[string]time.Time{}, learner: newLearner(),
	}
}

// keepPool keeps the slots until the context ends.
func (s *Service) keepPool(ctx context.Context) {
	if s.Pool.Max == 0 {
		return // the reaper ends what another's settings have left
	}
	k := newKeeper(s)
	defer k.work.Wait() // which the context ends
	k.work.Go(func() { k.watchNodes(ctx) })
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	quiet := time.NewTimer(0) // of when it may be
	defer quiet.Stop()
	k.hear(ctx)
	for {
		slots, changed, known := s.pool.all(s.Now())
		if known {
			if wait := k.round(ctx, slots); wait > 0 {
				quiet.Reset(wait)
			}
		}
		select {
		case <-changed:
		case <-k.done:
		case <-quiet.C:
		case <-tick.C:
			k.hear(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// poke has the slots considered again.
func (k *keeper) poke() {
	select {
	case k.done <- struct{}{}:
	default:
	}
}

// watchNodes knows which nodes there are.
func (k *keeper) watchNodes(ctx context.Context) {
	var since uint64
	for ctx.Err() == nil {
		nodes, next, err := k.Scheduler.Nodes(ctx, since)
		if err != nil {
			since = 0
			pause(ctx, time.Second)
			continue
		}
		since = next
		k.mu.Lock()
		k.nodes = make(map[string]NodeState, len(nodes))
		for _, n := range nodes {
			k.nodes[n.ID] = n
		}
		k.mu.Unlock()
		k.poke()
	}
}

// hear takes what the front-ends were asked for.
func (k *keeper) hear(ctx context.Context) {
	limited, cancel := context.WithTimeoutCause(ctx, lookupTimeout, fmt.Errorf("no reports in %v", lookupTimeout))
	defer cancel()
	reports, err := k.Store.Reports(limited)
	if err != nil {
		reports = map[string]Report{} // this front-end's own is known all the same
	}
	now := k.Now()
	reports[k.arrivals.name], _ = k.arrivals.report(now)
	for _, who := range k.learn(reports, err == nil, now) {
		_ = k.Store.DropReport(limited, who) // or the next time
	}
}

// learn takes reports, all that there are or only this front-end's, and returns of
// whom there is nothing more to hear.
func (k *keeper) learn(reports map[string]Report, all bool, now time.Time) (silent []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for who, r := range reports {
		if now.Sub(r.At) > reportAge {
			delete(k.learner.seen, who)
			silent = append(silent, who)
			continue
		}
		k.learner.hear(who, r, k.heard, now)
	}
	k.heard = k.heard || all
	return silent
}

// round ends what is of no use and makes what is missing, or says how long to wait
// with that.
func (k *keeper) round(ctx context.Context, slots []*Slot) (wait time.Duration) {
	now := k.Now()
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.handled, func(_ string, at time.Time) bool { return now.Sub(at) > slotTimeout })
	ready, coming := map[Shape][]*Slot{}, map[Shape]int{}
	offered := map[string]bool{}
	for _, slot := range slots {
		delete(k.offered, slot.ID)
		why := k.useless(slot, now)
		switch {
		case k.ending[slot.ID], k.making[slot.ID] != nil:
		case why != "":
			k.retire(ctx, slot, why)
		case slot.Ready():
			ready[slot.Shape] = append(ready[slot.Shape], slot)
			offered[slot.ID] = true
		case k.handled[slot.ID].IsZero(): // of a leader before
			k.start(ctx, slot)
		default:
			coming[slot.Shape]++
		}
	}
	for id, m := range k.making {
		coming[m.shape]++
		if m.stored > 0 && k.pool.lost(id, m.stored) {
			m.cancel(errLost)
		}
	}
	if len(k.offered) > 0 { // somebody has taken them, or they have ended
		k.taken = now
	}
	k.offered = offered
	wanted := k.wanted(now)
	for shape, list := range ready {
		k.shed(ctx, list, wanted[shape])
	}
	if now.Before(k.rests) {
		return 0
	}
	return k.fill(ctx, wanted, ready, coming, now)
}

// fill makes slots that are missing, or says how long to wait with that. Called with mu
// held.
func (k *keeper) fill(ctx context.Context, wanted map[Shape]int, ready map[Shape][]*Slot, coming map[Shape]int, now time.Time) time.Duration {
	missing := map[Shape]int{}
	for shape, want := range wanted {
		if n := want - len(ready[shape]) - coming[shape]; n > 0 {
			missing[shape] = n
		}
	}
	if wait := k.wait(now, len(missing) > 0); wait > 0 {
		return wait
	}
	for shape, n := range missing {
		for ; n > 0 && len(k.making) < k.Pool.Refills; n-- {
			k.start(ctx, k.newSlot(shape, k.place(ready), now))
		}
	}
	return 0
}

func (k *keeper) newSlot(shape Shape, node string, now time.Time) *Slot {
	return &Slot{
		ID: NewID(), Shape: shape, Job: k.Scheduler.JobVersion(),
		Made: now.UTC(), Ends: now.UTC().Add(k.Pool.MaxAge), Node: node,
	}
}

// surplus is how many slots there may be above what is wanted, in parts of it: the
// wish moves all the time, and to end one and make it again is for nothing.
const surplus = 0.25

// shed ends the oldest of the slots of a shape that are too many. Called with mu held.
func (k *keeper) shed(ctx context.Context, slots []*Slot, want int) {
	most := want + int(math.Ceil(surplus*float64(want)))
	if len(slots) <= most {
		return
	}
	slices.SortFunc(slots, func(a, b *Slot) int { return a.Made.Compare(b.Made) })
	for _, slot := range slots[:len(slots)-most] {
		k.retire(ctx, slot, "not wanted any more")
	}
}

// wanted is how many slots of each shape there are to be.
func (k *keeper) wanted(now time.Time) map[Shape]int {
	first := DefaultLimits.Shape()
	return divide(k.learner.wants(now, first, k.Pool.Refills), first, k.Pool.Min, k.Pool.Max, k.room())
}

// perNode is how many slots a node may have.
func (k *keeper) perNode() int { return max(k.Pool.NodeMemory/slotMemory, 1) }

// room is how many slots the nodes may have together.
func (k *keeper) room() int {
	if k.nodes == nil {
		return k.Pool.Min
	}
	n := 0
	for _, node := range k.nodes {
		if node.Takes {
			n += k.perNode()
		}
	}
	return n
}

// place is the node that has the fewest slots: lost, it takes as few as possible along.
func (k *keeper) place(ready map[Shape][]*Slot) (node string) {
	has := map[string]int{}
	for _, slots := range ready {
		for _, slot := range slots {
			has[slot.Claim.Node]++
		}
	}
	for _, m := range k.making {
		has[m.node]++
	}
	for id, n := range k.nodes {
		if n.Takes && (node == "" || has[id] < has[node]) {
			node = id
		}
	}
	return node
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
	case slot.Ready() && k.nodes != nil && !k.nodes[slot.Claim.Node].Up:
		return "its node drains, or is away"
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
