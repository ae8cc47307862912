// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

// TestReapInParts: of more sessions than a round may read none is left out for good,
// and none ended that goes on.
func TestReapInParts(t *testing.T) {
	const most, sessions = 20, 300
	w := newWorld(t)
	w.SetReapMost(most)
	o := &objects{}
	w.Objects = o
	var stay []string
	add := func(state frontend.State, ttl time.Duration) *frontend.Session {
		t.Helper()
		s := frontendtest.Session("a")
		s.State, s.Expires = state, s.Created.Add(ttl)
		if err := w.store.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for range sessions / 3 {
		stay = append(stay, add(frontend.StateDeepSleep, 24*time.Hour).ID)
		s := add(frontend.StateActive, 24*time.Hour)
		w.scheduler.Add(s.ID, false)
		stay = append(stay, s.ID)
	}
	w.forward(2 * time.Hour)
	count := func() int {
		t.Helper()
		records, err := w.store.All(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return len(records)
	}
	reap := func(rounds int) {
		t.Helper()
		for range rounds {
			if err := w.Reap(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	const pass = 2 * 2 * sessions / most // rounds, at least: a part of few sessions costs nothing
	reap(pass)                           // it has seen how many there are
	for range sessions / 3 {
		add(frontend.StateDeepSleep, time.Hour)
		add(frontend.StateStarting, 24*time.Hour)
		w.store.PutClaim(claim.Claim{Session: frontend.NewID(), Epoch: 1})
		w.scheduler.Add(frontend.NewID(), false)
		o.ids = append(o.ids, frontend.NewID())
	}
	reap(1)
	if n := count(); n < len(stay)+sessions/3 {
		t.Errorf("a round has ended half of %d sessions", 2*sessions/3)
	}
	reap(pass)
	if n := count(); n != len(stay) {
		t.Errorf("%d records are left of %d that stay", n, len(stay))
	}
	for _, id := range stay {
		if _, err := w.store.Get(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if jobs, _ := w.scheduler.Jobs(t.Context()); len(jobs) != sessions/3 {
		t.Errorf("%d jobs are left of %d", len(jobs), sessions/3)
	}
	if traces, err := w.store.Traces(t.Context(), ""); err != nil || len(traces) > 0 {
		t.Errorf("claims are left: %v, %v", traces, err)
	}
	for _, id := range o.ids {
		removed := false
		for _, r := range o.removed {
			removed = removed || r == id
		}
		if !removed {
			t.Errorf("objects of %s are left", id)
		}
	}

	// What has ended since the last pass, or whose job is dead, need not wait.
	soon := add(frontend.StateDeepSleep, 2*time.Hour+20*time.Minute)
	reap(pass)
	dead := add(frontend.StateActive, 24*time.Hour)
	w.scheduler.Add(dead.ID, true)
	w.forward(21 * time.Minute)
	reap(1)
	for _, s := range []*frontend.Session{soon, dead} {
		if _, err := w.store.Get(t.Context(), s.ID); err == nil {
			t.Errorf("session %s (%s) is still there", s.ID, s.State)
		}
	}
}
