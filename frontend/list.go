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

// List returns a page of an account's sessions, newest first, and how many
// there are in all.
func (s *Service) List(ctx context.Context, account string, r ListRequest) ([]*Session, int, error) {
	defer timing.Start(ctx, "kv")()
	ids, err := s.ids(ctx, account)
	if err != nil {
		return nil, 0, err
	}
	if r.State == "" && len(r.Metadata) == 0 {
		page, err := s.Store.GetMany(ctx, pageOf(ids, r))
		return page, len(ids), err
	}
	all, err := s.Store.GetMany(ctx, ids)
	if err != nil {
		return nil, 0, fmt.Errorf("read records of %s: %w", account, err)
	}
	all = slices.DeleteFunc(all, func(sess *Session) bool { return !r.matches(sess) })
	return pageOf(all, r), len(all), nil
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

func (r ListRequest) matches(s *Session) bool {
	if r.State != "" && s.State.Public() != r.State {
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
