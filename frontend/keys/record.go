// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package keys

import (
	"context"
	"fmt"
	"time"

	"github.com/buntime/buntime/frontend"
)

// Record is a key in the store.
type Record struct {
	// Sum is the hash of the key's text, and what the record is found by.
	Sum Sum `json:"-"`
	// ID names the key to people; it is no secret.
	ID      string `json:"id"`
	Account string `json:"account"`
	// Plan is free, paid or enterprise.
	Plan string `json:"plan"`
	// Limits raise or lower single values of the plan.
	Limits frontend.Plan `json:"limits,omitzero"`
	// Operator makes it a key of who runs the front-ends.
	Operator bool `json:"operator,omitempty"`
	// Label says what the key is for, if anybody has.
	Label   string    `json:"label,omitempty"`
	Created time.Time `json:"created"`
	// Expires, if not zero, is when the key is good no more.
	Expires time.Time `json:"expires,omitzero"`

	// Version is the Store's, for compare-and-swap: 0 is one not stored yet.
	Version uint64 `json:"-"`
}

// Store keeps records. Every method may be called from any goroutine, ends with its
// context, and returns an error that is frontend.ErrUnavailable when the store does
// not answer.
type Store interface {
	// Keys reads all records, in no order, and the version of the whole. With since,
	// the version of an earlier answer, it waits until there is another, at most for
	// some minutes: the same may come again.
	Keys(ctx context.Context, since uint64) (all []Record, version uint64, err error)
	// ChangeKeys stores some records and removes others, all of it or nothing.
	// frontend.ErrConflict if the Version of one is not the stored one.
	ChangeKeys(ctx context.Context, put, drop []Record) error
}

// Allowed is what the key allows.
func (r Record) Allowed() (frontend.Key, error) {
	plan, err := frontend.FindPlan(r.Plan)
	if err != nil {
		return frontend.Key{}, err
	}
	return frontend.Key{ID: r.ID, Account: r.Account, Plan: r.Plan, Allowed: plan.With(r.Limits), Operator: r.Operator}, nil
}

// check says what is wrong with a record that is to be stored.
func (r Record) check() error {
	if !accountShape.MatchString(r.Account) {
		return fmt.Errorf("account %q must be 1 to 64 letters, digits, or . _ @ -", r.Account)
	}
	const longestLabel = 200 // bytes: it is shown in a table
	if len(r.Label) > longestLabel {
		return fmt.Errorf("label has %d bytes, more than %d", len(r.Label), longestLabel)
	}
	if r.Limits.Negative() {
		return fmt.Errorf("limits must be positive")
	}
	_, err := r.Allowed()
	return err
}

// over says whether the key is good no more.
func (r Record) over(now time.Time) bool { return !r.Expires.IsZero() && !now.Before(r.Expires) }
