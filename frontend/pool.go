// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"maps"
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// PoolSettings say how many slots there are. The zero value is no pool at all.
type PoolSettings struct {
	// Min is how many slots of the default shape there are at least, Max how many of
	// each shape at most; 0 is no pool.
	Min, Max int
	// MaxAge is how old a slot may become before it gives way to a new one.
	MaxAge time.Duration
	// Refills is how many slots are made at a time.
	Refills int
	// NodeMemory is how much memory, in MB, the slots of all shapes may take of each
	// node together.
	NodeMemory int
}

const (
	// watchPause is between two readings of the list of slots: in a burst each slot
	// that is taken changes it.
	watchPause = 20 * time.Millisecond
	// setAside is how long a slot is left alone that could not be taken for a reason
	// that says nothing of it, or whose node did not answer.
	setAside = 10 * time.Second
)

// pool is what this front-end knows of the slots. What counts is the Store: whoever
// takes a slot there has it.
type pool struct {
	mu    sync.Mutex
	slots map[string]*Slot     // as listed last, by id
	aside map[string]time.Time // slots (by id) and nodes not to be chosen until then
	// changed is closed and replaced with every new list.
	changed chan struct{}
	version uint64 // of the list; 0 before there is one
}

func newPool() *pool {
	return &pool{slots: map[string]*Slot{}, aside: map[string]time.Time{}, changed: make(chan struct{})}
}

// list takes the slots as they are in the Store at a version. What was added since is
// newer.
func (p *pool) list(slots []*Slot, version uint64, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	maps.DeleteFunc(p.slots, func(_ string, slot *Slot) bool { return slot.Version <= version })
	for _, slot := range slots {
		if p.slots[slot.ID] == nil {
			p.slots[slot.ID] = slot
		}
	}
	maps.DeleteFunc(p.aside, func(_ string, until time.Time) bool { return !now.Before(until) })
	p.version = version
	close(p.changed)
	p.changed = make(chan struct{})
}

// add makes a slot known before the next list does.
func (p *pool) add(slot *Slot) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slots[slot.ID] = slot
}

// all are the slots that nobody here has chosen, and what is closed when there is
// another list. known says whether there ever was one.
func (p *pool) all(now time.Time) (slots []*Slot, changed <-chan struct{}, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, slot := range p.slots {
		if !now.Before(p.aside[slot.ID]) {
			slots = append(slots, slot)
		}
	}
	return slots, p.changed, p.version > 0
}

// lost says whether a slot that was stored at a version is not there any more.
func (p *pool) lost(id string, version uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slots[id] == nil && p.version >= version
}

// pick chooses a ready slot of a shape and a job's version, which nobody else here
// chooses then; nil if there is none. By chance, so that front-ends seldom choose the
// same.
func (p *pool) pick(shape Shape, job string, now time.Time) *Slot {
	p.mu.Lock()
	defer p.mu.Unlock()
	var fit []*Slot
	for _, slot := range p.slots {
		if slot.Ready() && slot.Shape == shape && slot.Job == job && now.Before(slot.Ends) &&
			!now.Before(p.aside[slot.ID]) && !now.Before(p.aside[slot.Claim.Node]) {
			fit = append(fit, slot)
		}
	}
	if len(fit) == 0 {
		return nil
	}
	slot := fit[rand.IntN(len(fit))]
	p.aside[slot.ID] = now.Add(setAside)
	return slot
}

// distrust leaves the slots of a node alone for some time.
func (p *pool) distrust(node string, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.aside[node] = now.Add(setAside)
}

// WatchPool keeps what this front-end knows of the slots up to date, and tells the
// leader what it is asked for, until the context ends. Each front-end has to run it.
func (s *Service) WatchPool(ctx context.Context) {
	if s.Pool.Max == 0 {
		return
	}
	var reports sync.WaitGroup
	defer reports.Wait() // which the context ends
	reports.Go(func() { s.reportDemand(ctx) })
	var since uint64
	for ctx.Err() == nil {
		slots, next, err := s.Store.Slots(ctx, since)
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Warn("look for slots; trying again", "in", time.Second, "err", err)
			}
			since = 0
			pause(ctx, time.Second)
			continue
		}
		since = next
		version := next
		if version == 0 { // the Store begins anew
			version = math.MaxUint64
		}
		s.pool.list(slots, version, s.Now())
		s.line.serve()
		pause(ctx, watchPause)
	}
}
