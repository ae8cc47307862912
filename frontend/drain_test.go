// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

// runs lets the world's front-end lead until the test ends.
func (w *world) runs(t *testing.T) {
	var leads sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	leads.Go(func() { new(frontendtest.Election).Lead(ctx, w.Run) })
	t.Cleanup(func() { cancel(); leads.Wait() })
}

func (w *world) state(t *testing.T, sess *frontend.Session) frontend.State {
	t.Helper()
	r, err := w.store.Get(t.Context(), sess.ID)
	if err != nil {
		t.Fatal(err)
	}
	return r.State
}

// TestDrain: what is unused sleeps at once, what is in use as soon as it is not, and
// what cannot be saved when it can.
func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		unused, used, unsaved, byItself, unnoted := w.created(t), w.created(t), w.created(t), w.created(t), w.created(t)
		// The front-end that made it died before it had noted the claim.
		half, err := w.store.Get(t.Context(), unnoted.ID)
		if err != nil {
			t.Fatal(err)
		}
		half.State, half.Claim = frontend.StateStarting, unused.Claim
		half.Claim.API = ""
		if err := w.store.Update(t.Context(), half); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		w.node.sleep = func(sess *frontend.Session) error {
			switch {
			case sess.ID == used.ID && time.Since(begin) < 3500*time.Millisecond:
				return frontend.Errorf(frontend.CodeSessionBusy, "test")
			case sess.ID == unsaved.ID && time.Since(begin) < 15*time.Second:
				return frontend.Unavailable("test")
			}
			w.store.PutRest(rest(sess, true))
			if sess.ID == byItself.ID {
				return fmt.Errorf("test: %w", frontend.ErrAway)
			}
			return nil
		}
		w.runs(t)
		synctest.Wait()
		begin = time.Now()
		w.scheduler.Drain(frontendtest.Node)
		for _, step := range []struct {
			at    time.Duration
			awake []*frontend.Session
		}{
			{100 * time.Millisecond, []*frontend.Session{used, unsaved, unnoted}},
			{1500 * time.Millisecond, []*frontend.Session{used, unsaved}},
			{4500 * time.Millisecond, []*frontend.Session{unsaved}},
			{21 * time.Second, nil},
		} {
			time.Sleep(step.at - time.Since(begin))
			synctest.Wait()
			awake := map[string]bool{}
			for _, sess := range step.awake {
				awake[sess.ID] = true
			}
			for i, sess := range []*frontend.Session{unused, used, unsaved, byItself, unnoted} {
				if got := w.state(t, sess); got == frontend.StateDeepSleep == awake[sess.ID] {
					t.Errorf("after %v session %d is %s", step.at, i, got)
				}
			}
		}
		if w.scheduler.Starts != 5 {
			t.Errorf("%d jobs were started: one that sleeps was woken", w.scheduler.Starts)
		}
		// Who comes is woken, and the node that drains no more is left alone.
		w.scheduler.Drain()
		awake, err := w.Resolve(t.Context(), "acme", unused.ID)
		if err != nil || awake.Epoch != 2 {
			t.Fatalf("%+v, %v", awake, err)
		}
		time.Sleep(time.Hour)
		if got := w.state(t, awake); got != frontend.StateActive {
			t.Errorf("it is %s", got)
		}
	})
}

// TestDrainUndone: it ends the emptying.
func TestDrainUndone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.created(t)
		asked := 0
		w.node.sleep = func(*frontend.Session) error {
			asked++
			return frontend.Errorf(frontend.CodeSessionBusy, "test")
		}
		w.runs(t)
		w.scheduler.Drain("another", frontendtest.Node)
		time.Sleep(9500 * time.Millisecond)
		w.scheduler.Drain("another")
		synctest.Wait()
		if asked != 10 {
			t.Errorf("asked %d times in 10 s", asked)
		}
		time.Sleep(time.Hour)
		if asked != 10 {
			t.Errorf("asked %d times although it drains no more", asked)
		}
	})
}

// TestDrainIsPaced: not all of a node go to sleep at a time; and it is tried again
// when the scheduler has not answered.
func TestDrainIsPaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var all []*frontend.Session
		for range 40 {
			all = append(all, w.created(t))
		}
		var mu sync.Mutex
		now, most := 0, 0
		w.node.sleep = func(sess *frontend.Session) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			w.store.PutRest(rest(sess, true))
			return nil
		}
		begin := time.Now()
		w.scheduler.Fail = func(method string) error {
			if since := time.Since(begin); method == "Draining" && since < 5*time.Second || method == "On" && since < 15*time.Second {
				return fmt.Errorf("test: %w", frontend.ErrUnavailable)
			}
			return nil
		}
		w.scheduler.Drain(frontendtest.Node)
		w.runs(t)
		time.Sleep(25*time.Second + 500*time.Millisecond)
		synctest.Wait()
		for _, sess := range all {
			if got := w.state(t, sess); got != frontend.StateDeepSleep {
				t.Errorf("%s is %s", sess.ID, got)
			}
		}
		if most != 8 {
			t.Errorf("up to %d went to sleep at a time", most)
		}
	})
}
