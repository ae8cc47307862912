// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
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
	pair, _, err := s.client.KV().Get(claim.Key(s.prefix, id, epoch), latest(ctx))
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

// Traces implements frontend.Store. What a node was at when its session was deleted
// may come after that, and with it any of the three.
func (s *Store) Traces(ctx context.Context, beginning string) ([]string, error) {
	seen := map[string]bool{}
	for _, folder := range []string{
		strings.TrimSuffix(claim.Folder(s.prefix, ""), "/"),
		strings.TrimSuffix(claim.RestFolder(s.prefix, ""), "/"),
		claim.DataKey(s.prefix, ""),
	} {
		// With a separator Consul answers with what is directly in the folder.
		keys, _, err := s.client.KV().Keys(folder+beginning, "/", latest(ctx))
		if err != nil {
			return nil, unavailable(err, "list %s", folder+beginning)
		}
		for _, key := range keys {
			if id := strings.TrimSuffix(strings.TrimPrefix(key, folder), "/"); id != "" {
				seen[id] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(seen)), nil
}

// Prune implements frontend.Store.
func (s *Store) Prune(ctx context.Context, id string, before uint64) error {
	rests, err := s.rests(ctx, id)
	if err != nil {
		return err
	}
	last := frontend.LastSnapshot(rests, before)
	var gone []string
	for _, rest := range rests {
		if rest.Epoch < last {
			gone = append(gone, claim.RestKey(s.prefix, id, rest.Epoch))
		}
	}
	folder := claim.Folder(s.prefix, id)
	claims, _, err := s.client.KV().Keys(folder, "", latest(ctx))
	if err != nil {
		return unavailable(err, "list %s", folder)
	}
	for _, key := range claims {
		if epoch, err := strconv.ParseUint(strings.TrimPrefix(key, folder), 10, 64); err == nil && epoch < before {
			gone = append(gone, key)
		}
	}
	for _, key := range gone { // two, as a rule: one of each
		if _, err := s.client.KV().Delete(key, new(api.WriteOptions).WithContext(ctx)); err != nil {
			return unavailable(err, "delete %s", key)
		}
	}
	return nil
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
	pair, _, err := s.client.KV().Get(claim.RestKey(s.prefix, id, epoch), latest(ctx))
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
	rests, err := s.rests(ctx, id)
	return slices.ContainsFunc(rests, func(r claim.Rest) bool { return !r.Snapshot.IsZero() }), err
}

// rests reads what the nodes of all epochs of a session have noted.
func (s *Store) rests(ctx context.Context, id string) ([]claim.Rest, error) {
	pairs, err := s.list(ctx, claim.RestFolder(s.prefix, id))
	if err != nil {
		return nil, err
	}
	rests := make([]claim.Rest, len(pairs))
	for i, pair := range pairs {
		if err := json.Unmarshal(pair.Value, &rests[i]); err != nil {
			return nil, fmt.Errorf("decode %s: %w", pair.Key, err)
		}
	}
	return rests, nil
}

func decodeClaim(pair *api.KVPair) (claim.Claim, error) {
	var c claim.Claim
	if err := json.Unmarshal(pair.Value, &c); err != nil {
		return c, fmt.Errorf("decode %s: %w", pair.Key, err)
	}
	return c, nil
}
