// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"slices"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/frontend"
)

// takeOps is how many operations take a slot; see writes and removeSlot. With one that
// lists its account that makes at most maxOps.
const takeOps = 4

// TakeSlots implements frontend.Store by one transaction, and another without those
// that it was refused for.
func (s *Store) TakeSlots(ctx context.Context, takes []*frontend.Take) {
	var left []*frontend.Take
	var ops api.KVTxnOps
	for _, t := range takes {
		writes, err := s.writes(t.Session, 0)
		if err != nil {
			t.Err = err
			continue
		}
		left, ops = append(left, t), append(append(ops, writes...), s.removeSlot(t.Slot)...)
	}
	for len(left) > 0 {
		ok, answer, _, err := s.client.KV().Txn(append(slices.Clip(ops), s.lists(left)...), new(api.QueryOptions).WithContext(ctx))
		switch {
		case err != nil:
			for _, t := range left {
				t.Err = unavailable(err, "take slot %s", t.Slot.ID)
			}
			return
		case ok:
			s.taken(left, answer.Results)
			return
		}
		left, ops = refused(left, ops, answer.Errors)
	}
}

// lists has the accounts listed for which something is taken.
func (s *Store) lists(takes []*frontend.Take) api.KVTxnOps {
	var ops api.KVTxnOps
	seen := map[string]bool{}
	for _, t := range takes {
		if account := t.Session.Account; !seen[account] {
			seen[account] = true
			ops = append(ops, &api.KVTxnOp{Verb: api.KVGetTree, Key: s.account(account)})
		}
	}
	return ops
}

// refused notes which takes a transaction was refused for, each for nothing but that
// its slot is not as it was, and returns the others with their operations.
func refused(takes []*frontend.Take, ops api.KVTxnOps, errs api.TxnErrors) (left []*frontend.Take, leftOps api.KVTxnOps) {
	conflict := map[int]bool{}
	for _, e := range errs {
		conflict[e.OpIndex/takeOps] = true
	}
	for i, t := range takes {
		if conflict[i] {
			t.Err = fmt.Errorf("take slot %s at version %d: %w", t.Slot.ID, t.Slot.Version, frontend.ErrConflict)
			continue
		}
		left, leftOps = append(left, t), append(leftOps, ops[i*takeOps:(i+1)*takeOps]...)
	}
	if len(left) == len(takes) { // it says nothing of any
		for _, t := range takes {
			t.Err = fmt.Errorf("take slot %s: %w: Consul refuses: %v", t.Slot.ID, frontend.ErrUnavailable, errs)
		}
		return nil, nil
	}
	return left, leftOps
}

// taken notes what a transaction has answered: the keys that it has written, without
// their values, and those of the accounts with them.
func (s *Store) taken(takes []*frontend.Take, results api.KVPairs) {
	versions, lists := map[string]uint64{}, map[string]*list{}
	for _, t := range takes {
		lists[s.account(t.Session.Account)] = new(list)
	}
	for _, pair := range results {
		folder, id := path.Split(pair.Key)
		if l := lists[folder]; l == nil {
			versions[pair.Key] = pair.ModifyIndex
		} else if len(pair.Value) > 0 {
			e := frontend.Entry{ID: id, Order: pair.CreateIndex}
			if err := json.Unmarshal(pair.Value, &e); err != nil {
				l.err = fmt.Errorf("decode %s: %w", pair.Key, err)
			}
			l.entries = append(l.entries, e)
		}
	}
	for _, t := range takes {
		l := lists[s.account(t.Session.Account)]
		t.Session.Version, t.Entries, t.Err = versions[s.record(t.Session.ID)], l.entries, l.err
	}
}

// list is what a transaction tells of an account.
type list struct {
	entries []frontend.Entry
	err     error
}
