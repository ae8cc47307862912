// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/keys"
)

var _ keys.Store = (*Store)(nil)

func (s *Store) apiKeys() string            { return s.prefix + "/api-keys/" }
func (s *Store) apiKey(sum keys.Sum) string { return s.apiKeys() + hex.EncodeToString(sum[:]) }

// Keys implements keys.Store.
func (s *Store) Keys(ctx context.Context, since uint64) ([]keys.Record, uint64, error) {
	q := (&api.QueryOptions{WaitIndex: since, WaitTime: pollLimit}).WithContext(ctx)
	pairs, meta, err := s.wait.KV().List(s.apiKeys(), q)
	if err != nil {
		return nil, 0, unavailable(err, "list %s", s.apiKeys())
	}
	all := make([]keys.Record, 0, len(pairs))
	for _, pair := range pairs {
		r := keys.Record{Version: pair.ModifyIndex}
		sum, err := hex.DecodeString(strings.TrimPrefix(pair.Key, s.apiKeys()))
		if err != nil || len(sum) != len(r.Sum) {
			continue // none of ours
		}
		if err := json.Unmarshal(pair.Value, &r); err != nil {
			return nil, 0, fmt.Errorf("decode %s: %w", pair.Key, err)
		}
		r.Sum = keys.Sum(sum)
		all = append(all, r)
	}
	version := max(meta.LastIndex, 1) // 0 would not block
	if version < since {
		version = 1 // Consul was set back; look at all again
	}
	return all, version, nil
}

// ChangeKeys implements keys.Store.
func (s *Store) ChangeKeys(ctx context.Context, put, drop []keys.Record) error {
	var ops api.KVTxnOps
	for _, r := range put {
		value, err := encode(r)
		if err != nil {
			return fmt.Errorf("encode key %s: %w", r.ID, err)
		}
		ops = append(ops, &api.KVTxnOp{Verb: api.KVCAS, Key: s.apiKey(r.Sum), Value: value, Index: r.Version})
	}
	for _, r := range drop {
		ops = append(ops,
			&api.KVTxnOp{Verb: api.KVCheckIndex, Key: s.apiKey(r.Sum), Index: r.Version},
			&api.KVTxnOp{Verb: api.KVDelete, Key: s.apiKey(r.Sum)})
	}
	ok, _, _, err := s.client.KV().Txn(ops, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return unavailable(err, "change keys")
	}
	if !ok {
		return fmt.Errorf("change keys: %w", frontend.ErrConflict)
	}
	return nil
}
