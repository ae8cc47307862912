// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

// TestReap: every state that a crash between two steps leaves behind.
func TestReap(t *testing.T) {
	const grace = time.Minute
	for _, c := range []struct {
		name string
		// what there is
		record, claim, job, dead bool
		state                    frontend.State
		age                      time.Duration
		// what is left
		stays bool
	}{
		{name: "record only, just made", record: true, state: frontend.StateStarting, stays: true},
		{name: "record only, old", record: true, state: frontend.StateStarting, age: grace},
		{name: "job without a claim, just made", record: true, job: true, state: frontend.StateStarting, stays: true},
		{name: "job without a claim, old", record: true, job: true, state: frontend.StateStarting, age: grace},
		{name: "claim that nobody noted, just made", record: true, job: true, claim: true, state: frontend.StateStarting, stays: true},
		{name: "claim that nobody noted, old", record: true, job: true, claim: true, state: frontend.StateStarting, age: grace, stays: true},
		{name: "active", record: true, job: true, claim: true, state: frontend.StateActive, age: grace, stays: true},
		{name: "idle", record: true, job: true, claim: true, state: frontend.StateIdle, age: grace, stays: true},
		{name: "its job died, just now", record: true, job: true, dead: true, claim: true, state: frontend.StateActive, stays: true},
		{name: "its job is dead", record: true, job: true, dead: true, claim: true, state: frontend.StateActive, age: grace},
		{name: "its job is gone", record: true, claim: true, state: frontend.StateActive, age: grace},
		{name: "deep asleep", record: true, state: frontend.StateDeepSleep, age: grace, stays: true},
		{name: "expired", record: true, job: true, claim: true, state: frontend.StateActive, age: 2 * time.Hour},
		{name: "expired while starting", record: true, job: true, claim: true, state: frontend.StateStarting, age: 2 * time.Hour},
		{name: "expired asleep", record: true, state: frontend.StateDeepSleep, age: 2 * time.Hour},
		{name: "job without a record", job: true},
		{name: "claim without a record", claim: true},
		{name: "job and claim without a record", job: true, claim: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			s := frontendtest.Session("a")
			s.State = c.state
			cl := claim.Claim{Session: s.ID, Epoch: 1, API: "api:1"}
			if c.state == frontend.StateActive || c.state == frontend.StateIdle {
				s.Claim = cl
			}
			if c.record {
				if err := w.store.Create(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			if c.claim {
				w.store.PutClaim(cl)
			}
			if c.job {
				w.scheduler.Add(s.ID, c.dead)
			}
			w.forward(c.age)
			first := true
			for range 2 { // also when there is nothing left to do
				if err := w.Reap(t.Context()); err != nil {
					t.Fatal(err)
				}
				if c.record && c.claim && !c.job && !c.stays {
					if _, err := w.store.Get(t.Context(), s.ID); first && err != nil {
						t.Errorf("a node that has had it may be saving it: %v", err)
					}
					first = false
					w.forward(45 * time.Second)
				}
			}
			if !c.stays {
				w.empty(t)
				return
			}
			r, err := w.store.Get(t.Context(), s.ID)
			if err != nil {
				t.Fatal(err)
			}
			if c.claim && c.age > 0 && !r.Placed() {
				t.Errorf("the claim is not noted: %+v", r)
			}
			if jobs, _ := w.scheduler.Jobs(t.Context()); len(jobs) == 1 != c.job {
				t.Errorf("jobs: %v", jobs)
			}
		})
	}
}

// TestReapWithoutScheduler: nothing is ended on hearsay.
func TestReapWithoutScheduler(t *testing.T) {
	w := newWorld(t)
	s := w.create(t, "a")
	w.Close()
	w.forward(time.Hour)
	for _, method := range []string{"Jobs", "Traces", "GetMany"} {
		fail := func(m string) error {
			if m == method {
				return fmt.Errorf("test: %w", frontend.ErrUnavailable)
			}
			return nil
		}
		w.store.SetFail(fail)
		w.scheduler.Fail = fail
		if err := w.Reap(t.Context()); !errors.Is(err, frontend.ErrUnavailable) {
			t.Errorf("%s: %v", method, err)
		}
		w.store.SetFail(nil)
		w.scheduler.Fail = nil
		if _, err := w.store.Get(t.Context(), s.ID); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s, err := w.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{TTL: new(300)})
		if err != nil {
			t.Fatal(err)
		}
		go w.Run(t.Context())
		time.Sleep(299 * time.Second)
		if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil {
			t.Fatal(err)
		}
		time.Sleep(12 * time.Second)
		w.empty(t)
	})
}
