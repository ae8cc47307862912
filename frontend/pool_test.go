// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

// poolSettings are those of these tests.
var poolSettings = frontend.PoolSettings{Min: 3, Max: 10, MaxAge: time.Hour, Refills: 2, NodeMemory: 1024}

// withPool runs a test in a world with a pool, whose front-end leads.
func withPool(t *testing.T, test func(*testing.T, *world)) {
	withPoolOf(t, poolSettings, test)
}

func withPoolOf(t *testing.T, settings frontend.PoolSettings, test func(*testing.T, *world)) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Pool = settings
		stop := w.serve(w.Service, true)
		defer stop()
		time.Sleep(5500 * time.Millisecond) // between two looks of the keeper's
		test(t, w)
	})
}

// serve has a front-end with a pool do what it does beside answering.
func (w *world) serve(s *frontend.Service, lead bool) (stop func()) {
	if s.Pool.Max == 0 {
		s.Pool = poolSettings
	}
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { s.WatchPool(ctx) })
	if lead {
		work.Go(func() { s.Run(ctx) })
	}
	return sync.OnceFunc(func() { cancel(); work.Wait(); s.Close() })
}

// slots are the ids of those that are ready, and how many others there are.
func (w *world) slots(t *testing.T) (ready []string, others int) {
	t.Helper()
	list, _, err := w.store.Slots(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range list {
		if slot.Ready() {
			ready = append(ready, slot.ID)
		} else {
			others++
		}
	}
	slices.Sort(ready)
	return ready, others
}

func (w *world) wantSlots(t *testing.T, want int) []string {
	t.Helper()
	ready, others := w.slots(t)
	if len(ready) != want || others != 0 {
		t.Errorf("%d slots are ready, %d are not, want %d", len(ready), others, want)
	}
	return ready
}

// addSlot is a slot that somebody has made before.
func (w *world) addSlot(t *testing.T, change func(*frontend.Slot)) *frontend.Slot {
	t.Helper()
	slot := &frontend.Slot{
		ID: frontend.NewID(), Shape: frontend.DefaultLimits.Shape(), Made: w.Now().UTC(), Ends: w.Now().Add(time.Hour).UTC(),
	}
	if err := w.scheduler.StartSlot(t.Context(), slot); err != nil {
		t.Fatal(err)
	}
	slot.Claim = claim.Claim{Session: slot.ID, Epoch: 1, Node: frontendtest.Node, API: "api:1", Preview: "preview:1"}
	change(slot)
	if err := w.store.AddSlot(t.Context(), slot); err != nil {
		t.Fatal(err)
	}
	return slot
}

func asItIs(*frontend.Slot) {}

// TestCreateFromSlot: a create takes a slot, without a job of its own, and another
// slot takes its place.
func TestCreateFromSlot(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		before := w.wantSlots(t, 3)
		told := make(chan *frontend.Session, 1)
		w.node.begin = func(_ context.Context, s *frontend.Session) error { told <- s; return nil }
		ttl, memory := 600, 1024
		s, err := w.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{
			TTL: &ttl, Metadata: []byte(`{"x":1}`), Limits: &frontend.LimitsRequest{Memory: &memory},
		})
		if err != nil {
			t.Fatal(err)
		}
		if starts, _ := w.scheduler.Counts(); !slices.Contains(before, s.ID) || starts != 0 {
			t.Errorf("%s is none of %v, or one of %d jobs of their own", s.ID, before, starts)
		}
		if !s.Placed() || s.State != frontend.StateActive || s.Epoch != 1 || !s.Expires.Equal(s.Created.Add(10*time.Minute)) {
			t.Errorf("%+v", s)
		}
		if n := <-told; n.ID != s.ID || !n.Expires.Equal(s.Expires) {
			t.Errorf("its node was told of %+v", n)
		}
		r, err := w.store.Get(t.Context(), s.ID)
		if err != nil || !r.Placed() || string(r.Metadata) != `{"x":1}` || r.Account != "a" {
			t.Errorf("record %+v, %v", r, err)
		}
		time.Sleep(5 * time.Second)
		if after := w.wantSlots(t, 3); slices.Contains(after, s.ID) {
			t.Error("it is a slot still")
		}
		if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil {
			t.Error(err)
		}
		time.Sleep(2 * time.Minute) // the reaper has looked
		if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil {
			t.Error(err)
		}
	})
}

// TestSlotHasNoSession: until it is taken, its id is nobody's.
func TestSlotHasNoSession(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		for _, id := range w.wantSlots(t, 3) {
			_, err := w.ResolvePreview(t.Context(), id)
			wantCode(t, "preview", err, frontend.CodeSessionNotFound)
			wantCode(t, "delete", w.Delete(t.Context(), "a", id), frontend.CodeSessionNotFound)
		}
		w.wantSlots(t, 3)
	})
}

