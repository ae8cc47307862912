// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package frontendtest has stand-ins for what a Service works with, and the
// suite that every Store must pass.
package frontendtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
)

// Store is a frontend.Store in memory. Records go in and out as JSON, so that
// nothing is shared and nothing survives that JSON does not carry.
type Store struct {
	// Fail, if not nil, is asked before each call, by method; its error is returned.
	Fail func(method string) error
	// Gets counts calls of Get.
	Gets int

	mu       sync.Mutex
	index    uint64
	records  map[string]record
	claims   map[string]map[uint64]claim.Claim
	rests    map[string]map[uint64]claim.Rest
	receipts map[string]frontend.Receipt
	changed  chan struct{} // closed and replaced with every claim

	slots        map[string]slot
	slotIndex    uint64 // of the last change of a slot
	reports      map[string]frontend.Report
	slotsChanged chan struct{} // closed with the next; nil before anybody waits
}

type record struct {
	text            []byte
	created, change uint64
	account         string
	entry           frontend.Entry
}

var _ frontend.Store = (*Store)(nil)

// NewStore makes an empty Store.
func NewStore() *Store {
	return &Store{index: 1, slotIndex: 1, records: map[string]record{}, claims: map[string]map[uint64]claim.Claim{}, changed: make(chan struct{})}
}

func (s *Store) enter(ctx context.Context, method string) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w: %w", method, frontend.ErrUnavailable, context.Cause(ctx))
	}
	s.mu.Lock()
	fail := s.Fail
	s.mu.Unlock()
	if fail != nil {
		return fail(method)
	}
	return nil
}

