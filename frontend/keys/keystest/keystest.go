// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package keystest has a keys.Store in memory, and the suite that every one must pass.
package keystest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/keys"
)

// Store is a keys.Store in memory. Its zero value is ready.
type Store struct {
	mu      sync.Mutex
	index   uint64
	all     map[keys.Sum]keys.Record
	changed chan struct{} // closed and replaced with every change; nil before anybody waits
	down    bool
}

// SetDown has the store not answer.
func (s *Store) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	s.wake()
}

func (s *Store) wake() {
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// Keys implements keys.Store.
func (s *Store) Keys(ctx context.Context, since uint64) ([]keys.Record, uint64, error) {
	for {
		s.mu.Lock()
		if s.down {
			s.mu.Unlock()
			return nil, 0, frontend.ErrUnavailable
		}
		if s.index+1 != since {
			all := slices.Collect(maps.Values(s.all))
			index := s.index + 1
			s.mu.Unlock()
			return all, index, nil
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("wait for keys: %w: %w", frontend.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// ChangeKeys implements keys.Store.
func (s *Store) ChangeKeys(_ context.Context, put, drop []keys.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range slices.Concat(put, drop) {
		if s.all[r.Sum].Version != r.Version {
			return frontend.ErrConflict
		}
	}
	if s.all == nil {
		s.all = map[keys.Sum]keys.Record{}
	}
	s.index++
	for _, r := range put {
		r.Version = s.index
		s.all[r.Sum] = r
	}
	for _, r := range drop {
		delete(s.all, r.Sum)
	}
	s.wake()
	return nil
}

// TestStore is what every keys.Store must pass; it is empty at first.
func TestStore(t *testing.T, store keys.Store) {
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("test took over a minute"))
	defer cancel()
	all, version, err := store.Keys(ctx, 0)
	if err != nil || len(all) != 0 || version == 0 {
		t.Fatalf("%v at %d, %v", all, version, err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	a := keys.Record{Sum: keys.SumOf("a"), ID: "key_a", Account: "a", Plan: "paid", Limits: frontend.Plan{Requests: 5, CPU: 0.5}, Created: now}
	b := keys.Record{Sum: keys.SumOf("b"), ID: "key_b", Account: "b", Plan: "free", Label: "<b>", Created: now, Expires: now.Add(time.Hour)}
	if err := store.ChangeKeys(ctx, []keys.Record{a, b}, nil); err != nil {
		t.Fatal(err)
	}
	if all, version, err = store.Keys(ctx, version); err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	slices.SortFunc(all, func(x, y keys.Record) int { return int(x.ID[4]) - int(y.ID[4]) })
	for i, want := range []keys.Record{a, b} {
		want.Version = all[i].Version
		if all[i] != want || want.Version == 0 {
			t.Errorf("got %+v, want %+v", all[i], want)
		}
	}
	// All or nothing.
	c := keys.Record{Sum: keys.SumOf("c"), ID: "key_c", Account: "c", Plan: "free", Created: now}
	if err := store.ChangeKeys(ctx, []keys.Record{c, a}, nil); !errors.Is(err, frontend.ErrConflict) {
		t.Errorf("change of a stale record: %v", err)
	}
	stale := all[0]
	stale.Version--
	if err := store.ChangeKeys(ctx, []keys.Record{c}, []keys.Record{stale}); !errors.Is(err, frontend.ErrConflict) {
		t.Errorf("removal of a stale record: %v", err)
	}
	// Who waits is told.
	told := make(chan int, 1)
	go func() {
		for since := version; ; {
			got, now, err := store.Keys(ctx, since)
			if err != nil || now != since && len(got) != len(all) {
				told <- len(got)
				return
			}
			since = now
		}
	}()
	if err := store.ChangeKeys(ctx, nil, all[:1]); err != nil {
		t.Fatal(err)
	}
	if n := <-told; n != 1 {
		t.Errorf("%d keys after a removal", n)
	}
	if err := store.ChangeKeys(ctx, nil, all[:1]); !errors.Is(err, frontend.ErrConflict) {
		t.Errorf("removal again: %v", err)
	}
}
