// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"
	"encoding/json"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buntime/buntime/frontend"
)

func receipt(ends time.Time) *frontend.Receipt {
	ends = ends.UTC().Truncate(time.Second)
	return &frontend.Receipt{Request: "r", Ends: ends, Until: ends.Add(-time.Hour), Execution: "exe_a"}
}

// receipts: of many who store the first one succeeds, and only who has the last
// version changes it.
func (s *suite) receipts(t *testing.T, ctx context.Context) {
	const name = "receipts"
	_, err := s.store.Receipt(ctx, name)
	wants(t, "receipt that is not there", err, frontend.ErrNotFound)
	r := receipt(time.Now().Add(time.Hour))
	var wg sync.WaitGroup
	var won atomic.Int32
	for range 8 {
		wg.Go(func() {
			mine := *r
			if err := s.store.PutReceipt(ctx, name, &mine); err == nil {
				won.Add(1)
			} else {
				wants(t, "loser", err, frontend.ErrConflict)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("%d of 8 have stored the first", won.Load())
	}
	got, err := s.store.Receipt(ctx, name)
	if err != nil {
		t.Fatal(err)
	}
	stale := *got
	got.Answer = json.RawMessage(`{"a":"<&>"}`)
	if err := s.store.PutReceipt(ctx, name, got); err != nil {
		t.Fatal(err)
	}
	wants(t, "stale change", s.store.PutReceipt(ctx, name, &stale), frontend.ErrConflict)
	wants(t, "stale removal", s.store.DropReceipt(ctx, name, &stale), frontend.ErrConflict)
	if again, err := s.store.Receipt(ctx, name); err != nil || !reflect.DeepEqual(again, got) {
		t.Errorf("got %+v, want %+v, %v", again, got, err)
	}
	for range 2 {
		if err := s.store.DropReceipt(ctx, name, got); err != nil {
			t.Error(err)
		}
	}
	_, err = s.store.Receipt(ctx, name)
	wants(t, "receipt after its removal", err, frontend.ErrNotFound)
	wants(t, "change after removal", s.store.PutReceipt(ctx, name, got), frontend.ErrConflict)
}

// sweep: what is over goes, and what is not, or was used again, stays.
func (s *suite) sweep(t *testing.T, ctx context.Context) {
	now := time.Now()
	old, again, young := receipt(now.Add(-2*time.Hour)), receipt(now.Add(-3*time.Hour)), receipt(now.Add(time.Hour))
	for name, r := range map[string]*frontend.Receipt{"sweep-old": old, "sweep-again": again, "sweep-young": young} {
		if err := s.store.PutReceipt(ctx, name, r); err != nil {
			t.Fatal(err)
		}
	}
	again.Ends = now.Add(2 * time.Hour).UTC().Truncate(time.Second)
	if err := s.store.PutReceipt(ctx, "sweep-again", again); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.store.SweepReceipts(ctx, now); err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.store.Receipt(ctx, "sweep-old")
	wants(t, "receipt that is over", err, frontend.ErrNotFound)
	for name, want := range map[string]*frontend.Receipt{"sweep-again": again, "sweep-young": young} {
		if got, err := s.store.Receipt(ctx, name); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v, %v", name, got, want, err)
		}
	}
}
