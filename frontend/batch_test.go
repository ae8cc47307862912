// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

// slowIndex is a store whose index takes a while to read.
type slowIndex struct {
	*frontendtest.Store
	reads atomic.Int64
}

func (s *slowIndex) Account(ctx context.Context, account string) ([]frontend.Entry, error) {
	s.reads.Add(1)
	time.Sleep(100 * time.Millisecond)
	return s.Store.Account(ctx, account)
}

// TestCountTogether: creates at the same time share the readings of their account's
// index, and as many of them go through as may.
func TestCountTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		store := &slowIndex{Store: w.store}
		w.Store = store
		k := key(t, "a", "paid")
		k.Allowed.Sessions = 10
		var made atomic.Int64
		var all sync.WaitGroup
		for range 14 { // no more than are started at a time
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
		if n := store.reads.Load(); made.Load() != 10 || n > 3 {
			t.Errorf("%d were made, with %d readings of the index", made.Load(), n)
		}
	})
}
