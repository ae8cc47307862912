// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

// TestSlotsGrow: after a burst there are slots for another, also of another shape,
// and in the end as few as before.
func TestSlotsGrow(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		memory := 2048
		big := frontend.CreateRequest{Limits: &frontend.LimitsRequest{Memory: &memory}}
		for range 6 {
			w.create(t, "a")
			if _, err := w.Create(t.Context(), key(t, "a", "paid"), big); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(10 * time.Second)
		w.wantSlots(t, 12)
		starts, _ := w.scheduler.Counts()
		_, err := w.Create(t.Context(), key(t, "a", "paid"), big)
		if now, _ := w.scheduler.Counts(); err != nil || now != starts {
			t.Errorf("%v, %d jobs were started", err, now-starts)
		}
		time.Sleep(time.Hour)
		w.wantSlots(t, 3)
	})
}

// TestSlotsAreBounded: no shape has more slots than may be, and all together no more
// than the nodes have memory for.
func TestSlotsAreBounded(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		for range 60 {
			w.create(t, "a")
		}
		time.Sleep(20 * time.Second)
		w.wantSlots(t, poolSettings.Max)
	})
	few := poolSettings
	few.NodeMemory = 24 * 7
	withPoolOf(t, few, func(t *testing.T, w *world) {
		for range 60 {
			w.create(t, "a")
		}
		time.Sleep(20 * time.Second)
		w.wantSlots(t, 7)
	})
}

// TestSlotsAge: slots that are old, or of another version of the job, give way.
func TestSlotsAge(t *testing.T) {
	for name, change := range map[string]func(*world){
		"age":     func(w *world) { w.forward(time.Hour) },
		"version": func(w *world) { w.scheduler.SetVersion("other") },
	} {
		t.Run(name, func(t *testing.T) {
			withPool(t, func(t *testing.T, w *world) {
				before := w.wantSlots(t, 3)
				s := w.create(t, "a")
				time.Sleep(5 * time.Second)
				change(w)
				// Nobody takes one of them from now on.
				if n := w.create(t, "a"); slices.Contains(before, n.ID) {
					t.Error("one of the old was taken")
				}
				time.Sleep(10 * time.Second)
				for _, id := range w.wantSlots(t, 3) {
					if slices.Contains(before, id) {
						t.Errorf("%s is still there", id)
					}
				}
				jobs, err := w.scheduler.Jobs(t.Context())
				if err != nil || len(jobs) != 3+2 {
					t.Errorf("jobs %v, %v", jobs, err)
				}
				if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil {
					t.Error("a session that was one of them: ", err)
				}
			})
		})
	}
}

// TestSlotsOfDrainingNode: slots do not keep a node from draining.
func TestSlotsOfDrainingNode(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		before := w.wantSlots(t, 3)
		w.scheduler.Drain(frontendtest.Node)
		time.Sleep(time.Second)
		w.wantSlots(t, 0)
		w.empty(t)
		w.scheduler.Drain()
		time.Sleep(5 * time.Second)
		if after := w.wantSlots(t, 3); slices.Contains(after, before[0]) {
			t.Error("one of them is still there")
		}
	})
}

// TestSlotOfDeadJob: what cannot be taken goes with the next look.
func TestSlotOfDeadJob(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		dead := w.wantSlots(t, 3)[0]
		w.scheduler.End(dead, 1)
		time.Sleep(w.ReapInterval + 5*time.Second)
		if slices.Contains(w.wantSlots(t, 3), dead) {
			t.Error("it is still there")
		}
	})
}

// TestSlotsWithoutOwner: whatever a front-end leaves behind that dies while it makes
// a slot is gone within a minute.
func TestSlotsWithoutOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		// Before its job was registered, and after; and ready.
		half := &frontend.Slot{ID: frontend.NewID(), Shape: frontend.DefaultLimits.Shape(), Made: w.Now(), Ends: w.Now().Add(time.Hour)}
		if err := w.store.AddSlot(t.Context(), half); err != nil {
			t.Fatal(err)
		}
		w.scheduler.Idle = true
		unclaimed := w.addSlot(t, func(s *frontend.Slot) { s.Claim = claim.Claim{} })
		w.scheduler.Idle = false
		claimed := w.addSlot(t, func(s *frontend.Slot) { s.Claim = claim.Claim{} })
		ready := w.addSlot(t, asItIs)
		lost := frontend.NewID() // its record is gone
		w.scheduler.Add(lost, false)
		stop := w.serve(w.Service, true)
		defer stop()
		time.Sleep(time.Minute)
		list := w.wantSlots(t, 3)
		for id, stays := range map[string]bool{half.ID: true, unclaimed.ID: false, claimed.ID: true, ready.ID: true, lost: false} {
			if slices.Contains(list, id) != stays {
				t.Errorf("%s: want it there: %t", id, stays)
			}
		}
		jobs, err := w.scheduler.Jobs(t.Context())
		if err != nil || len(jobs) != 3 {
			t.Errorf("jobs %v, %v", jobs, err)
		}
		if claims, err := w.store.Traces(t.Context(), ""); err != nil || len(claims) != 3 {
			t.Errorf("claims %v, %v", claims, err)
		}
	})
}

// TestPoolOff: what an earlier setting has left goes.
func TestPoolOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.addSlot(t, asItIs)
		if err := w.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.wantSlots(t, 0)
		w.empty(t)
	})
}

// TestNoSlotsWhileNothingWorks: with slots that cannot be made it is tried again ever
// less often.
func TestNoSlotsWhileNothingWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var works atomic.Bool
		w.node.prepared = func(context.Context, *frontend.Session) error {
			if works.Load() {
				return nil
			}
			return errors.New("no")
		}
		stop := w.serve(w.Service, true)
		defer stop()
		time.Sleep(5 * time.Minute)
		if _, n := w.scheduler.Counts(); n < 5 || n > 40 {
			t.Errorf("%d were tried in 5 minutes", n)
		}
		works.Store(true)
		time.Sleep(time.Minute)
		w.wantSlots(t, 3)
	})
}

// TestSlotsGiveWay: a session for which there is no room has that of slots.
func TestSlotsGiveWay(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		w.scheduler.SetNoRoom()
		memory := 4096
		go func() {
			time.Sleep(3 * time.Second)
			if ready, _ := w.slots(t); len(ready) != 0 {
				t.Errorf("%d slots are there still", len(ready))
			}
			records, err := w.store.All(context.Background(), "")
			if err != nil || len(records) != 1 {
				t.Errorf("%d records, %v", len(records), err)
				return
			}
			w.store.PutClaim(claim.Claim{Session: records[0].ID, Epoch: 1, API: "api:1", Preview: "preview:1"})
		}()
		if _, err := w.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{Limits: &frontend.LimitsRequest{Memory: &memory}}); err != nil {
			t.Error(err)
		}
	})
}
