// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
)

// Slot is a slot that is ready, with something in every field.
func Slot() *frontend.Slot {
	now := time.Now().UTC().Truncate(time.Second)
	id := frontend.NewID()
	return &frontend.Slot{
		ID: id, Shape: frontend.DefaultLimits.Shape(), Job: "v1", Made: now, Ends: now.Add(time.Hour),
		Claim: claim.Claim{Session: id, Epoch: 1, Alloc: "alloc", Node: "node", API: "10.0.0.1:1", Preview: "10.0.0.1:2"},
	}
}

func (s *suite) mustAdd(t *testing.T, ctx context.Context) *frontend.Slot {
	t.Helper()
	slot := Slot()
	if err := s.store.AddSlot(ctx, slot); err != nil {
		t.Fatal(err)
	}
	return slot
}

// found is the slot of an id among all, nil if it is not there.
func (s *suite) found(t *testing.T, ctx context.Context, id string) *frontend.Slot {
	t.Helper()
	slots, _, err := s.store.Slots(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		if slot.ID == id {
			return slot
		}
	}
	return nil
}

// take is TakeSlots of one.
func (s *suite) take(ctx context.Context, slot *frontend.Slot, r *frontend.Session) error {
	one := &frontend.Take{Slot: slot, Session: r}
	s.store.TakeSlots(ctx, []*frontend.Take{one})
	return one.Err
}

func (s *suite) slots(t *testing.T, ctx context.Context) {
	slot := Slot()
	where := slot.Claim
	slot.Claim = claim.Claim{}
	if err := s.store.AddSlot(ctx, slot); err != nil || slot.Version == 0 {
		t.Fatalf("version %d, %v", slot.Version, err)
	}
	again := *slot
	wants(t, "add again", s.store.AddSlot(ctx, &again), frontend.ErrExists)
	stale := *slot
	slot.Claim = where
	if err := s.store.UpdateSlot(ctx, slot); err != nil {
		t.Fatal(err)
	}
	wants(t, "update of a stale one", s.store.UpdateSlot(ctx, &stale), frontend.ErrConflict)
	if got := s.found(t, ctx, slot.ID); !reflect.DeepEqual(got, slot) {
		t.Errorf("got %+v, want %+v", got, slot)
	}
	wants(t, "drop of a stale one", s.store.DropSlot(ctx, &stale), frontend.ErrConflict)
	if err := s.store.DropSlot(ctx, slot); err != nil {
		t.Fatal(err)
	}
	wants(t, "drop again", s.store.DropSlot(ctx, slot), frontend.ErrConflict)
	wants(t, "update of nothing", s.store.UpdateSlot(ctx, slot), frontend.ErrConflict)
	if s.found(t, ctx, slot.ID) != nil {
		t.Error("it is still there")
	}
}

// slotTaken: a slot that was taken is a session in every way, and no slot.
func (s *suite) slotTaken(t *testing.T, ctx context.Context) {
	slot := s.mustAdd(t, ctx)
	stale := *slot
	stale.Version++
	r := Session("taken")
	r.ID, r.State, r.Claim = slot.ID, frontend.StateActive, slot.Claim
	wants(t, "take of a stale one", s.take(ctx, &stale, r), frontend.ErrConflict)
	if _, err := s.store.Get(ctx, r.ID); !errors.Is(err, frontend.ErrNotFound) {
		t.Errorf("a record of what was not taken: %v", err)
	}
	if err := s.take(ctx, slot, r); err != nil {
		t.Fatal(err)
	}
	if got, err := s.store.Get(ctx, r.ID); err != nil || !reflect.DeepEqual(got, r) {
		t.Errorf("got %+v, %v, want %+v", got, err, r)
	}
	if entries, err := s.store.Account(ctx, "taken"); err != nil || len(entries) != 1 || entries[0].ID != r.ID || entries[0].New {
		t.Errorf("index: %+v, %v", entries, err)
	}
	if s.found(t, ctx, slot.ID) != nil {
		t.Error("it is a slot still")
	}
	wants(t, "drop of one that was taken", s.store.DropSlot(ctx, slot), frontend.ErrConflict)
	r.Expires = r.Expires.Add(time.Hour) // with the version that it got
	if err := s.store.Update(ctx, r); err != nil {
		t.Error(err)
	}
	if err := s.store.Delete(ctx, r); err != nil {
		t.Error(err)
	}
}

