// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// takesUnderWay is how many calls take slots at a time: while one is written, the next
// is on its way.
const takesUnderWay = 2

// taking takes slots for all who come at the same time in as few calls of the Store as
// it can. Who comes alone waits for nobody.
type taking struct {
	mu       sync.Mutex
	waiting  []*waitingTake
	underWay int
}

type waitingTake struct {
	*Take
	done chan struct{}
}

// takeSlot has the Store take a slot. When the context ends before it has begun with
// it, nothing is done, and after that what was done is waited for: a session that
// nobody knows of would have no owner.
func (s *Service) takeSlot(ctx context.Context, t *Take) error {
	k := &s.taking
	w := &waitingTake{t, make(chan struct{})}
	k.mu.Lock()
	k.waiting = append(k.waiting, w)
	if k.underWay < takesUnderWay {
		k.underWay++
		s.background.Go(func() { s.takeWaiting(context.WithoutCancel(ctx)) })
	}
	k.mu.Unlock()
	select {
	case <-w.done:
		return t.Err
	case <-ctx.Done():
	}
	if k.leave(w) {
		return context.Cause(ctx)
	}
	<-w.done // at most lookupTimeout
	return t.Err
}

// leave takes one out who waits. false: it is at work.
func (k *taking) leave(w *waitingTake) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	before := len(k.waiting)
	k.waiting = slices.DeleteFunc(k.waiting, func(o *waitingTake) bool { return o == w })
	return len(k.waiting) < before
}

// next is who is served in the next call; nobody ends the work.
func (k *taking) next() (some []*waitingTake) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := min(len(k.waiting), MaxTakes)
	some, k.waiting = slices.Clone(k.waiting[:n]), slices.Delete(k.waiting, 0, n)
	if n == 0 {
		k.underWay--
	}
	return some
}

// takeWaiting takes slots as long as somebody waits.
func (s *Service) takeWaiting(ctx context.Context) {
	for some := s.taking.next(); len(some) > 0; some = s.taking.next() {
		takes := make([]*Take, len(some))
		for i, w := range some {
			takes[i] = w.Take
		}
		limited, cancel := context.WithTimeoutCause(ctx, lookupTimeout, fmt.Errorf("slots not taken in %v", lookupTimeout))
		s.Store.TakeSlots(limited, takes)
		cancel()
		for _, w := range some { // before anybody has a list, which may be the same for many
			slices.SortFunc(w.Entries, Entry.compare)
		}
		for _, w := range some {
			close(w.done)
		}
	}
}
