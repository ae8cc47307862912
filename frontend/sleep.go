// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend/timing"
)

// sleepTimeout bounds a deep sleep that a client asked for: the upload of what a
// workspace has that the store has not.
const sleepTimeout = 2 * time.Minute

// Sleep brings an account's session to the state idle or deep-sleep, and returns
// once it is there. While somebody uses it that is CodeSessionBusy, unless force.
func (s *Service) Sleep(ctx context.Context, account, id string, state State, force bool) (*Session, error) {
	sess, err := s.own(ctx, account, id)
	if err != nil {
		return nil, err
	}
	if sess.State == StateDeepSleep {
		if state == StateDeepSleep {
			return sess, nil
		}
		if sess, err = s.place(ctx, sess); err != nil {
			return nil, err
		}
	} else if sess, err = s.place(ctx, sess); err != nil {
		return nil, err
	}
	if err := s.Node.Sleep(ctx, sess, state, force); err != nil {
		return nil, err
	}
	if state != StateDeepSleep {
		return sess, nil
	}
	s.Forget(id)
	return s.settle(ctx, sess, false)
}

// Asleep says whether an account's session is in deep sleep, without waking it.
func (s *Service) Asleep(ctx context.Context, account, id string) (bool, error) {
	sess, err := s.own(ctx, account, id)
	if err != nil {
		return false, err
	}
	return sess.State == StateDeepSleep, nil
}

// Moved is to be called when a session does not answer where its record has it. It
// looks what has become of it, and the next Resolve finds it. There is nothing to
// find as long as its node may be back in a moment.
func (s *Service) Moved(ctx context.Context, sess *Session) error {
	defer timing.Start(ctx, "moved")()
	_, err := share(ctx, &s.flights, "settle "+sess.ID, lookupTimeout, func(ctx context.Context) (*Session, error) {
		asleep, err := s.settle(ctx, sess, false)
		if !errors.Is(err, ErrNotFound) {
			return asleep, err
		}
		lost, err := s.Scheduler.Lost(ctx, sess.ID)
		if err != nil || !lost {
			return nil, err
		}
		_, err = s.rescue(ctx, sess)
		return nil, err
	})
	return err
}

// settle notes in the record of a session that its epoch is over, if it is: its
// node has put it to sleep, or, with abandon, is given up. ErrNotFound if the
// session may still be where the record has it.
func (s *Service) settle(ctx context.Context, sess *Session, abandon bool) (*Session, error) {
	var rest claim.Rest
	var err error
	if abandon {
		rest, err = s.Store.Seal(ctx, sess.ID, sess.Epoch)
	} else {
		rest, err = s.Store.Rest(ctx, sess.ID, sess.Epoch)
	}
	if err != nil {
		return nil, err
	}
	if !rest.Over() {
		return nil, fmt.Errorf("look whether %s sleeps: %w", sess.ID, ErrNotFound)
	}
	s.Forget(sess.ID)
	for range conflicts {
		asleep := sess.asleep(rest, s.Now())
		err = s.Store.Update(ctx, asleep)
		if err == nil {
			s.removeJob(ctx, asleep)
			return asleep, nil
		}
		if !errors.Is(err, ErrConflict) {
			break
		}
		fresh, err := s.Store.Get(ctx, sess.ID)
		if err != nil {
			return nil, fmt.Errorf("read record of %s: %w", sess.ID, err)
		}
		if fresh.Epoch != rest.Epoch || fresh.State == StateDeepSleep {
			return fresh, nil // somebody else came first
		}
		sess = fresh
	}
	return nil, fmt.Errorf("note that %s sleeps: %w", sess.ID, err)
}

// removeJob removes, in the background, the job of a session that sleeps: its task
// has ended, and the next life needs the job's name.
func (s *Service) removeJob(ctx context.Context, asleep *Session) {
	s.later(ctx, func(ctx context.Context) {
		if err := s.stopIfAsleep(ctx, asleep); err != nil {
			s.Log.Warn("remove job of sleeping session; the reaper will try again", "session", asleep.ID, "err", err)
		}
	})
}

// stopIfAsleep removes the job of a session, unless it has been woken meanwhile.
func (s *Service) stopIfAsleep(ctx context.Context, asleep *Session) error {
	now, err := s.Store.Get(ctx, asleep.ID)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil || now.State != StateDeepSleep || now.Epoch != asleep.Epoch {
		return err
	}
	return s.Scheduler.Stop(ctx, asleep.ID)
}

