// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// reapTimeout bounds one round of the reaper.
	reapTimeout = time.Minute
	// reapers is how many sessions are ended at a time.
	reapers = 8
)

// Run reaps until the context ends. Any number of front-ends may: every step
// is a compare-and-swap or may be repeated.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(s.ReapInterval)
	defer tick.Stop()
	for {
		if err := s.Reap(ctx); err != nil && ctx.Err() == nil {
			s.Log.Warn("reap", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Reap ends what has no owner any more and completes what a crash left
// halfway: expired sessions, sessions that never started, sessions whose job
// is dead, jobs and claims without a session.
func (s *Service) Reap(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, reapTimeout, fmt.Errorf("reap not done in %v", reapTimeout))
	defer cancel()
	// In this order: what a session has comes after its record, so that what is
	// without a record here has lost it.
	jobs, err := s.Scheduler.Jobs(ctx)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	claims, err := s.Store.Claims(ctx)
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	stored, err := s.stored(ctx)
	if err != nil {
		return fmt.Errorf("list stored sessions: %w", err)
	}
	records, err := s.Store.All(ctx)
	if err != nil {
		return fmt.Errorf("list records: %w", err)
	}

	has, alive := make(map[string]bool, len(jobs)), make(map[string]bool, len(jobs)) // by session: a job, one that is not dead
	for _, j := range jobs {
		has[j.Session], alive[j.Session] = true, !j.Dead
	}
	known := make(map[string]bool, len(records))
	var work errgroup.Group
	work.SetLimit(reapers)
	for _, sess := range records {
		known[sess.ID] = true
		if why := s.overdue(sess, has[sess.ID], alive[sess.ID]); why != "" {
			work.Go(func() error { return s.reap(ctx, sess, why) })
		}
	}
	lost := map[string]bool{}
	for _, j := range jobs {
		lost[j.Session] = !known[j.Session]
	}
	for _, id := range claims {
		lost[id] = !known[id]
	}
	for _, id := range stored {
		lost[id] = !known[id]
	}
	for id, is := range lost {
		if is {
			work.Go(func() error {
				s.Log.Info("end what has no record", "session", id)
				return s.release(ctx, id)
			})
		}
	}
	return work.Wait()
}

// stored lists the sessions that the object store has something of. An object
// comes after its record, as jobs and claims do.
func (s *Service) stored(ctx context.Context) (ids []string, err error) {
	if s.Objects == nil {
		return nil, nil
	}
	for id, err := range s.Objects.Sessions(ctx) {
		if err != nil {
			return nil, err
		}
		if ValidID(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

const (
	overdueNode = "its job is dead"
	overdueJob  = "it sleeps"
)

// overdue says why a session must be looked after, or "".
func (s *Service) overdue(sess *Session, has, alive bool) string {
	now := s.Now()
	fresh := now.Sub(sess.Since) < s.Grace
	switch {
	case sess.Expired(now):
		return "expired"
	case fresh:
		return ""
	case sess.State == StateDeepSleep && has:
		return overdueJob
	case sess.State == StateDeepSleep:
		return ""
	case sess.State == StateStarting:
		return "not started"
	case !alive:
		return overdueNode
	}
	return ""
}

// reap ends a session, unless it has changed since it was looked at, or has
// started after all and only nobody noted it.
func (s *Service) reap(ctx context.Context, sess *Session, why string) error {
	switch {
	case why == overdueJob:
		return s.stopIfAsleep(ctx, sess)
	case why != "expired":
		if done, err := s.rescue(ctx, sess); done || err != nil {
			return err
		}
	}
	if sess.State == StateStarting && why != "expired" {
		err := s.heal(ctx, sess)
		if !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	s.Log.Info("end session", "session", sess.ID, "why", why)
	err := s.Store.Delete(ctx, sess)
	if errors.Is(err, ErrConflict) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete record of %s: %w", sess.ID, err)
	}
	s.Forget(sess.ID)
	return s.release(ctx, sess.ID)
}

// rescue brings a session that has lost its node, or never came to a new one, to
// sleep with what is stored of it. false: nothing is.
func (s *Service) rescue(ctx context.Context, sess *Session) (done bool, err error) {
	rest, err := s.Store.Rest(ctx, sess.ID, sess.Epoch)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return false, err
	}
	if !rest.Asleep {
		if kept, err := s.Store.Kept(ctx, sess.ID); err != nil || !kept {
			return false, err
		}
		s.Log.Warn("session falls back to its last checkpoint", "session", sess.ID, "epoch", sess.Epoch)
	}
	_, err = s.settle(ctx, sess, true)
	return err == nil, err
}

// heal notes the claim of a session whose front-end died before it could.
// ErrNotFound if there is none.
func (s *Service) heal(ctx context.Context, sess *Session) error {
	c, err := s.Store.Claim(ctx, sess.ID, sess.Epoch)
	if err != nil {
		return err
	}
	if err := s.Store.Update(ctx, sess.placed(c, s.Now())); err != nil && !errors.Is(err, ErrConflict) {
		return fmt.Errorf("note claim of %s: %w", sess.ID, err)
	}
	return nil
}
