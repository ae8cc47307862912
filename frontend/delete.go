// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"fmt"
	"sync"

	"github.com/buntime/buntime/frontend/timing"
)

// Delete ends an account's session for good. With its record it is gone from
// sight at once; what ran for it is ended before Delete returns, or, should
// the scheduler not answer, by Reap.
func (s *Service) Delete(ctx context.Context, account, id string) error {
	if !ValidID(id) {
		return NoSession(id)
	}
	var ended *Session
	stop := timing.Start(ctx, "kv")
	err := s.retry(ctx, id, func(ctx context.Context, sess *Session) error {
		if sess.Account != account || sess.Expired(s.Now()) {
			return NoSession(id)
		}
		err := s.Store.Delete(ctx, sess)
		if err == nil {
			ended = sess
		}
		return err
	})
	stop()
	if err != nil {
		return err
	}
	if ended == nil {
		return NoSession(id)
	}
	s.Forget(id)
	s.Observer.Ended(EndDeleted)
	s.end(ctx, ended)
	return nil
}

// end releases what ran for a session whose record is gone. Its caller may go
// away meanwhile. The session's node is told as well, which has other front-ends, that
// may know its address for cacheFor, find nobody there, whatever the scheduler takes.
func (s *Service) end(ctx context.Context, sess *Session) {
	defer timing.Start(ctx, "deregister")()
	ctx, cancel := cleanup(ctx)
	defer cancel()
	var told sync.WaitGroup
	if there := s.there(ctx, sess); there != nil { // looked for before its claims go
		told.Go(func() {
			ctx, cancel := context.WithTimeoutCause(ctx, infoTimeout, fmt.Errorf("not told in %v", infoTimeout))
			defer cancel()
			if err := s.Node.End(ctx, there); err != nil {
				s.Log.DebugContext(ctx, "tell the node of an ended session; its scheduler will", "session", sess.ID, "err", err)
			}
		})
	}
	if err := s.release(ctx, sess.ID); err != nil {
		s.Log.WarnContext(ctx, "release ended session; the reaper will try again", "session", sess.ID, "err", err)
	}
	told.Wait()
}

// there is an awake session with its place, nil where it has none. It may have one that
// its record did not tell of yet.
func (s *Service) there(ctx context.Context, sess *Session) *Session {
	switch {
	case sess.State == StateDeepSleep:
		return nil
	case sess.Placed():
		return sess
	}
	c, err := s.Store.Claim(ctx, sess.ID, sess.Epoch)
	if err != nil {
		return nil
	}
	return sess.placed(c, s.Now())
}