// TestOneSlotForTwo: of two front-ends that want the only slot one gets it, and the
// other starts a job.
func TestOneSlotForTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		other := w.another()
		for _, s := range []*frontend.Service{w.Service, other} {
			stop := w.serve(s, false)
			defer stop()
		}
		for range 20 {
			slot := w.addSlot(t, asItIs)
			time.Sleep(time.Second)
			starts := w.scheduler.Starts
			made := make([]*frontend.Session, 2)
			var both sync.WaitGroup
			for i, s := range []*frontend.Service{w.Service, other} {
				both.Go(func() {
					var err error
					if made[i], err = s.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{}); err != nil {
						t.Error(err)
					}
				})
			}
			both.Wait()
			if (made[0].ID == slot.ID) == (made[1].ID == slot.ID) || w.scheduler.Starts != starts+1 {
				t.Fatalf("%s and %s of slot %s, %d jobs", made[0].ID, made[1].ID, slot.ID, w.scheduler.Starts-starts)
			}
		}
	})
}

// TestNodeOfSlotIsGone: a create whose slot does not answer takes another, or starts
// a job, and leaves nothing of the first.
func TestNodeOfSlotIsGone(t *testing.T) {
	for _, how := range []string{"refuses", "hangs"} {
		for _, good := range []bool{true, false} {
			t.Run(fmt.Sprint(how, ", another ", good), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					stop := w.serve(w.Service, false)
					defer stop()
					var bad []*frontend.Slot
					for range 3 {
						bad = append(bad, w.addSlot(t, func(s *frontend.Slot) { s.Claim.Node = "bad" }))
					}
					time.Sleep(time.Second)
					tried := 0
					w.node.begin = func(ctx context.Context, s *frontend.Session) error {
						if s.Claim.Node != "bad" {
							return nil
						}
						tried++
						if how == "hangs" {
							<-ctx.Done()
							return context.Cause(ctx)
						}
						if tried == 1 && good { // so that the first try is a bad one
							w.addSlot(t, asItIs)
						}
						return frontend.ErrAway
					}
					s := w.create(t, "a")
					w.Close()
					if tried != 1 {
						t.Errorf("%d slots of the node were tried", tried)
					}
					left := 0
					for _, slot := range bad {
						if _, err := w.store.Claim(t.Context(), slot.ID, 1); err == nil {
							left++
						}
					}
					if records, err := w.store.All(t.Context(), ""); err != nil || len(records) != 1 || records[0].ID != s.ID || left != 2 {
						t.Errorf("%d records, %v, and %d of 3 slots", len(records), err, left)
					}
				})
			})
		}
	}
}

// TestFullAccountTakesNoSlot: who has as many sessions as may be uses up no slots.
func TestFullAccountTakesNoSlot(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		k := key(t, "a", "free")
		k.Allowed.Sessions = 1
		if _, err := w.Create(t.Context(), k, frontend.CreateRequest{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		_, made := w.scheduler.Counts()
		for range 20 {
			_, err := w.Create(t.Context(), k, frontend.CreateRequest{})
			wantCode(t, "one too many", err, frontend.CodeSessionLimit)
		}
		time.Sleep(5 * time.Second)
		w.wantSlots(t, 3)
		if _, now := w.scheduler.Counts(); now != made {
			t.Errorf("%d slots were made", now-made)
		}
	})
}

// TestLastSessionFromSlots: of many creates at the edge as many go through as may, and
// nothing stays of the others.
func TestLastSessionFromSlots(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		k := key(t, "a", "paid")
		k.Allowed.Sessions = 2
		var all sync.WaitGroup
		var mu sync.Mutex
		made := 0
		for range 8 {
			all.Go(func() {
				_, err := w.Create(t.Context(), k, frontend.CreateRequest{})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made++
				} else {
					wantCode(t, "one too many", err, frontend.CodeSessionLimit)
				}
			})
		}
		all.Wait()
		time.Sleep(2 * time.Minute)
		records, err := w.store.All(t.Context(), "")
		jobs, jerr := w.scheduler.Jobs(t.Context())
		ready, _ := w.slots(t)
		if made != 2 || err != nil || len(records) != 2 || jerr != nil || len(jobs) != 2+len(ready) {
			t.Errorf("%d made; %d records, %d jobs, %d slots; %v, %v", made, len(records), len(jobs), len(ready), err, jerr)
		}
	})
}

// deaf is a store that does what it is told and never says so.
type deaf struct{ *frontendtest.Store }

func (d deaf) TakeSlots(ctx context.Context, takes []*frontend.Take) {
	d.Store.TakeSlots(ctx, takes)
	for _, t := range takes {
		t.Err = fmt.Errorf("no answer: %w", frontend.ErrUnavailable)
	}
}

// TestTakeUnsure: of a slot that was taken without anybody being told nothing stays.
func TestTakeUnsure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.Store = deaf{w.store}
		stop := w.serve(w.Service, false)
		defer stop()
		w.addSlot(t, asItIs)
		time.Sleep(time.Second)
		if _, err := w.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{}); err == nil {
			t.Error("it went well")
		}
		w.Close()
		w.empty(t)
		w.wantSlots(t, 0)
	})
}
