// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
)

type slot struct {
	text   []byte
	change uint64
}

// AddSlot implements frontend.Store.
func (s *Store) AddSlot(ctx context.Context, r *frontend.Slot) error {
	if err := s.enter(ctx, "AddSlot"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.slots[r.ID]; ok {
		return frontend.ErrExists
	}
	return s.setSlot(r)
}

// setSlot is called with mu held.
func (s *Store) setSlot(r *frontend.Slot) error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if s.slots == nil {
		s.slots = map[string]slot{}
	}
	s.slotChange()
	r.Version = s.index
	s.slots[r.ID] = slot{text: text, change: s.index}
	return nil
}

// slotChange is called with mu held.
func (s *Store) slotChange() {
	s.index++
	s.slotIndex = s.index
	if s.slotsChanged != nil {
		close(s.slotsChanged)
		s.slotsChanged = nil
	}
}

// UpdateSlot implements frontend.Store.
func (s *Store) UpdateSlot(ctx context.Context, r *frontend.Slot) error {
	if err := s.enter(ctx, "UpdateSlot"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.slots[r.ID]; !ok || old.change != r.Version {
		return frontend.ErrConflict
	}
	return s.setSlot(r)
}

// DropSlot implements frontend.Store.
func (s *Store) DropSlot(ctx context.Context, r *frontend.Slot) error {
	if err := s.enter(ctx, "DropSlot"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.slots[r.ID]; !ok || old.change != r.Version {
		return frontend.ErrConflict
	}
	delete(s.slots, r.ID)
	s.slotChange()
	return nil
}

// TakeSlots implements frontend.Store. As in Consul, those that are taken in one call
// have the same place in the order.
func (s *Store) TakeSlots(ctx context.Context, takes []*frontend.Take) {
	err := s.enter(ctx, "TakeSlots")
	s.mu.Lock()
	defer s.mu.Unlock()
	order := s.index + 1
	for _, t := range takes {
		if t.Err = err; err == nil {
			t.Err = s.takeSlot(t.Slot, t.Session, order)
		}
	}
	for _, t := range takes {
		if t.Err == nil {
			t.Entries = s.entries(t.Session.Account)
		}
	}
}

// takeSlot is called with mu held.
func (s *Store) takeSlot(r *frontend.Slot, sess *frontend.Session, order uint64) error {
	old, ok := s.slots[r.ID]
	if _, is := s.records[sess.ID]; !ok || old.change != r.Version || is {
		return frontend.ErrConflict
	}
	if err := s.set(sess, order); err != nil {
		return err
	}
	delete(s.slots, r.ID)
	s.slotChange()
	return nil
}

// Slots implements frontend.Store.
func (s *Store) Slots(ctx context.Context, since uint64) ([]*frontend.Slot, uint64, error) {
	if err := s.enter(ctx, "Slots"); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	if since == s.slotIndex {
		if s.slotsChanged == nil {
			s.slotsChanged = make(chan struct{})
		}
		changed := s.slotsChanged
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("wait for slots: %w: %w", frontend.ErrUnavailable, context.Cause(ctx))
		}
		s.mu.Lock()
	}
	defer s.mu.Unlock()
	out := make([]*frontend.Slot, 0, len(s.slots))
	for _, kept := range s.slots {
		r := &frontend.Slot{Version: kept.change}
		if err := json.Unmarshal(kept.text, r); err != nil {
			return nil, 0, err
		}
		out = append(out, r)
	}
	return out, s.slotIndex, nil
}

// PutReport implements frontend.Store.
func (s *Store) PutReport(ctx context.Context, who string, r frontend.Report) error {
	if err := s.enter(ctx, "PutReport"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reports == nil {
		s.reports = map[string]frontend.Report{}
	}
	s.reports[who] = r
	return nil
}

// Reports implements frontend.Store.
func (s *Store) Reports(ctx context.Context) (map[string]frontend.Report, error) {
	if err := s.enter(ctx, "Reports"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	out := maps.Clone(s.reports)
	if out == nil {
		out = map[string]frontend.Report{}
	}
	return out, nil
}

// DropReport implements frontend.Store.
func (s *Store) DropReport(ctx context.Context, who string) error {
	if err := s.enter(ctx, "DropReport"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.reports, who)
	return nil
}

// StartSlot implements frontend.Scheduler.
func (s *Scheduler) StartSlot(_ context.Context, r *frontend.Slot) error {
	if err := s.enter("StartSlot"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.jobs[r.ID][1]; ok {
		return frontend.ErrExists
	}
	s.Slots++
	s.set(r.ID, 1, job{})
	if !s.Idle {
		s.Store.PutClaim(claim.Claim{Session: r.ID, Epoch: 1, Alloc: "alloc-" + r.ID, Node: Node, API: s.API, Preview: s.Preview})
	}
	return nil
}

// JobVersion implements frontend.Scheduler.
func (s *Scheduler) JobVersion() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Version
}

// Counts are Starts and Slots while calls may be under way.
func (s *Scheduler) Counts() (starts, slots int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Starts, s.Slots
}

// SetNoRoom has nothing claimed any more, for want of room.
func (s *Scheduler) SetNoRoom() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Idle, s.NoRoom = true, true
}

// SetVersion sets Version while calls may be under way.
func (s *Scheduler) SetVersion(version string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Version = version
}
