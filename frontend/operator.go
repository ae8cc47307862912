// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/buntime/buntime/frontend/timing"
)

// Place is where the job of a session's epoch, or of a slot, runs.
type Place struct {
	Session  string // id
	Epoch    uint64
	Node     string // id
	NodeName string
	Since    time.Time // when it was placed
}

const (
	// placesFor is how long a list of places is good at least, and placesRest as a
	// multiple of the time that it took: many sessions make a long list.
	placesFor  = 2 * time.Second
	placesRest = 20
	// placesTimeout bounds the making of one.
	placesTimeout = 10 * time.Second
)

// places is the list that was made last.
type places struct {
	mu    sync.Mutex
	until time.Time // when list is too old
	list  []Place
}

// Places lists where the sessions that are awake run, the newest first, and how many
// slots are on which node.
func (s *Service) Places(ctx context.Context) (awake []Place, slots map[string]int, err error) {
	defer timing.Start(ctx, "places")()
	all, err := share(ctx, &s.flights, "places", placesTimeout, s.readPlaces)
	if err != nil {
		return nil, nil, fmt.Errorf("list where sessions run: %w", err)
	}
	unused, _, _ := s.pool.all(s.Now())
	slots = map[string]int{}
	isSlot := make(map[string]bool, len(unused))
	for _, slot := range unused {
		isSlot[slot.ID] = true
	}
	awake = make([]Place, 0, len(all))
	for _, p := range all {
		if isSlot[p.Session] {
			slots[p.Node]++
		} else {
			awake = append(awake, p)
		}
	}
	return awake, slots, nil
}

func (s *Service) readPlaces(ctx context.Context) ([]Place, error) {
	s.places.mu.Lock()
	defer s.places.mu.Unlock()
	begin := s.Now()
	if s.places.list != nil && begin.Before(s.places.until) {
		return s.places.list, nil
	}
	all, err := s.Scheduler.Places(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Place) int {
		return cmp.Or(b.Since.Compare(a.Since), cmp.Compare(a.Session, b.Session), cmp.Compare(b.Epoch, a.Epoch))
	})
	// Of a session that has just moved, the latest life.
	all = slices.CompactFunc(all, func(a, b Place) bool { return a.Session == b.Session })
	s.places.list = append([]Place{}, all...)
	s.places.until = s.Now().Add(max(placesFor, placesRest*s.Now().Sub(begin)))
	return s.places.list, nil
}

// ListAwake returns a page of the sessions of all accounts that are awake, newest life
// first, with what their nodes tell of them, and how many there are. It is for those who
// run the front-ends. Those in deep sleep are many, and cost nothing: they are listed by
// account.
func (s *Service) ListAwake(ctx context.Context, limit, offset int) ([]*Session, int, error) {
	awake, _, err := s.Places(ctx)
	if err != nil {
		return nil, 0, err
	}
	ids := make([]string, len(awake))
	for i, p := range awake {
		ids[i] = p.Session
	}
	page, err := s.Store.GetMany(ctx, pageOf(ids, ListRequest{Limit: limit, Offset: offset}))
	if err != nil {
		return nil, 0, fmt.Errorf("read records of sessions: %w", err)
	}
	s.ask(ctx, page)
	return page, len(ids), nil
}

// Pool is what there is of slots of a shape, as far as this front-end knows.
type Pool struct {
	Shape Shape
	// Ready can be taken; Starting cannot yet.
	Ready, Starting int
}

// Pools are those of all shapes that there are slots of, the default one first.
func (s *Service) Pools() []Pool {
	slots, _, _ := s.pool.all(s.Now())
	first := DefaultLimits.Shape()
	by := map[Shape]*Pool{first: {Shape: first}}
	for _, slot := range slots {
		p := by[slot.Shape]
		if p == nil {
			p = &Pool{Shape: slot.Shape}
			by[slot.Shape] = p
		}
		if slot.Ready() {
			p.Ready++
		} else {
			p.Starting++
		}
	}
	out := make([]Pool, 0, len(by))
	for _, p := range by {
		out = append(out, *p)
	}
	slices.SortFunc(out, func(a, b Pool) int {
		if (a.Shape == first) != (b.Shape == first) {
			if a.Shape == first {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Ready+b.Starting, a.Ready+a.Starting), cmp.Compare(a.Shape.Memory, b.Shape.Memory),
			cmp.Compare(a.Shape.CPU, b.Shape.CPU), cmp.Compare(a.Shape.Disk, b.Shape.Disk))
	})
	return out
}

// Name is that of this front-end, anew with each start.
func (s *Service) Name() string { return s.arrivals.name }
