// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"encoding/json"
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
	_, err := s.client.KV().DeleteTree(claim.Folder(s.prefix, id), new(api.WriteOptions).WithContext(ctx))
	if err != nil {
		return unavailable(err, "delete claims of %s", id)
	}
	return nil
}

func decodeClaim(pair *api.KVPair) (claim.Claim, error) {
	var c claim.Claim
	if err := json.Unmarshal(pair.Value, &c); err != nil {
		return c, fmt.Errorf("decode %s: %w", pair.Key, err)
	}
	return c, nil
}
