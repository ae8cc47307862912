// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"time"
)

const (
	// roomAfter is how long a job may wait for a node until it is asked why.
	roomAfter = time.Second
	// roomSlots is how many slots give way at a time: a session may be as big as
	// several of them.
	roomSlots = 4
)

// awaitPlace is awaitClaim for a job that was just registered. Where the scheduler
// finds no room for it, slots give way: nobody needs them as much.
func (s *Service) awaitPlace(ctx context.Context, sess *Session, since uint64) (*Session, error) {
	for s.Pool.Max > 0 {
		limited, cancel := context.WithTimeout(ctx, roomAfter)
		placed, err := s.awaitClaim(limited, sess, since)
		over := limited.Err() != nil
		cancel()
		if err == nil || !over || ctx.Err() != nil {
			return placed, err
		}
		if full, err := s.Scheduler.Full(ctx, sess.ID, sess.Epoch); err == nil && full && !s.giveWay(ctx) {
			break
		}
		since = 0
	}
	return s.awaitClaim(ctx, sess, since)
}

// giveWay ends some slots. false: there are none.
func (s *Service) giveWay(ctx context.Context) (some bool) {
	slots, _, _ := s.pool.all(s.Now())
	for _, slot := range slots[:min(roomSlots, len(slots))] {
		some = true
		if err := s.endSlot(ctx, slot, "a session needs its room"); err != nil {
			s.Log.Warn("end slot", "slot", slot.ID, "err", err)
		}
	}
	return some
}