// oneTakes: of many who want a slot at once, or to be rid of it, exactly one has it.
func (s *suite) oneTakes(t *testing.T, ctx context.Context) {
	slot := s.mustAdd(t, ctx)
	errs := make([]error, 16)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			mine := *slot
			if i%4 == 0 {
				errs[i] = s.store.DropSlot(ctx, &mine)
				return
			}
			r := Session("one-takes")
			r.ID = slot.ID
			errs[i] = s.take(ctx, &mine, r)
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			wants(t, "loser", err, frontend.ErrConflict)
		}
	}
	if won != 1 {
		t.Errorf("%d of %d have had one slot", won, len(errs))
	}
}

// takenTogether: of many slots that are taken in one call those are sessions that could
// be had, whatever became of the others, and all see the same list of their account.
func (s *suite) takenTogether(t *testing.T, ctx context.Context) {
	takes := make([]*frontend.Take, frontend.MaxTakes)
	for i := range takes {
		slot := s.mustAdd(t, ctx)
		r := Session("together-" + string(rune('a'+i%2)))
		r.ID = slot.ID
		takes[i] = &frontend.Take{Slot: slot, Session: r}
	}
	others := map[int]bool{1: true, 4: true, 6: true}
	for i := range others {
		mine := *takes[i].Slot
		r := Session("others")
		r.ID = mine.ID
		if err := s.take(ctx, &mine, r); err != nil {
			t.Fatal(err)
		}
	}
	before := s.mustCreate(t, ctx, "together-a")
	s.store.TakeSlots(ctx, takes)
	mine := map[string]int{"together-a": 1} // that before
	for i, take := range takes {
		if others[i] {
			wants(t, "take of another's", take.Err, frontend.ErrConflict)
			if r, err := s.store.Get(ctx, take.Session.ID); err != nil || r.Account != "others" {
				t.Errorf("another's session is %+v, %v", r, err)
			}
			continue
		}
		mine[take.Session.Account]++
		if r, err := s.store.Get(ctx, take.Session.ID); take.Err != nil || err != nil || !reflect.DeepEqual(r, take.Session) {
			t.Errorf("%v; got %+v, %v, want %+v", take.Err, r, err, take.Session)
		}
	}
	for i, take := range takes {
		if others[i] {
			continue
		}
		stored, err := s.store.Account(ctx, take.Session.Account)
		byID := func(a, b frontend.Entry) int { return strings.Compare(a.ID, b.ID) }
		slices.SortFunc(stored, byID)
		told := slices.SortedFunc(slices.Values(take.Entries), byID)
		if err != nil || !reflect.DeepEqual(told, stored) || len(told) != mine[take.Session.Account] {
			t.Errorf("%s: it was told of %+v, stored is %+v, %v", take.Session.Account, told, stored, err)
		}
		for _, e := range take.Entries {
			if take.Session.Account == "together-a" && e.ID != before.ID && e.Order <= before.Version {
				t.Errorf("%s is of %d, before what was stored at %d", e.ID, e.Order, before.Version)
			}
		}
	}
	takes[0].Slot.Version++ // all of them are gone
	s.store.TakeSlots(ctx, takes)
	for _, take := range takes {
		wants(t, "take again", take.Err, frontend.ErrConflict)
	}
}

// slotsWait: who waits for another list gets it, with no change missing.
func (s *suite) slotsWait(t *testing.T, ctx context.Context) {
	_, since, err := s.store.Slots(ctx, 0)
	if err != nil || since == 0 {
		t.Fatalf("%d, %v", since, err)
	}
	slot := s.mustAdd(t, ctx)
	for seen := false; !seen; { // other tests add and drop some, too
		slots, next, err := s.store.Slots(ctx, since)
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range slots {
			seen = seen || one.ID == slot.ID
		}
		if !seen && next >= slot.Version {
			t.Fatalf("the list of %d has nothing of %d", next, slot.Version)
		}
		since = next
	}
	brief, cancel := context.WithTimeout(ctx, time.Millisecond)
	defer cancel()
	for err == nil { // until there is nothing to tell
		_, since, err = s.store.Slots(brief, since)
	}
	wants(t, "a wait that has ended", err, frontend.ErrUnavailable)
}

func (s *suite) reports(t *testing.T, ctx context.Context) {
	want := frontend.Report{
		At:      time.Now().UTC().Truncate(time.Second),
		Creates: []frontend.ShapeCount{{Shape: frontend.Shape{Memory: 1, CPU: 0.5, Disk: 2}, Count: 3}},
	}
	for range 2 {
		if err := s.store.PutReport(ctx, "me", want); err != nil {
			t.Fatal(err)
		}
	}
	all, err := s.store.Reports(ctx)
	if err != nil || !reflect.DeepEqual(all["me"], want) {
		t.Errorf("%+v, %v", all, err)
	}
	for range 2 {
		if err := s.store.DropReport(ctx, "me"); err != nil {
			t.Fatal(err)
		}
	}
	if all, err := s.store.Reports(ctx); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
}
