// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
)

// pollLimit ends a blocking query that nothing else ends, so that a connection
// which a firewall has silently dropped is noticed.
const pollLimit = time.Minute

// Claim implements frontend.Store.
func (s *Store) Claim(ctx context.Context, id string, epoch uint64) (claim.Claim, error) {
	pair, _, err := s.client.KV().Get(claim.Key(s.prefix, id, epoch), new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return claim.Claim{}, unavailable(err, "read claim of %s", id)
	}
	if pair == nil {
		return claim.Claim{}, fmt.Errorf("read claim of %s for epoch %d: %w", id, epoch, frontend.ErrNotFound)
	}
	return decodeClaim(pair)
}

// WaitClaim implements frontend.Store by a blocking query. While the key is
// missing Consul itself skips most of what is written elsewhere.
func (s *Store) WaitClaim(ctx context.Context, id string, epoch, since uint64) (claim.Claim, error) {
	key := claim.Key(s.prefix, id, epoch)
	for {
		q := (&api.QueryOptions{WaitIndex: since, WaitTime: pollLimit}).WithContext(ctx)
		pair, meta, err := s.wait.KV().Get(key, q)
		if err != nil {
			return claim.Claim{}, unavailable(err, "wait for claim of %s for epoch %d", id, epoch)
		}
		if pair != nil {
			return decodeClaim(pair)
		}
		if since = meta.LastIndex; since == 0 {
			since = 1 // 0 would not block
		}
	}
}

// Claims implements frontend.Store.
func (s *Store) Claims(ctx context.Context) ([]string, error) {
	folder := strings.TrimSuffix(claim.Folder(s.prefix, ""), "/")
	keys, _, err := s.client.KV().Keys(folder, "", new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return nil, unavailable(err, "list %s", folder)
	}
	var ids []string
	for _, key := range keys { // sorted: those of a session stand together
		id, _, ok := strings.Cut(strings.TrimPrefix(key, folder), "/")
		if ok && (len(ids) == 0 || ids[len(ids)-1] != id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// DropClaims implements frontend.Store.
func (s *Store) DropClaims(ctx context.Context, id string) error {
	ops := api.KVTxnOps{
		{Verb: api.KVDelete, Key: claim.DataKey(s.prefix, id)}, // first: without it the rest is noise
		{Verb: api.KVDeleteTree, Key: claim.RestFolder(s.prefix, id)},
		{Verb: api.KVDeleteTree, Key: claim.Folder(s.prefix, id)},
	}
	ok, answer, _, err := s.client.KV().Txn(ops, new(api.QueryOptions).WithContext(ctx))
	if err == nil && !ok {
		err = fmt.Errorf("transaction refused: %v", answer.Errors)
	}
	if err != nil {
		return unavailable(err, "delete claims of %s", id)
	}
	return nil
}

// Rest implements frontend.Store.
func (s *Store) Rest(ctx context.Context, id string, epoch uint64) (claim.Rest, error) {
	rest, _, err := s.rest(ctx, id, epoch)
	return rest, err
}

func (s *Store) rest(ctx context.Context, id string, epoch uint64) (rest claim.Rest, version uint64, err error) {
	pair, _, err := s.client.KV().Get(claim.RestKey(s.prefix, id, epoch), new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return rest, 0, unavailable(err, "read rest of %s", id)
	}
	if pair == nil {
		return rest, 0, fmt.Errorf("read rest of %s for epoch %d: %w", id, epoch, frontend.ErrNotFound)
	}
	if err := json.Unmarshal(pair.Value, &rest); err != nil {
		return rest, 0, fmt.Errorf("decode %s: %w", pair.Key, err)
	}
	return rest, pair.ModifyIndex, nil
}

// Seal implements frontend.Store.
func (s *Store) Seal(ctx context.Context, id string, epoch uint64) (claim.Rest, error) {
	for {
		rest, version, err := s.rest(ctx, id, epoch)
		if err != nil && !errors.Is(err, frontend.ErrNotFound) {
			return rest, err
		}
		if rest.Sealed {
			return rest, nil
		}
		rest.Session, rest.Epoch, rest.Sealed = id, epoch, true
		value, err := encode(rest)
		if err != nil {
			return rest, fmt.Errorf("encode rest of %s: %w", id, err)
		}
		pair := &api.KVPair{Key: claim.RestKey(s.prefix, id, epoch), Value: value, ModifyIndex: version}
		ok, _, err := s.client.KV().CAS(pair, new(api.WriteOptions).WithContext(ctx))
		if err != nil {
			return rest, unavailable(err, "seal epoch %d of %s", epoch, id)
		}
		if ok {
			return rest, nil
		} // else the node came first: look again
	}
}

// Kept implements frontend.Store.
func (s *Store) Kept(ctx context.Context, id string) (bool, error) {
	pairs, err := s.list(ctx, claim.RestFolder(s.prefix, id))
	if err != nil {
		return false, err
	}
	for _, pair := range pairs {
		var rest claim.Rest
		if err := json.Unmarshal(pair.Value, &rest); err != nil {
			return false, fmt.Errorf("decode %s: %w", pair.Key, err)
		}
		if !rest.Snapshot.IsZero() {
			return true, nil
		}
	}
	return false, nil
}

func decodeClaim(pair *api.KVPair) (claim.Claim, error) {
	var c claim.Claim
	if err := json.Unmarshal(pair.Value, &c); err != nil {
		return c, fmt.Errorf("decode %s: %w", pair.Key, err)
	}
	return c, nil
}
