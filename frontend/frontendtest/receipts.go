// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"
	"maps"
	"time"

	"github.com/buntime/buntime/frontend"
)

// Receipts says how many there are.
func (s *Store) Receipts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.receipts)
}

// Receipt implements frontend.Receipts.
func (s *Store) Receipt(ctx context.Context, name string) (*frontend.Receipt, error) {
	if err := s.enter(ctx, "Receipt"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.receipts[name]
	if !ok {
		return nil, frontend.ErrNotFound
	}
	return &r, nil
}

// PutReceipt implements frontend.Receipts.
func (s *Store) PutReceipt(ctx context.Context, name string, r *frontend.Receipt) error {
	if err := s.enter(ctx, "PutReceipt"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.receipts[name].Version != r.Version {
		return frontend.ErrConflict
	}
	if s.receipts == nil {
		s.receipts = map[string]frontend.Receipt{}
	}
	s.index++
	r.Version = s.index
	s.receipts[name] = *r
	return nil
}

// DropReceipt implements frontend.Receipts.
func (s *Store) DropReceipt(ctx context.Context, name string, r *frontend.Receipt) error {
	if err := s.enter(ctx, "DropReceipt"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.receipts[name]
	if ok && old.Version != r.Version {
		return frontend.ErrConflict
	}
	delete(s.receipts, name)
	return nil
}

// SweepReceipts implements frontend.Receipts.
func (s *Store) SweepReceipts(ctx context.Context, now time.Time) error {
	if err := s.enter(ctx, "SweepReceipts"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.receipts, func(_ string, r frontend.Receipt) bool { return now.Sub(r.Ends) >= time.Hour })
	return nil
}
