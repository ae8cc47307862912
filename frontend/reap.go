// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// reapTimeout bounds one round of the reaper.
	reapTimeout = time.Minute
	// reapers is how many sessions are ended at a time.
	reapers = 8
)

// Run does what one front-end does for all, until the context ends: it reaps, keeps
// slots ready, and empties nodes that drain. Two may do so at a time: every step is
// a compare-and-swap or may be repeated.
func (s *Service) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	work.Go(func() { s.emptyDraining(ctx) })
	work.Go(func() { s.keepPool(ctx) })
	s.reapOften(ctx)
}

func (s *Service) reapOften(ctx context.Context) {
	tick := time.NewTicker(s.ReapInterval)
	defer tick.Stop()
	for {
		err := s.Reap(ctx)
		if ctx.Err() == nil {
			s.Observer.Reaped(err)
		}
		if err != nil && ctx.Err() == nil {
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
// is lost, whatever is of no session, and receipts whose time is over. With many
// sessions one call looks at some of them, the next call at the next.
func (s *Service) Reap(ctx context.Context) error {
	begin := s.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, reapTimeout, fmt.Errorf("reap not done in %v", reapTimeout))
	defer cancel()
	s.reaping.Lock() // a leader that was deposed may be at it still
	defer s.reaping.Unlock()
	r := &round{Service: s, jobs: map[life]Job{}, known: map[string]*Session{}}
	r.work.SetLimit(reapers)
	err := r.run(ctx)
	werr := r.work.Wait()
	if err == nil {
		s.census.put(Census{At: begin, Took: s.Now().Sub(begin), Sessions: s.pass.counted})
	}
	return errors.Join(err, werr)
}

// round is one of the reaper.
type round struct {
	*Service
	jobs  map[life]Job
	slots bool                // they have been looked at
	known map[string]*Session // that were read so far
	work  errgroup.Group
}

func (r *round) run(ctx context.Context) error {
	// First of all, as job, claim and object come after the record: what is without a
	// record then has lost it.
	jobs, err := r.Scheduler.Jobs(ctx)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, j := range jobs {
		r.jobs[life{j.Session, j.Epoch}] = j
	}
	if !r.pass.sized {
		sample, err := r.Store.All(ctx, r.pass.beginning())
		if err != nil {
			return fmt.Errorf("list some records: %w", err)
		}
		r.pass.size(len(sample))
	}
	for more := true; more && len(r.known) < r.pass.most; {
		before := len(r.known)
		if err := r.part(ctx, r.pass.beginning()); err != nil {
			return err
		}
		more = r.pass.next(len(r.known) - before)
	}
	if err := r.outOfTurn(ctx); err != nil {
		return err
	}
	r.work.Go(func() error { return r.Store.SweepReceipts(ctx, r.Now()) })
	return nil
}

// part looks at the sessions, and at what may be of none, whose ids begin like that.
func (r *round) part(ctx context.Context, beginning string) error {
	// In this order, for the same reason.
	traces, err := r.Store.Traces(ctx, beginning)
	if err != nil {
		return fmt.Errorf("list claims, notes and keys: %w", err)
	}
	// A slot becomes a record, and never the other way.
	slots, _, err := r.Store.Slots(ctx, 0)
	if err != nil {
		return fmt.Errorf("list slots: %w", err)
	}
	stored, err := r.stored(ctx, beginning)
	if err != nil {
		return fmt.Errorf("list stored sessions: %w", err)
	}
	records, err := r.Store.All(ctx, beginning)
	if err != nil {
		return fmt.Errorf("list records: %w", err)
	}

	for _, sess := range records {
		r.pass.count(sess)
		r.look(ctx, sess)
	}
	lost := map[string]bool{}
	for _, j := range r.jobs {
		if !strings.HasPrefix(j.Session, beginning) {
			continue
		}
		if sess := r.known[j.Session]; sess == nil {
			lost[j.Session] = true
		} else {
			r.stopOver(ctx, sess, j)
		}
	}
	for _, id := range append(traces, stored...) {
		lost[id] = r.known[id] == nil
	}
	for _, slot := range slots {
		lost[slot.ID] = false
		if why := r.slotOver(slot, r.jobs); why != "" && !r.slots {
			r.work.Go(func() error { return r.endSlot(ctx, slot, why) })
		}
	}
	r.slots = true
	for id, is := range lost {
		if is {
			r.work.Go(func() error {
				r.Log.Info("end what has no record", "session", id)
				return r.release(ctx, id)
			})
		}
	}
	return nil
}

// look ends a session if that is due.
func (r *round) look(ctx context.Context, sess *Session) {
	r.known[sess.ID] = sess
	j, ok := r.jobs[life{sess.ID, sess.Epoch}]
	if why := r.overdue(sess, ok && !j.Dead); why != "" {
		r.work.Go(func() error { return r.reap(ctx, sess, why) })
		return
	}
	if r.pass.depth > 0 && sess.Expires.Before(r.Now().Add(soonWindow)) {
		r.pass.soon[sess.ID] = sess.Expires
	}
}

// stopOver stops a job whose epoch is over.
func (r *round) stopOver(ctx context.Context, sess *Session, j Job) {
	if sess.over(j.Epoch) {
		r.work.Go(func() error { return r.Scheduler.Stop(ctx, j.Session, j.Epoch) })
	}
}

// outOfTurn looks at sessions of other parts that need it: whose time is over, as far
// as is known, and whose job is dead.
func (r *round) outOfTurn(ctx context.Context) error {
	now := r.Now()
	dead := map[string][]Job{}
	for _, j := range r.jobs {
		if j.Dead && r.known[j.Session] == nil {
			dead[j.Session] = append(dead[j.Session], j)
		}
	}
	ids := slices.Collect(maps.Keys(dead))
	for id, at := range r.pass.soon {
		if now.Before(at) {
			continue
		}
		delete(r.pass.soon, id) // what is not ended now is found by the next pass
		if r.known[id] == nil && dead[id] == nil {
			ids = append(ids, id)
		}
	}
	ids = ids[:min(len(ids), r.pass.most)]
	records, err := r.Store.GetMany(ctx, ids)
	if err != nil {
		return fmt.Errorf("read records: %w", err)
	}
	for _, sess := range records {
		r.look(ctx, sess)
		for _, j := range dead[sess.ID] {
			r.stopOver(ctx, sess, j)
		}
	}
	return nil
}

// stored lists the sessions whose ids begin like that and that the object store has
// something of. An object comes after its record, as jobs and claims do.
func (s *Service) stored(ctx context.Context, beginning string) (ids []string, err error) {
	if s.Objects == nil {
		return nil, nil
	}
	for id, err := range s.Objects.Sessions(ctx, beginning) {
		if err != nil {
			return nil, err
		}
		if ValidID(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// slotOver says why nobody can take a slot any more, of whose record nobody else will
// be rid, or "".
func (s *Service) slotOver(slot *Slot, jobs map[life]Job) string {
	job, ok := jobs[life{slot.ID, firstEpoch}]
	switch {
	case s.Pool.Max == 0:
		return "there is to be no pool"
	case ok && job.Dead:
		return "its job is dead"
	case !ok && s.Now().Sub(slot.Made) >= s.Grace/2:
		return "it has no job"
	}
	return ""
}

// life is one awake life of a session.
type life struct {
	session string
	epoch   uint64
}

// over says whether an epoch of the session is over, so that its job has no use.
func (s *Session) over(epoch uint64) bool {
	return epoch < s.Epoch || epoch == s.Epoch && s.State == StateDeepSleep
}

const (
	overdueTime  = "expired"
	overdueStart = "not started"
	overdueDead  = "its job is dead"
)

// overdue says why a session must be looked after, or "".
func (s *Service) overdue(sess *Session, alive bool) string {
	now := s.Now()
	switch {
	case sess.Expired(now):
		return overdueTime
	case now.Sub(sess.Since) < s.Grace, sess.State == StateDeepSleep:
		return ""
	case sess.State == StateStarting:
		return overdueStart
	case !alive:
		return overdueDead
	}
	return ""
}

// reap ends a session, unless it has changed since it was looked at, is still
// running or saving, or has something to fall back on.
func (s *Service) reap(ctx context.Context, sess *Session, why string) error {
	if why != overdueTime {
		if goesOn, err := s.goesOn(ctx, sess); goesOn || err != nil {
			return err
		}
		if done, err := s.rescue(ctx, sess); done || err != nil {
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
	s.Observer.Ended(endOf(why))
	s.Forget(sess.ID)
	return s.release(ctx, sess.ID)
}

// goesOn says whether something may still come of a session's epoch, whatever the
// status of its job: Nomad calls one dead that was told to stop, although its node
// may be saving the session just then.
func (s *Service) goesOn(ctx context.Context, sess *Session) (bool, error) {
	lost, err := s.lost(ctx, sess)
	if err != nil || lost {
		return false, err
	}
	if sess.State != StateStarting {
		return true, nil
	}
	if err := s.heal(ctx, sess); !errors.Is(err, ErrNotFound) {
		return true, err
	}
	// No node has taken it, and nobody waits for it any more. One that takes it just
	// now is told to stop as any other, and saves it.
	if err := s.Scheduler.Stop(ctx, sess.ID, sess.Epoch); err != nil {
		return true, err
	}
	lost, err = s.lost(ctx, sess)
	return !lost, err
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
		s.Observer.FellBack()
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