// asleep is a copy of the record of a session whose epoch is over.
func (s *Session) asleep(rest claim.Rest, now time.Time) *Session {
	n := *s
	n.State, n.Since, n.Claim = StateDeepSleep, now, claim.Claim{}
	n.Files = rest.Files
	if rest.LastActive.After(n.LastActive) {
		n.LastActive = rest.LastActive.Truncate(time.Second)
	}
	if !rest.Snapshot.IsZero() {
		n.Checkpoint = rest.Snapshot.Taken.UTC().Truncate(time.Second)
	}
	// A node that was given up may have had more than it had stored.
	n.Lost = rest.Sealed
	return &n
}

// wakeTimeout is how long a wake may take: a placement, and the restoring of some
// gigabytes at worst.
const wakeTimeout = 60 * time.Second

// wake begins a session's next life and returns once a node has claimed it. Of all
// who ask for it, here and at other front-ends, one does it.
func (s *Service) wake(ctx context.Context, id string) (*Session, error) {
	defer timing.Start(ctx, "wake")()
	return share(ctx, &s.flights, "wake "+id, wakeTimeout, func(ctx context.Context) (*Session, error) {
		sess, err := s.Store.Get(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return nil, NoSession(id)
		}
		if err != nil {
			return nil, fmt.Errorf("read record of %s: %w", id, err)
		}
		if sess.Expired(s.Now()) {
			return nil, NoSession(id)
		}
		if sess.State == StateDeepSleep {
			n := sess.next(s.Now())
			err := s.Store.Update(ctx, n)
			switch {
			case errors.Is(err, ErrConflict):
				s.Forget(id)
				if sess, err = s.Store.Get(ctx, id); err != nil {
					return nil, fmt.Errorf("read record of %s: %w", id, err)
				}
			case err != nil:
				return nil, fmt.Errorf("note that %s wakes: %w", id, err)
			default:
				s.Forget(id)
				return s.startAgain(ctx, n)
			}
		}
		if sess.Placed() {
			return sess, nil
		}
		return s.awaitClaim(ctx, sess, 0)
	})
}

// next is the record of a session's next life.
func (s *Session) next(now time.Time) *Session {
	n := *s
	n.Epoch++
	n.State, n.Since, n.Claim, n.LastActive = StateStarting, now, claim.Claim{}, now.UTC().Truncate(time.Second)
	return &n
}

// startAgain runs the job of a session's next life.
func (s *Service) startAgain(ctx context.Context, sess *Session) (*Session, error) {
	placed, err := s.startJob(ctx, sess)
	if err == nil {
		return placed, nil
	}
	// It sleeps as before, and the next request tries again.
	asleep := *sess
	asleep.State, asleep.Since = StateDeepSleep, s.Now()
	undo, cancel := cleanup(ctx)
	defer cancel()
	if rest, serr := s.Store.Seal(undo, sess.ID, sess.Epoch); serr != nil || rest.Asleep {
		return nil, err // or it woke and slept again: settle finds that
	}
	if serr := errors.Join(s.Scheduler.Stop(undo, sess.ID), s.Store.Update(undo, &asleep)); serr != nil {
		s.Log.Warn("undo wake", "session", sess.ID, "err", serr)
	}
	s.Forget(sess.ID)
	return nil, err
}

// startJob makes room for the session's job, runs it, and waits until a node has
// claimed the session.
func (s *Service) startJob(ctx context.Context, sess *Session) (*Session, error) {
	err := s.Scheduler.Start(ctx, sess)
	if errors.Is(err, ErrExists) { // that of the life before
		if err = s.Scheduler.Stop(ctx, sess.ID); err == nil {
			err = s.Scheduler.Start(ctx, sess)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("start job of %s: %w", sess.ID, err)
	}
	limited, cancel := context.WithTimeoutCause(ctx, claimTimeout, fmt.Errorf("session %s has not started in %v", sess.ID, claimTimeout))
	defer cancel()
	placed, err := s.awaitClaim(limited, sess, 0)
	if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return nil, s.notStarted(ctx, sess.ID)
	}
	return placed, err
}
