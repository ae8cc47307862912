// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

// ReceiptsKept is how long a request can be repeated under its Idempotency-Key.
const ReceiptsKept = 24 * time.Hour

// Receipt is what is noted of a request that carries an Idempotency-Key, before it is
// served, so that it is served once however often and wherever it arrives.
type Receipt struct {
	// Request is a hash of the request, to tell another one with the same key.
	Request string `json:"request"`
	// Ends is when it is forgotten.
	Ends time.Time `json:"ends"`
	// Until is when who has noted it gives up to begin. If nothing is known of it
	// after that, nobody is at it any more.
	Until time.Time `json:"until"`
	// Execution is the id of what is run, for the answer is with the execution.
	Execution string `json:"execution,omitempty"`
	// Answer is there once it has been served, if it is nowhere else.
	Answer json.RawMessage `json:"answer,omitempty"`

	// Version is the Store's, for compare-and-swap: 0 is one not stored yet.
	Version uint64 `json:"-"`
}

// Receipts keeps receipts. The rules for Store hold here too.
type Receipts interface {
	// Receipt reads a receipt by its name, also one whose time is over.
	// ErrNotFound if there is none.
	Receipt(ctx context.Context, name string) (*Receipt, error)
	// PutReceipt stores a receipt if its Version is still the stored one, and sets
	// the new Version. ErrConflict if not. A new Ends is only for one that is over.
	PutReceipt(ctx context.Context, name string, r *Receipt) error
	// DropReceipt removes a receipt if its Version is still the stored one.
	// ErrConflict if not; no error if it is gone.
	DropReceipt(ctx context.Context, name string, r *Receipt) error
	// SweepReceipts removes receipts whose time was over an hour or more before now.
	SweepReceipts(ctx context.Context, now time.Time) error
}

// Made returns the session that was created for a receipt, with the place where it
// answers. ErrNotFound if none was, or it does not start, and then it is ended. It reads all of the account's records, and is for
// when the front-end that was to create it has died over it.
func (s *Service) Made(ctx context.Context, account, receipt string) (*Session, error) {
	entries, err := s.Store.Account(ctx, account)
	if err != nil {
		return nil, fmt.Errorf("list sessions of %s: %w", account, err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.ID)
	}
	all, err := s.Store.GetMany(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("read records of %s: %w", account, err)
	}
	i := slices.IndexFunc(all, func(sess *Session) bool { return sess.Receipt == receipt && !sess.Expired(s.Now()) })
	if i < 0 {
		return nil, fmt.Errorf("look for the session of a receipt: %w", ErrNotFound)
	}
	sess, err := s.place(ctx, all[i])
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Code != CodeServiceUnavailable && e.Code != CodeSessionNotFound {
		return sess, err
	}
	// It has not started and nobody was told of it.
	if err := s.Delete(ctx, account, all[i].ID); err != nil && e.Code != CodeSessionNotFound {
		return nil, err
	}
	return nil, fmt.Errorf("look for the session of a receipt: %w", ErrNotFound)
}
