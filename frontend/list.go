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
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/buntime/buntime/frontend/timing"
)

// ListRequest chooses among an account's sessions.
type ListRequest struct {
	Limit, Offset int
	// State, if not "", is one as clients see it.
	State State
	// Metadata has values that top-level members must have: a string its text,
	// anything else its JSON.
	Metadata map[string]string
}

const (
	// askers is how many nodes' answers List waits for at a time, one a session.
	askers = 32
	// listTimeout bounds all of them.
	listTimeout = infoTimeout
)

// List returns a page of an account's sessions, newest first, and how many
// there are in all. Whether one that is awake is idle only its node knows: those of
// the page are asked, and with a State that is one of the two all are that may be of
// it. Where a node does not answer the record has to do.
func (s *Service) List(ctx context.Context, account string, r ListRequest) ([]*Session, int, error) {
	defer timing.Start(ctx, "kv")()
	ids, err := s.ids(ctx, account)
	if err != nil {
		return nil, 0, err
	}
	if r.State == "" && len(r.Metadata) == 0 {
		page, err := s.Store.GetMany(ctx, pageOf(ids, r))
		if err != nil {
			return nil, 0, fmt.Errorf("read records of %s: %w", account, err)
		}
		s.ask(ctx, page)
		return page, len(ids), nil
	}
	all, err := s.Store.GetMany(ctx, ids)
	if err != nil {
		return nil, 0, fmt.Errorf("read records of %s: %w", account, err)
	}
	all = slices.DeleteFunc(all, func(sess *Session) bool { return !r.describes(sess) })
	if r.State == "" {
		page := pageOf(all, r)
		s.ask(ctx, page)
		return page, len(all), nil
	}
	s.ask(ctx, all) // also one whose record is awake may sleep by now
	all = slices.DeleteFunc(all, func(sess *Session) bool { return sess.State.Public() != r.State })
	return pageOf(all, r), len(all), nil
}

// ask puts what their nodes say into the records of sessions that are awake.
func (s *Service) ask(ctx context.Context, sessions []*Session) {
	defer timing.Start(ctx, "info")()
	ctx, cancel := context.WithTimeoutCause(ctx, listTimeout, fmt.Errorf("nodes have not told about sessions in %v", listTimeout))
	defer cancel()
	var work errgroup.Group
	work.SetLimit(askers)
	for i, sess := range sessions {
		if !sess.Placed() {
			continue
		}
		work.Go(func() error {
			sessions[i] = s.asked(ctx, sess)
			return nil
		})
	}
	_ = work.Wait() // none has an error
}

// asked is a session as its node tells of it, or else as its record has it.
func (s *Service) asked(ctx context.Context, sess *Session) *Session {
	info, err := s.Node.Info(ctx, sess)
	if err != nil {
		s.Forget(sess.ID)
		// As a rule there is no note, which costs one read, or the time is over.
		if asleep, serr := s.settle(ctx, sess, false); serr == nil {
			return asleep
		}
		s.Log.DebugContext(ctx, "ask node about session", "session", sess.ID, "err", err)
		return sess
	}
	n := *sess
	n.Told = &info
	if state := info.State.Public(); state == StateIdle || state == StateActive {
		n.State = state
	}
	if info.LastActive.After(n.LastActive) {
		n.LastActive = info.LastActive
	}
	return &n
}

// ids are those of an account's unexpired sessions, newest first.
func (s *Service) ids(ctx context.Context, account string) ([]string, error) {
	entries, err := s.Store.Account(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("list sessions of %s: %w", account, err)
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(b.Created.Compare(a.Created), cmp.Compare(b.Order, a.Order))
	})
	now := s.Now()
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		if !now.Before(e.Expires) {
			continue
		}
		if e.New {
			switch _, err := s.Store.Claim(ctx, e.ID, firstEpoch); {
			case errors.Is(err, ErrNotFound):
				continue // being created, or left halfway: nobody has its id yet
			case err != nil:
				return nil, fmt.Errorf("look for claim of %s: %w", e.ID, err)
			}
		}
		ids = append(ids, e.ID)
	}
	return ids, nil
}

func pageOf[T any](all []T, r ListRequest) []T {
	all = all[min(r.Offset, len(all)):]
	return all[:min(r.Limit, len(all))]
}

// describes says whether a session has the metadata that are asked for, and may have
// the state.
func (r ListRequest) describes(s *Session) bool {
	if r.State != "" && r.State != s.State.Public() && !s.Placed() {
		return false
	}
	if len(r.Metadata) == 0 {
		return true
	}
	var members map[string]json.RawMessage
	if json.Unmarshal(s.Metadata, &members) != nil {
		return false
	}
	for name, want := range r.Metadata {
		if value, ok := members[name]; !ok || text(value) != want {
			return false
		}
	}
	return true
}

// text is a JSON value as a query can say it.
func text(value json.RawMessage) string {
	var s string
	if json.Unmarshal(value, &s) == nil && strings.HasPrefix(string(value), `"`) {
		return s
	}
	return string(value)
}
