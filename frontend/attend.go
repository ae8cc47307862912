// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"fmt"
	"time"
)

// ErrSilent says that a node has not answered a request, and will not: it is silent,
// and the session's life there is over. Nobody knows what was done.
var ErrSilent = fmt.Errorf("node is silent, and the session's life there is over: %w", ErrAway)

const (
	// silence is how long an answer may take before its node is asked whether it is
	// there at all. Then it is asked again after twice as long each time, up to
	// longestSilence.
	silence        = 2 * time.Second
	longestSilence = 8 * time.Second
)

// Attend is for waiting for the answer of the node that carries a session, which may
// take as long as an execution. A machine that hangs, or is cut off with connections
// to it open, refuses nothing: without a look at it every request would wait for its
// own deadline, and none would find that the session is to be woken elsewhere.
//
// The context that it returns is done, with ErrSilent as its cause, when the node
// does not answer and the session's life there is over. answered is to be called when
// the answer begins, and ends the looking.
func (s *Service) Attend(ctx context.Context, sess *Session) (_ context.Context, answered func()) {
	ctx, giveUp := context.WithCancelCause(ctx) // done with its parent otherwise: the answer's body needs it
	watching, stop := context.WithCancel(ctx)
	timer := time.AfterFunc(silence, func() {
		if s.silent(watching, sess) {
			giveUp(ErrSilent)
		}
	})
	return ctx, func() {
		timer.Stop()
		stop()
	}
}

// silent returns true once the session's node is silent and its life there is over,
// false when the context is done.
func (s *Service) silent(ctx context.Context, sess *Session) bool {
	for pause := 2 * silence; ; pause = min(2*pause, longestSilence) {
		if s.gone(ctx, sess) {
			return true
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}

// gone is one look of silent's.
func (s *Service) gone(ctx context.Context, sess *Session) bool {
	asking, cancel := context.WithTimeoutCause(ctx, infoTimeout, fmt.Errorf("node of %s has not answered in %v", sess.ID, infoTimeout))
	defer cancel()
	err := s.Node.Alive(asking, sess)
	if err == nil || ctx.Err() != nil {
		return false
	}
	s.Log.WarnContext(ctx, "the node of a session is silent", "session", sess.ID, "epoch", sess.Epoch, "err", err)
	moved, err := s.moved(ctx, sess)
	if err != nil && ctx.Err() == nil {
		s.Log.WarnContext(ctx, "look what has become of a session whose node is silent", "session", sess.ID, "err", err)
	}
	return moved
}
