// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/frontend"
)

// Receipts are found by their names. So that those whose time is over are found
// without a look at all, which may be millions, each has an empty entry in a folder
// of the hour that it ends in.
func (s *Store) receipt(name string) string { return s.prefix + "/receipts/" + name }
func (s *Store) receiptEnds() string        { return s.prefix + "/receipts-end/" }

func (s *Store) receiptEnd(name string, ends time.Time) string {
	return s.receiptEnds() + strconv.FormatInt(hour(ends), 10) + "/" + name
}

// hour counts hours since 1970.
func hour(t time.Time) int64 { return t.Unix() / 3600 }

// Receipt implements frontend.Receipts.
func (s *Store) Receipt(ctx context.Context, name string) (*frontend.Receipt, error) {
	pair, _, err := s.client.KV().Get(s.receipt(name), new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return nil, unavailable(err, "read receipt")
	}
	if pair == nil {
		return nil, fmt.Errorf("read receipt %s: %w", name, frontend.ErrNotFound)
	}
	return decodeReceipt(pair)
}

func decodeReceipt(pair *api.KVPair) (*frontend.Receipt, error) {
	r := new(frontend.Receipt)
	if err := json.Unmarshal(pair.Value, r); err != nil {
		return nil, fmt.Errorf("decode %s: %w", pair.Key, err)
	}
	r.Version = pair.ModifyIndex
	return r, nil
}

// PutReceipt implements frontend.Receipts.
func (s *Store) PutReceipt(ctx context.Context, name string, r *frontend.Receipt) error {
	value, err := encode(r)
	if err != nil {
		return fmt.Errorf("encode receipt: %w", err)
	}
	version, err := s.changeReceipt(ctx, "store receipt", api.KVTxnOps{
		{Verb: api.KVCAS, Key: s.receipt(name), Value: value, Index: r.Version},
		{Verb: api.KVSet, Key: s.receiptEnd(name, r.Ends)},
	})
	if err == nil {
		r.Version = version
	}
	return err
}

// DropReceipt implements frontend.Receipts.
func (s *Store) DropReceipt(ctx context.Context, name string, r *frontend.Receipt) error {
	_, err := s.changeReceipt(ctx, "delete receipt", api.KVTxnOps{
		{Verb: api.KVDeleteCAS, Key: s.receipt(name), Index: r.Version},
		{Verb: api.KVDelete, Key: s.receiptEnd(name, r.Ends)},
	})
	return err
}

// changeReceipt runs a transaction that can be refused for a version only, and
// returns the new one.
func (s *Store) changeReceipt(ctx context.Context, what string, ops api.KVTxnOps) (version uint64, err error) {
	ok, answer, _, err := s.client.KV().Txn(ops, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return 0, unavailable(err, "%s", what)
	}
	if !ok {
		return 0, fmt.Errorf("%s: %w", what, frontend.ErrConflict)
	}
	if len(answer.Results) > 0 { // a deletion has none
		version = answer.Results[0].ModifyIndex
	}
	return version, nil
}

// SweepReceipts implements frontend.Receipts.
func (s *Store) SweepReceipts(ctx context.Context, now time.Time) error {
	folders, _, err := s.client.KV().Keys(s.receiptEnds(), "/", new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return unavailable(err, "list %s", s.receiptEnds())
	}
	for _, folder := range folders {
		h, err := strconv.ParseInt(strings.Trim(strings.TrimPrefix(folder, s.receiptEnds()), "/"), 10, 64)
		if err != nil || h >= hour(now) {
			continue
		}
		entries, _, err := s.client.KV().Keys(folder, "", new(api.QueryOptions).WithContext(ctx))
		if err != nil {
			return unavailable(err, "list %s", folder)
		}
		for some := range slices.Chunk(entries, maxOps/2) {
			if err := s.sweep(ctx, folder, some, now); err != nil {
				return err
			}
		}
	}
	return nil
}

// sweep removes entries of a folder, and their receipts unless the name has been used
// again since.
func (s *Store) sweep(ctx context.Context, folder string, entries []string, now time.Time) error {
	reads := make(api.KVTxnOps, 0, len(entries))
	ops := make(api.KVTxnOps, 0, 2*len(entries))
	for _, entry := range entries {
		reads = append(reads, &api.KVTxnOp{Verb: api.KVGetOrEmpty, Key: s.receipt(strings.TrimPrefix(entry, folder))})
		ops = append(ops, &api.KVTxnOp{Verb: api.KVDelete, Key: entry})
	}
	ok, answer, _, err := s.client.KV().Txn(reads, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return unavailable(err, "read %d receipts", len(reads))
	}
	if !ok {
		return fmt.Errorf("read %d receipts: Consul refused: %v", len(reads), answer.Errors)
	}
	for _, pair := range answer.Results {
		if len(pair.Value) == 0 {
			continue // there is none
		}
		r, err := decodeReceipt(pair)
		if err != nil {
			return err
		}
		if !now.Before(r.Ends) {
			ops = append(ops, &api.KVTxnOp{Verb: api.KVDeleteCAS, Key: pair.Key, Index: pair.ModifyIndex})
		}
	}
	if _, err := s.changeReceipt(ctx, "delete receipts", ops); !errors.Is(err, frontend.ErrConflict) {
		return err
	}
	return nil // one has just been used again; the next sweep takes the others
}
