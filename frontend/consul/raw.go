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

// Raw is all below a folder of the prefix, as it is stored, by its name below the
// prefix: for backups.
func (s *Store) Raw(ctx context.Context, folder string) (map[string][]byte, error) {
	pairs, err := s.list(ctx, s.prefix+"/"+folder)
	if err != nil {
		return nil, err
	}
	all := map[string][]byte{}
	for _, p := range pairs {
		all[strings.TrimPrefix(p.Key, s.prefix+"/")] = p.Value
	}
	return all, nil
}

// SetRaw stores what Raw has returned.
func (s *Store) SetRaw(ctx context.Context, all map[string][]byte) error {
	var ops api.KVTxnOps
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		ok, answer, _, err := s.client.KV().Txn(ops, new(api.QueryOptions).WithContext(ctx))
		if err != nil {
			return unavailable(err, "write to Consul")
		}
		if !ok {
			return fmt.Errorf("write to Consul: %s", why(answer))
		}
		ops = ops[:0]
		return nil
	}
	for name, value := range all {
		ops = append(ops, &api.KVTxnOp{Verb: api.KVSet, Key: s.prefix + "/" + name, Value: value})
		if len(ops) == maxOps {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// Stored is a session with all that Consul has of it that outlasts its node.
type Stored struct {
	Record *frontend.Session
	// Rest is the last note of a snapshot; zero where there is none.
	Rest claim.Rest
	// Key is what the snapshots are sealed with, as it is stored.
	Key []byte
}

// ErrGone says that a session is not there, or not any more.
var ErrGone = errors.New("it is gone")

// Stored reads a session at one moment.
func (s *Store) Stored(ctx context.Context, id string) (Stored, error) {
	var got Stored
	ok, answer, _, err := s.client.KV().Txn(api.KVTxnOps{
		{Verb: api.KVGetOrEmpty, Key: s.record(id)},
		{Verb: api.KVGetOrEmpty, Key: claim.DataKey(s.prefix, id)},
		{Verb: api.KVGetTree, Key: claim.RestFolder(s.prefix, id)},
	}, latest(ctx))
	switch {
	case err != nil:
		return got, unavailable(err, "read %s", id)
	case !ok:
		return got, fmt.Errorf("read %s: %s", id, why(answer))
	}
	for _, pair := range answer.Results {
		switch {
		case len(pair.Value) == 0:
		case pair.Key == s.record(id):
			if got.Record, err = decode(pair); err != nil {
				return got, err
			}
		case pair.Key == claim.DataKey(s.prefix, id):
			got.Key = pair.Value
		default:
			var rest claim.Rest
			if err := json.Unmarshal(pair.Value, &rest); err != nil {
				return got, fmt.Errorf("decode %s: %w", pair.Key, err)
			}
			if rest.Epoch >= got.Rest.Epoch && !rest.Snapshot.IsZero() {
				got.Rest = rest
			}
		}
	}
	if got.Record == nil {
		return got, ErrGone
	}
	return got, nil
}

// Restore stores a session that is not there. First what its record stands for, as
// what has no record is removed only by a front-end that leads, and there is none.
func (s *Store) Restore(ctx context.Context, stored Stored) error {
	rest, err := encode(stored.Rest)
	if err != nil {
		return fmt.Errorf("encode rest of %s: %w", stored.Record.ID, err)
	}
	id := stored.Record.ID
	err = s.SetRaw(ctx, map[string][]byte{
		strings.TrimPrefix(claim.DataKey(s.prefix, id), s.prefix+"/"):                    stored.Key,
		strings.TrimPrefix(claim.RestKey(s.prefix, id, stored.Rest.Epoch), s.prefix+"/"): rest,
	})
	if err != nil {
		return err
	}
	return s.Create(ctx, stored.Record)
}
