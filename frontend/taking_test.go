// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

// slowTakes is a store that takes a while to take slots.
type slowTakes struct {
	*frontendtest.Store
	calls, counts atomic.Int64
}

func (s *slowTakes) TakeSlots(ctx context.Context, takes []*frontend.Take) {
	s.calls.Add(1)
	time.Sleep(100 * time.Millisecond)
	s.Store.TakeSlots(ctx, takes)
}

func (s *slowTakes) Account(ctx context.Context, account string) ([]frontend.Entry, error) {
	s.counts.Add(1)
	return s.Store.Account(ctx, account)
}

// withSlots runs a test in a world with so many slots, which nobody makes anew.
func withSlots(t *testing.T, n int, test func(*testing.T, *world, *slowTakes)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		store := &slowTakes{Store: w.store}
		w.Store = store
		stop := w.serve(w.Service, false)
		defer stop()
		for range n {
			w.addSlot(t, asItIs)
		}
		time.Sleep(time.Second)
		test(t, w, store)
	})
}

// TestTakeTogether: creates at the same time take their slots in few calls, at the edge
// of their account's limit as many of them as may, and nobody reads an index.
func TestTakeTogether(t *testing.T) {
	withSlots(t, 30, func(t *testing.T, w *world, store *slowTakes) {
		k := key(t, "a", "paid")
		k.Allowed.Sessions = 17
		var made atomic.Int64
		var all sync.WaitGroup
		for range 30 {
			all.Go(func() {
				_, err := w.Create(t.Context(), k, frontend.CreateRequest{})
				if err == nil {
					made.Add(1)
				} else {
					wantCode(t, "one too many", err, frontend.CodeSessionLimit)
				}
			})
		}
		all.Wait()
		if n := store.calls.Load(); made.Load() != 17 || n > 5 || store.counts.Load() != 0 {
			t.Errorf("%d were made, in %d calls and with %d readings of the index", made.Load(), n, store.counts.Load())
		}
		w.Close()
		if records, err := w.store.All(t.Context(), ""); err != nil || len(records) != 17 {
			t.Errorf("%d records, %v", len(records), err)
		}
	})
}

// TestTakeLeft: whoever does not wait for a slot any more leaves nothing, whether it was
// being taken already or not.
func TestTakeLeft(t *testing.T) {
	withSlots(t, 40, func(t *testing.T, w *world, _ *slowTakes) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		var all sync.WaitGroup
		for range 40 { // more than can be taken at once
			all.Go(func() {
				_, err := w.Create(ctx, key(t, "a", "paid"), frontend.CreateRequest{})
				if err != nil && !errors.Is(err, context.DeadlineExceeded) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		w.Close()
		ready, _ := w.slots(t)
		records, err := w.store.All(t.Context(), "")
		jobs, jerr := w.scheduler.Jobs(t.Context())
		if err != nil || jerr != nil || len(jobs) != len(ready)+len(records) || len(ready) == 40 {
			t.Errorf("%d jobs, %v, for %d slots and %d sessions, %v", len(jobs), jerr, len(ready), len(records), err)
		}
	})
}
