// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package keys

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/buntime/buntime/frontend"
)

// Manager creates, lists, changes, rotates and revokes keys in a store. All front-ends
// know of it in a moment.
type Manager struct {
	Store Store
	// Now is the clock.
	Now func() time.Time
	// Did, if set, is told of each change that was tried: create, change, rotate or
	// revoke, of which key, and how it ended.
	Did func(what string, r Record, err error)
}

func (m *Manager) did(what string, r *Record, err *error) {
	if m.Did != nil {
		m.Did(what, *r, *err)
	}
}

// NewManager makes a Manager.
func NewManager(store Store) *Manager { return &Manager{Store: store, Now: time.Now} }

const idPrefix = "key_"

// Create makes a key of which the account, the plan and, if there are any, limits,
// label and expiry are given. The text is to be shown once: it is kept nowhere.
func (m *Manager) Create(ctx context.Context, r Record) (text string, _ Record, err error) {
	defer m.did("create", &r, &err)
	text = m.complete(&r)
	if err := r.check(); err != nil {
		return "", r, fmt.Errorf("create key: %w", err)
	}
	if err := m.change(ctx, []Record{r}, nil); err != nil {
		return "", r, fmt.Errorf("create key: %w", err)
	}
	return text, r, nil
}

// complete gives a record a text of its own.
func (m *Manager) complete(r *Record) (text string) {
	text = New()
	r.Sum, r.ID, r.Version = SumOf(text), idPrefix+strings.ToLower(rand.Text()[:12]), 0
	r.Created = m.Now().UTC().Truncate(time.Second)
	return text
}

// List returns the keys that are good, by account and age; of one account, or of all
// with "".
func (m *Manager) List(ctx context.Context, account string) ([]Record, error) {
	all, _, err := m.Store.Keys(ctx, 0)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	now := m.Now()
	all = slices.DeleteFunc(all, func(r Record) bool { return account != "" && r.Account != account || r.over(now) })
	slices.SortFunc(all, func(a, b Record) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return all, nil
}

// find returns the key of an id.
func (m *Manager) find(ctx context.Context, id string) (Record, error) {
	all, err := m.List(ctx, "")
	if err != nil {
		return Record{}, err
	}
	i := slices.IndexFunc(all, func(r Record) bool { return r.ID == id })
	if i < 0 {
		return Record{ID: id}, fmt.Errorf("find key %q: %w", id, frontend.ErrNotFound)
	}
	return all[i], nil
}

// Rotate puts a new key in the place of one, which is good for grace yet.
func (m *Manager) Rotate(ctx context.Context, id string, grace time.Duration) (text string, _ Record, err error) {
	var old Record
	defer m.did("rotate", &old, &err)
	if old, err = m.find(ctx, id); err != nil {
		return "", old, err
	}
	r := old
	text = m.complete(&r)
	end := m.Now().Add(grace).UTC().Truncate(time.Second)
	if grace <= 0 {
		err = m.change(ctx, []Record{r}, []Record{old})
	} else {
		if old.Expires.IsZero() || end.Before(old.Expires) {
			old.Expires = end
		}
		err = m.change(ctx, []Record{r, old}, nil)
	}
	if err != nil {
		return "", r, fmt.Errorf("rotate key %s: %w", id, err)
	}
	return text, r, nil
}

// Revoke ends a key.
func (m *Manager) Revoke(ctx context.Context, id string) (r Record, err error) {
	defer m.did("revoke", &r, &err)
	if r, err = m.find(ctx, id); err != nil {
		return r, err
	}
	if err := m.change(ctx, nil, []Record{r}); err != nil {
		return r, fmt.Errorf("revoke key %s: %w", id, err)
	}
	return r, nil
}

// Change gives a key another plan, unless it is "", and the limits that are not zero.
func (m *Manager) Change(ctx context.Context, id, plan string, limits frontend.Plan) (r Record, err error) {
	defer m.did("change", &r, &err)
	if r, err = m.find(ctx, id); err != nil {
		return r, err
	}
	if plan != "" && plan != r.Plan { // the limits were raised above another
		r.Plan, r.Limits = plan, frontend.Plan{}
	}
	r.Limits = r.Limits.With(limits)
	if err := r.check(); err != nil {
		return r, fmt.Errorf("change key %s: %w", id, err)
	}
	if err := m.change(ctx, []Record{r}, nil); err != nil {
		return r, fmt.Errorf("change key %s: %w", id, err)
	}
	return r, nil
}

// change stores and removes records, and removes on the way what is good no more.
func (m *Manager) change(ctx context.Context, put, drop []Record) error {
	all, _, err := m.Store.Keys(ctx, 0)
	if err != nil {
		return err
	}
	now := m.Now()
	const most = 16 // at a time: a transaction takes no more than 64 changes
	old := slices.DeleteFunc(all, func(r Record) bool { return !r.over(now) })
	err = m.Store.ChangeKeys(ctx, put, append(drop, old[:min(most, len(old))]...))
	if errors.Is(err, frontend.ErrConflict) {
		return fmt.Errorf("somebody else has changed it just now: %w", err)
	}
	return err
}
