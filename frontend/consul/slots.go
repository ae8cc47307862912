// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
)

func (s *Store) slot(id string) string { return claim.SlotKey(s.prefix, id) }

// AddSlot implements frontend.Store.
func (s *Store) AddSlot(ctx context.Context, slot *frontend.Slot) error {
	err := s.putSlot(ctx, slot, 0, "add")
	if errors.Is(err, frontend.ErrConflict) {
		return fmt.Errorf("add slot %s: %w", slot.ID, frontend.ErrExists)
	}
	return err
}

// UpdateSlot implements frontend.Store.
func (s *Store) UpdateSlot(ctx context.Context, slot *frontend.Slot) error {
	return s.putSlot(ctx, slot, slot.Version, "update")
}

func (s *Store) putSlot(ctx context.Context, slot *frontend.Slot, version uint64, what string) error {
	value, err := encode(slot)
	if err != nil {
		return fmt.Errorf("encode slot %s: %w", slot.ID, err)
	}
	return s.changeSlot(ctx, slot, what, api.KVTxnOps{{Verb: api.KVCAS, Key: s.slot(slot.ID), Value: value, Index: version}}, &slot.Version)
}

// DropSlot implements frontend.Store.
func (s *Store) DropSlot(ctx context.Context, slot *frontend.Slot) error {
	return s.changeSlot(ctx, slot, "drop", s.removeSlot(slot), new(uint64))
}

// removeSlot: Consul's delete-cas would also be content with a key that is gone.
func (s *Store) removeSlot(slot *frontend.Slot) api.KVTxnOps {
	return api.KVTxnOps{
		{Verb: api.KVCheckIndex, Key: s.slot(slot.ID), Index: slot.Version},
		{Verb: api.KVDelete, Key: s.slot(slot.ID)},
	}
}

// changeSlot runs a transaction, which is refused for nothing but that the slot is
// not as it was, and notes the version of what its first operation has written.
func (s *Store) changeSlot(ctx context.Context, slot *frontend.Slot, what string, ops api.KVTxnOps, version *uint64) error {
	ok, answer, _, err := s.client.KV().Txn(ops, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return unavailable(err, "%s slot %s", what, slot.ID)
	}
	if !ok {
		return fmt.Errorf("%s slot %s at version %d: %w", what, slot.ID, slot.Version, frontend.ErrConflict)
	}
	*version = answer.Results[0].ModifyIndex
	return nil
}

// Slots implements frontend.Store by a blocking query. While there are none, anything
// that is written below any prefix may end it.
func (s *Store) Slots(ctx context.Context, since uint64) ([]*frontend.Slot, uint64, error) {
	q := (&api.QueryOptions{WaitIndex: since, WaitTime: pollLimit}).WithContext(ctx)
	pairs, meta, err := s.wait.KV().List(claim.SlotKey(s.prefix, ""), q)
	if err != nil {
		return nil, 0, unavailable(err, "list slots")
	}
	slots := make([]*frontend.Slot, 0, len(pairs))
	for _, pair := range pairs {
		slot := &frontend.Slot{Version: pair.ModifyIndex}
		if err := json.Unmarshal(pair.Value, slot); err != nil {
			return nil, 0, fmt.Errorf("decode %s: %w", pair.Key, err)
		}
		slots = append(slots, slot)
	}
	next := max(meta.LastIndex, 1) // 0 would not wait
	if next < since {
		next = 0 // Consul was restored from a backup
	}
	return slots, next, nil
}

func (s *Store) reports() string { return s.prefix + "/demand/" }

// PutReport implements frontend.Store.
func (s *Store) PutReport(ctx context.Context, frontend string, r frontend.Report) error {
	value, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	if _, err := s.client.KV().Put(&api.KVPair{Key: s.reports() + frontend, Value: value}, new(api.WriteOptions).WithContext(ctx)); err != nil {
		return unavailable(err, "store report of %s", frontend)
	}
	return nil
}

// Reports implements frontend.Store.
func (s *Store) Reports(ctx context.Context) (map[string]frontend.Report, error) {
	pairs, err := s.list(ctx, s.reports())
	if err != nil {
		return nil, err
	}
	out := make(map[string]frontend.Report, len(pairs))
	for _, pair := range pairs {
		var r frontend.Report
		if err := json.Unmarshal(pair.Value, &r); err != nil {
			return nil, fmt.Errorf("decode %s: %w", pair.Key, err)
		}
		out[strings.TrimPrefix(pair.Key, s.reports())] = r
	}
	return out, nil
}

// DropReport implements frontend.Store.
func (s *Store) DropReport(ctx context.Context, frontend string) error {
	if _, err := s.client.KV().Delete(s.reports()+frontend, new(api.WriteOptions).WithContext(ctx)); err != nil {
		return unavailable(err, "delete report of %s", frontend)
	}
	return nil
}