// SetFail sets Fail while calls may be under way.
func (s *Store) SetFail(fail func(method string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Fail = fail
}

// Create implements frontend.Store.
func (s *Store) Create(ctx context.Context, r *frontend.Session) error {
	if err := s.enter(ctx, "Create"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.records[r.ID]; ok {
		return frontend.ErrExists
	}
	return s.set(r, s.index+1)
}

// set is called with mu held.
func (s *Store) set(r *frontend.Session, created uint64) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(r); err != nil {
		return err
	}
	text := b.Bytes()
	if old, ok := s.records[r.ID]; ok && bytes.Equal(old.text, text) {
		return nil // as Consul has it
	}
	s.index++
	entry := r.Entry()
	entry.Order = created
	s.records[r.ID] = record{text: text, created: created, change: s.index, account: r.Account, entry: entry}
	r.Version = s.index
	return nil
}

// Update implements frontend.Store.
func (s *Store) Update(ctx context.Context, r *frontend.Session) error {
	if err := s.enter(ctx, "Update"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.records[r.ID]
	if !ok || old.change != r.Version {
		return frontend.ErrConflict
	}
	return s.set(r, old.created)
}

// Delete implements frontend.Store.
func (s *Store) Delete(ctx context.Context, r *frontend.Session) error {
	if err := s.enter(ctx, "Delete"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.records[r.ID]; !ok || old.change != r.Version {
		return frontend.ErrConflict
	}
	s.index++
	delete(s.records, r.ID)
	return nil
}

// Get implements frontend.Store.
func (s *Store) Get(ctx context.Context, id string) (*frontend.Session, error) {
	if err := s.enter(ctx, "Get"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Gets++
	return s.get(id)
}

// get is called with mu held.
func (s *Store) get(id string) (*frontend.Session, error) {
	r, ok := s.records[id]
	if !ok {
		return nil, frontend.ErrNotFound
	}
	out := new(frontend.Session)
	if err := json.Unmarshal(r.text, out); err != nil {
		return nil, err
	}
	out.Version = r.change
	return out, nil
}

// GetMany implements frontend.Store.
func (s *Store) GetMany(ctx context.Context, ids []string) ([]*frontend.Session, error) {
	if err := s.enter(ctx, "GetMany"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*frontend.Session
	for _, id := range ids {
		if r, err := s.get(id); err == nil {
			out = append(out, r)
		}
	}
	return out, nil
}

// All implements frontend.Store.
func (s *Store) All(ctx context.Context, beginning string) ([]*frontend.Session, error) {
	s.mu.Lock()
	ids := make([]string, 0, len(s.records))
	for id := range s.records {
		if strings.HasPrefix(id, beginning) {
			ids = append(ids, id)
		}
	}
	s.mu.Unlock()
	return s.GetMany(ctx, ids)
}

// Account implements frontend.Store.
func (s *Store) Account(ctx context.Context, account string) ([]frontend.Entry, error) {
	if err := s.enter(ctx, "Account"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.entries(account), nil
}

// entries is called with mu held.
func (s *Store) entries(account string) (out []frontend.Entry) {
	for _, r := range s.records {
		if r.account == account {
			out = append(out, r.entry)
		}
	}
	return out
}

// PutClaim is what a node does. It is false if the epoch is claimed already.
func (s *Store) PutClaim(c claim.Claim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.claims[c.Session][c.Epoch]; ok {
		return false
	}
	if s.claims[c.Session] == nil {
		s.claims[c.Session] = map[uint64]claim.Claim{}
	}
	s.index++
	s.claims[c.Session][c.Epoch] = c
	close(s.changed)
	s.changed = make(chan struct{})
	return true
}

// Claim implements frontend.Store.
func (s *Store) Claim(ctx context.Context, id string, epoch uint64) (claim.Claim, error) {
	if err := s.enter(ctx, "Claim"); err != nil {
		return claim.Claim{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.claims[id][epoch]; ok {
		return c, nil
	}
	return claim.Claim{}, frontend.ErrNotFound
}

// WaitClaim implements frontend.Store.
func (s *Store) WaitClaim(ctx context.Context, id string, epoch, _ uint64) (claim.Claim, error) {
	if err := s.enter(ctx, "WaitClaim"); err != nil {
		return claim.Claim{}, err
	}
	for {
		s.mu.Lock()
		c, ok := s.claims[id][epoch]
		changed := s.changed
		s.mu.Unlock()
		if ok {
			return c, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return claim.Claim{}, fmt.Errorf("wait for claim: %w: %w", frontend.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// Traces implements frontend.Store. Keys are not kept here.
func (s *Store) Traces(ctx context.Context, beginning string) ([]string, error) {
	if err := s.enter(ctx, "Traces"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := slices.AppendSeq(slices.Collect(maps.Keys(s.claims)), maps.Keys(s.rests))
	ids = slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, beginning) })
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// Prune implements frontend.Store.
func (s *Store) Prune(ctx context.Context, id string, before uint64) error {
	if err := s.enter(ctx, "Prune"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	last := frontend.LastSnapshot(slices.Collect(maps.Values(s.rests[id])), before)
	maps.DeleteFunc(s.rests[id], func(epoch uint64, _ claim.Rest) bool { return epoch < last })
	maps.DeleteFunc(s.claims[id], func(epoch uint64, _ claim.Claim) bool { return epoch < before })
	return nil
}

// DropClaims implements frontend.Store.
func (s *Store) DropClaims(ctx context.Context, id string) error {
	if err := s.enter(ctx, "DropClaims"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.claims, id)
	delete(s.rests, id)
	return nil
}

// PutRest is what a node notes.
func (s *Store) PutRest(r claim.Rest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rests == nil {
		s.rests = map[string]map[uint64]claim.Rest{}
	}
	if s.rests[r.Session] == nil {
		s.rests[r.Session] = map[uint64]claim.Rest{}
	}
	s.rests[r.Session][r.Epoch] = r
}

// Rest implements frontend.Store.
func (s *Store) Rest(ctx context.Context, id string, epoch uint64) (claim.Rest, error) {
	if err := s.enter(ctx, "Rest"); err != nil {
		return claim.Rest{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r, ok := s.rests[id][epoch]; ok {
		return r, nil
	}
	return claim.Rest{}, frontend.ErrNotFound
}

// Seal implements frontend.Store.
func (s *Store) Seal(ctx context.Context, id string, epoch uint64) (claim.Rest, error) {
	r, err := s.Rest(ctx, id, epoch)
	if err != nil && !errors.Is(err, frontend.ErrNotFound) || r.Sealed {
		return r, err
	}
	r.Session, r.Epoch, r.Sealed = id, epoch, true
	s.PutRest(r)
	return r, nil
}

// Kept implements frontend.Store.
func (s *Store) Kept(ctx context.Context, id string) (bool, error) {
	if err := s.enter(ctx, "Kept"); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rests[id] {
		if !r.Snapshot.IsZero() {
			return true, nil
		}
	}
	return false, nil
}

// Ready implements frontend.Store.
func (s *Store) Ready(ctx context.Context) error { return s.enter(ctx, "Ready") }
