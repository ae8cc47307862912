// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"time"

	"github.com/buntime/buntime/frontend/timing"
)

// Extend puts the end of a key's session off to ttl seconds from now, unless it is
// later already, and returns it. That wakes the session: its node knows how to extend
// what is stored of it. When it fails, the end may be put off all the same; to try
// again completes it.
func (s *Service) Extend(ctx context.Context, key Key, id string, ttl int) (expires time.Time, err error) {
	if err := key.checkTTL(ttl); err != nil {
		return expires, err
	}
	begin := s.Now()
	// First of all, whose it is.
	if _, err := s.own(ctx, key.Account, id); err != nil {
		return expires, err
	}
	expires, err = s.putOff(ctx, id, begin.UTC().Truncate(time.Second).Add(time.Duration(ttl)*time.Second))
	if err != nil {
		return expires, err
	}
	for {
		sess, err := s.Resolve(ctx, key.Account, id)
		if err != nil {
			return expires, err
		}
		stop := timing.Start(ctx, "node")
		err = s.Node.Extend(ctx, sess)
		stop()
		if err == nil {
			return expires, nil
		}
		if err := again(ctx, s.Now().Sub(begin), s.away(ctx, sess, err)); err != nil {
			return expires, err
		}
	}
}

// putOff notes in a session's record that it ends at a time, and returns the later
// of that and the one that was there.
func (s *Service) putOff(ctx context.Context, id string, at time.Time) (expires time.Time, err error) {
	there := false
	err = s.retry(ctx, id, func(ctx context.Context, sess *Session) error {
		there, expires = !sess.Expired(s.Now()), sess.Expires
		if !there || !at.After(expires) {
			return nil
		}
		n := *sess
		n.Expires, expires = at, at
		return s.Store.Update(ctx, &n)
	})
	s.Forget(id)
	if err == nil && !there {
		return expires, NoSession(id)
	}
	return expires, err
}
