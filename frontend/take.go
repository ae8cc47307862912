// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/buntime/buntime/frontend/timing"
)

// errTaken says that a slot could not be had: somebody else has it, or it is gone.
var errTaken = errors.New("slot is somebody else's, or gone")

// beginTimeout is how long a slot's node may take to begin a session, which is the
// work of a millisecond: one that hangs must leave time for another.
const beginTimeout = 2 * time.Second

// take makes a slot the session: by one compare-and-swap, which nobody else has won
// then, and a word to its node. errTaken says to try elsewhere; nothing is left then.
func (s *Service) take(ctx context.Context, sess *Session, slot *Slot, most int) (*Session, error) {
	n := *sess
	n.ID, n.Claim, n.State, n.Since = slot.ID, slot.Claim, StateActive, s.Now()
	t := &Take{Slot: slot, Session: &n}
	stop := timing.Start(ctx, "kv")
	err := s.takeSlot(ctx, t)
	stop()
	if errors.Is(err, ErrConflict) {
		return nil, errTaken
	}
	if err != nil {
		s.later(ctx, func(ctx context.Context) { s.untakeUnsure(ctx, &n) })
		return nil, fmt.Errorf("take slot %s: %w", slot.ID, err)
	}
	if err = s.judge(&n, t.Entries, most); err == nil {
		err = s.begin(ctx, &n)
	}
	if err != nil {
		s.untake(ctx, &n)
		return nil, err
	}
	s.cache.put(&n, s.Now(), s.Now())
	return &n, nil
}

// begin tells the slot's node. errTaken says that it does not answer, or refuses.
func (s *Service) begin(ctx context.Context, sess *Session) error {
	defer timing.Start(ctx, "claim")()
	limited, cancel := context.WithTimeoutCause(ctx, beginTimeout, fmt.Errorf("no answer in %v", beginTimeout))
	defer cancel()
	err := s.Node.Begin(limited, sess)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	s.Log.WarnContext(ctx, "slot's node does not begin a session; taking another", "session", sess.ID, "node", sess.Claim.Node, "err", err)
	s.pool.distrust(sess.Claim.Node, s.Now())
	return errTaken
}

// untake ends a session that nobody was told of.
func (s *Service) untake(ctx context.Context, sess *Session) {
	s.Forget(sess.ID)
	s.later(ctx, func(ctx context.Context) {
		if err := s.remove(ctx, sess.ID); err != nil {
			s.Log.WarnContext(ctx, "undo create", "session", sess.ID, "err", err)
			return // what has a record stays whole
		}
		if err := s.release(ctx, sess.ID); err != nil {
			s.Log.WarnContext(ctx, "undo create; the reaper will", "session", sess.ID, "err", err)
		}
	})
}

// untakeUnsure is untake where nobody knows whether the slot was taken. If not, it may
// be another's by now.
func (s *Service) untakeUnsure(ctx context.Context, sess *Session) {
	stored, err := s.Store.Get(ctx, sess.ID)
	if errors.Is(err, ErrNotFound) {
		return // it is a slot still
	}
	if err != nil {
		s.Log.WarnContext(ctx, "undo create", "session", sess.ID, "err", err)
		return
	}
	if stored.Account == sess.Account && stored.Since.Equal(sess.Since) {
		s.untake(ctx, sess)
	}
}
