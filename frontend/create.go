// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/buntime/buntime/frontend/timing"
)

// CreateRequest is what a client asks for; nil leaves the default.
type CreateRequest struct {
	// TTL is in seconds.
	TTL *int
	// Metadata is a JSON object, compact.
	Metadata json.RawMessage
	Limits   *LimitsRequest
	// Receipt names the request's receipt, "" if it has none.
	Receipt string
}

// session is the record of a new session for a key, if its plan allows it.
func (r CreateRequest) session(key Key, now time.Time) (*Session, error) {
	ttl := min(DefaultTTL, key.Allowed.TTL)
	set(&ttl, r.TTL)
	if err := key.checkTTL(ttl); err != nil {
		return nil, err
	}
	if len(r.Metadata) > MaxMetadata {
		return nil, Invalid("metadata", "metadata has at most %d bytes as JSON, not %d", MaxMetadata, len(r.Metadata))
	}
	limits, err := key.Allowed.limits(key.Plan, r.Limits)
	if err != nil {
		return nil, err
	}
	created := now.UTC().Truncate(time.Second)
	s := &Session{
		ID: NewID(), Account: key.Account, Plan: key.Plan,
		State: StateStarting, Since: now, Epoch: firstEpoch,
		Limits:  limits,
		Created: created, Expires: created.Add(time.Duration(ttl) * time.Second), LastActive: created,
		Metadata: r.Metadata, Receipt: r.Receipt,
	}
	if s.Metadata == nil {
		s.Metadata = json.RawMessage("{}")
	}
	return s, nil
}

// checkTTL refuses lives that the key's plan does not have.
func (k Key) checkTTL(ttl int) error {
	if ttl < MinTTL || ttl > k.Allowed.TTL {
		return Invalid("ttl", "ttl is from %d to %d seconds with this key, not %d", MinTTL, k.Allowed.TTL, ttl)
	}
	return nil
}

// startTries is how many jobs a create may start, one after the other, if the sandboxes
// of those before never came up.
const startTries = 3

// servedPause is between two looks at a sandbox that does not answer.
const servedPause = 100 * time.Millisecond

// notServed is the error for a session whose sandbox did not come up on a node.
type notServed struct{ node string }

func (notServed) Error() string { return "the sandbox has not come up" }

// Create makes a session and returns once a node serves it: a slot becomes the session
// if there is one of its shape, or else a job is started, and another if its sandbox
// does not come up. When Create fails, nothing of the session stays; what a crash leaves
// halfway, Reap ends.
func (s *Service) Create(ctx context.Context, key Key, r CreateRequest) (*Session, error) {
	begin, from := s.Now(), FromNone
	made, err := s.create(ctx, key, r, &from)
	s.Observer.Created(from, s.Now().Sub(begin), outcome(ctx, err))
	return made, err
}

// create is Create, and says what the session comes from.
func (s *Service) create(ctx context.Context, key Key, r CreateRequest, from *string) (*Session, error) {
	sess, err := r.session(key, s.Now())
	if err != nil {
		return nil, err
	}
	if s.Pool.Max > 0 {
		// Who has as many as may be must not use up slots by trying.
		if s.counts.full(sess.Account, key.Allowed.Sessions, s.Now()) {
			if err := s.admit(ctx, sess, key.Allowed.Sessions); err != nil {
				return nil, err
			}
		}
		s.arrivals.note(sess.Limits.Shape())
	}
	limited, cancel := context.WithTimeoutCause(ctx, claimTimeout, fmt.Errorf("no turn in %v", claimTimeout))
	defer cancel()
	for started := 0; ; {
		stop := timing.Start(ctx, "queue")
		slot, done, err := s.line.wait(limited, sess.Account, sess.Limits.Shape())
		stop()
		if err != nil {
			return nil, s.noTurn(ctx, err)
		}
		if slot == nil {
			*from = FromJob
			made, err := s.startNew(limited, sess, key.Allowed.Sessions, done)
			failed, ok := errors.AsType[notServed](err)
			if !ok {
				return made, err
			}
			if started++; started == startTries || limited.Err() != nil {
				return nil, Unavailable("no node could start the session's sandbox; try again")
			}
			sess = sess.anew(s.Now(), failed.node)
			continue
		}
		*from = FromSlot
		made, err := s.take(limited, sess, slot, key.Allowed.Sessions)
		if !errors.Is(err, errTaken) {
			return made, err
		}
	}
}

// noTurn is the error for a create whose time was over in line.
func (s *Service) noTurn(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err // its maker has gone
	}
	s.Log.ErrorContext(ctx, "a create has waited in vain", "waited", claimTimeout, "waiting", s.line.length())
	return Unavailable("too many sessions are being created at the moment; try again")
}

// startNew makes a session with a job of its own. It calls placed once a node has that.
// notServed says to try with another session: this one has no record any more.
func (s *Service) startNew(ctx context.Context, sess *Session, most int, placed func()) (_ *Session, err error) {
	defer placed()
	var undo []func(context.Context) error // in the order done
	defer func() {
		if err != nil && len(undo) > 0 {
			s.undo(ctx, sess.ID, undo)
		}
	}()

	undo = append(undo, func(ctx context.Context) error { return s.remove(ctx, sess.ID) })
	if err := s.record(ctx, sess, most); err != nil {
		return nil, err
	}
	undo = append(undo, func(ctx context.Context) error { return s.release(ctx, sess.ID) })
	made, err := s.start(ctx, sess)
	if err != nil {
		return nil, err
	}
	placed()
	switch err := s.served(ctx, made); {
	case err == nil:
		return made, nil
	case errors.As(err, new(notServed)):
		undo = nil
		return nil, cmp.Or(s.abandon(ctx, made), err)
	default:
		return nil, err
	}
}

