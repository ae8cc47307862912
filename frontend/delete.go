// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"

	"github.com/buntime/buntime/frontend/timing"
)

// Delete ends an account's session for good. With its record it is gone from
// sight at once; what ran for it is ended before Delete returns, or, should
// the scheduler not answer, by Reap.
func (s *Service) Delete(ctx context.Context, account, id string) error {
	if !ValidID(id) {
		return NoSession(id)
	}
	found := false
	stop := timing.Start(ctx, "kv")
	err := s.retry(ctx, id, func(ctx context.Context, sess *Session) error {
		if sess.Account != account || sess.Expired(s.Now()) {
			return NoSession(id)
		}
		err := s.Store.Delete(ctx, sess)
		found = err == nil
		return err
	})
	stop()
	if err != nil {
		return err
	}
	if !found {
		return NoSession(id)
	}
	s.Forget(id)
	s.Observer.Ended(EndDeleted)
	s.end(ctx, id)
	return nil
}

// end releases what ran for a session whose record is gone. Its caller may go
// away meanwhile.
func (s *Service) end(ctx context.Context, id string) {
	defer timing.Start(ctx, "deregister")()
	ctx, cancel := cleanup(ctx)
	defer cancel()
	if err := s.release(ctx, id); err != nil {
		s.Log.WarnContext(ctx, "release ended session; the reaper will try again", "session", id, "err", err)
	}
}