// served waits until the node that has claimed a new session serves it, or the job is
// lost. Its maker knows of the session only after that, so that it can be made anew. One
// whose node takes its time is not given up: it holds requests until the sandbox is there.
func (s *Service) served(ctx context.Context, sess *Session) error {
	defer timing.Start(ctx, "node")()
	for {
		err := s.Node.Alive(ctx, sess)
		switch {
		case err == nil || errors.Is(ctx.Err(), context.DeadlineExceeded):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
		if lost, err := s.Scheduler.Lost(ctx, sess.ID, sess.Epoch); err == nil && lost {
			return notServed{sess.Claim.Node}
		}
		select {
		case <-time.After(servedPause):
		case <-ctx.Done():
		}
	}
}

// abandon ends a session whose sandbox has not come up. The record goes at once, so
// that it does not count any more.
func (s *Service) abandon(ctx context.Context, sess *Session) error {
	s.Forget(sess.ID)
	ending, cancel := cleanup(ctx)
	defer cancel()
	if err := s.remove(ending, sess.ID); err != nil {
		return fmt.Errorf("take back the record of %s: %w", sess.ID, err) // the reaper will
	}
	s.later(ctx, func(ctx context.Context) {
		s.Log.WarnContext(ctx, "a session's sandbox has not come up", "session", sess.ID, "node", sess.Claim.Node, "why", s.Scheduler.Explain(ctx, sess.ID, sess.Epoch))
		if err := s.release(ctx, sess.ID); err != nil {
			s.Log.WarnContext(ctx, "undo create; the reaper will", "session", sess.ID, "err", err)
		}
	})
	return nil
}

// record stores a new record, if the account may have one session more.
func (s *Service) record(ctx context.Context, sess *Session, most int) error {
	stop := timing.Start(ctx, "kv")
	err := s.Store.Create(ctx, sess)
	stop()
	if err != nil {
		return fmt.Errorf("store record of %s: %w", sess.ID, err)
	}
	return s.admit(ctx, sess, most)
}

// admit refuses a session that is one too many for its account, stored or not. Of
// concurrent creates at the edge those go through that were stored first.
func (s *Service) admit(ctx context.Context, sess *Session, most int) error {
	defer timing.Start(ctx, "kv")()
	entries, err := s.account(ctx, sess.Account)
	if err != nil {
		return fmt.Errorf("count sessions of %s: %w", sess.Account, err)
	}
	return s.judge(sess, entries, most)
}

// judge is admit for who knows the account's sessions, in the Store's order.
func (s *Service) judge(sess *Session, entries []Entry, most int) error {
	now := s.Now()
	before, all, found := 0, 0, false
	for _, e := range entries {
		if found = found || e.ID == sess.ID; !now.Before(e.Expires) {
			continue
		}
		if all++; !found {
			before++
		}
	}
	s.counts.note(sess.Account, all, now)
	if before >= most {
		return Errorf(CodeSessionLimit, "this key allows %d sessions at a time, and there are as many; delete one, or wait until one expires", most)
	}
	return nil
}

// start runs the session's job and waits until a node has claimed it.
func (s *Service) start(ctx context.Context, sess *Session) (*Session, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, claimTimeout, fmt.Errorf("session %s has not started in %v", sess.ID, claimTimeout))
	defer cancel()
	stop := timing.Start(ctx, "register")
	err := s.Scheduler.Start(ctx, sess)
	stop()
	if err != nil {
		return nil, fmt.Errorf("start job of %s: %w", sess.ID, err)
	}
	stop = timing.Start(ctx, "claim")
	placed, err := s.awaitPlace(ctx, sess, sess.Version)
	stop()
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return nil, s.notStarted(ctx, sess)
	}
	return placed, err
}

// notStarted is the error for a session that no node has claimed in time. Why
// is for the operator, not for the client.
func (s *Service) notStarted(ctx context.Context, sess *Session) error {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	s.Log.ErrorContext(ctx, "no node has claimed a session in time", "session", sess.ID, "epoch", sess.Epoch, "waited", claimTimeout, "why", s.Scheduler.Explain(ctx, sess.ID, sess.Epoch))
	return Unavailable("no node has taken the session in %v; there may be no room, so try again", claimTimeout)
}

// undo goes back what Create has done, last step first.
func (s *Service) undo(ctx context.Context, id string, steps []func(context.Context) error) {
	ctx, cancel := cleanup(ctx)
	defer cancel()
	s.Forget(id)
	for _, step := range slices.Backward(steps) {
		if err := step(ctx); err != nil {
			s.Log.WarnContext(ctx, "undo create", "session", id, "err", err)
		}
	}
}

// release lets go of what runs for a session. All its steps may be repeated.
func (s *Service) release(ctx context.Context, id string) error {
	// The key to its snapshots first: what is left of them is noise then.
	errs := []error{s.Store.DropClaims(ctx, id), s.Scheduler.StopAll(ctx, id)}
	if s.Objects != nil {
		errs = append(errs, s.Objects.Remove(ctx, id))
	}
	return errors.Join(errs...)
}

// remove deletes a record whatever its version.
func (s *Service) remove(ctx context.Context, id string) error {
	return s.retry(ctx, id, s.Store.Delete)
}

// conflicts is how often a change of a record is tried anew. Records change at
// transitions only, so that two conflicts in a row are rare already.
const conflicts = 10

// retry reads a record and changes it, again if someone else did meanwhile.
// It is done when there is no record.
func (s *Service) retry(ctx context.Context, id string, change func(context.Context, *Session) error) error {
	var err error
	for range conflicts {
		var sess *Session
		sess, err = s.Store.Get(ctx, id)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read record of %s: %w", id, err)
		}
		if err = change(ctx, sess); !errors.Is(err, ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("change record of %s: %w", id, err)
}
