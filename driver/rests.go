// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
)

// ErrFenced says that an epoch of a session is not this node's any more.
var ErrFenced = errors.New("the session lives elsewhere")

// Rests is where a node notes snapshots of one session (claim.Rest). Its methods
// may be called from any goroutine; each takes a deadline with a cause.
type Rests interface {
	// Last is the latest rest with a snapshot of an epoch before epoch; false if
	// there is none.
	Last(ctx context.Context, epoch uint64) (claim.Rest, bool, error)
	// Load reads the rest of an epoch and its version; without one, both are zero.
	Load(ctx context.Context, epoch uint64) (claim.Rest, uint64, error)
	// Note stores r over the version that Load or Note has returned and returns the
	// new one. ErrFenced if another is stored.
	Note(ctx context.Context, r claim.Rest, version uint64) (uint64, error)
	// Key is what the session's snapshots are sealed with. It is made when it is
	// asked for first.
	Key(ctx context.Context) (snapshot.Key, error)
	// Wanted says whether the session still has a record, and that is of epoch; and
	// when the session ends, which may be put off while it lives.
	Wanted(ctx context.Context, epoch uint64) (expires time.Time, wanted bool, err error)
	// Vacate removes what front-ends know of a slot that nobody has taken. It does
	// nothing if somebody has.
	Vacate(ctx context.Context) error
}

// restTimeout bounds one way to Consul and back. Unlike a claim, a note may wait
// for a change of leader: what it would lose is more.
const restTimeout = 10 * time.Second

// consulRests keeps rests in Consul KV.
type consulRests struct {
	kv      *api.KV
	prefix  string
	session string
}

func (r *consulRests) get(ctx context.Context, key string, into any) (version uint64, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, restTimeout, fmt.Errorf("no answer from Consul within %s", restTimeout))
	defer cancel()
	// Consistent: what a stale server says could be a snapshot that is pruned.
	pair, _, err := r.kv.Get(key, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", key, because(ctx, err))
	}
	if pair == nil {
		return 0, nil
	}
	if err := json.Unmarshal(pair.Value, into); err != nil {
		return 0, fmt.Errorf("decode %s: %w", key, err)
	}
	return pair.ModifyIndex, nil
}

func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// Last implements Rests.
func (r *consulRests) Last(ctx context.Context, epoch uint64) (last claim.Rest, found bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, restTimeout, fmt.Errorf("no answer from Consul within %s", restTimeout))
	defer cancel()
	folder := claim.RestFolder(r.prefix, r.session)
	pairs, _, err := r.kv.List(folder, (&api.QueryOptions{RequireConsistent: true}).WithContext(ctx))
	if err != nil {
		return last, false, fmt.Errorf("list %s: %w", folder, because(ctx, err))
	}
	for _, pair := range pairs {
		var rest claim.Rest
		if err := json.Unmarshal(pair.Value, &rest); err != nil {
			return last, false, fmt.Errorf("decode %s: %w", pair.Key, err)
		}
		if rest.Epoch < epoch && !rest.Snapshot.IsZero() && (!found || rest.Epoch > last.Epoch) {
			last, found = rest, true
		}
	}
	return last, found, nil
}

// Load implements Rests.
func (r *consulRests) Load(ctx context.Context, epoch uint64) (rest claim.Rest, version uint64, err error) {
	version, err = r.get(ctx, claim.RestKey(r.prefix, r.session, epoch), &rest)
	return rest, version, err
}

// noteTries bounds how often a note is tried over a version that only this node can
// have written.
const noteTries = 3

// Note implements Rests.
func (r *consulRests) Note(ctx context.Context, rest claim.Rest, version uint64) (uint64, error) {
	for range noteTries {
		now, again, err := r.note(ctx, rest, version)
		if !again {
			return now, err
		}
		version = now
	}
	return 0, fmt.Errorf("note rest of %s: other notes of this node came in between", r.session)
}

// note is one try. again says to try over the version now: an earlier note of this
// allocation, of which it had never heard that it was stored, is there.
func (r *consulRests) note(ctx context.Context, rest claim.Rest, version uint64) (now uint64, again bool, err error) {
	value, err := json.Marshal(rest)
	if err != nil {
		return 0, false, fmt.Errorf("encode rest: %w", err)
	}
	key := claim.RestKey(r.prefix, r.session, rest.Epoch)
	limited, cancel := context.WithTimeoutCause(ctx, restTimeout, fmt.Errorf("no answer from Consul within %s", restTimeout))
	defer cancel()
	ok, _, err := r.kv.CAS(&api.KVPair{Key: key, Value: value, ModifyIndex: version}, new(api.WriteOptions).WithContext(limited))
	if err != nil {
		err = because(limited, err)
	}
	// An answer may be lost after the note was stored, so what counts is what is
	// there.
	stored, now, readErr := r.Load(ctx, rest.Epoch)
	switch {
	case readErr != nil:
		return 0, false, fmt.Errorf("note rest of %s: %w", r.session, errors.Join(err, readErr))
	case stored.Sealed, now == 0 && version != 0, now != 0 && stored.Alloc != rest.Alloc:
		return 0, false, fmt.Errorf("note rest of %s for epoch %d: %w", r.session, rest.Epoch, ErrFenced)
	case now != 0 && stored.Snapshot.Digest == rest.Snapshot.Digest && stored.Asleep == rest.Asleep && stored.Try == rest.Try:
		return now, false, nil
	case err != nil:
		return 0, false, fmt.Errorf("note rest of %s: %w", r.session, err)
	}
	return now, !ok, nil
}

// Key implements Rests.
func (r *consulRests) Key(ctx context.Context) (key snapshot.Key, err error) {
	name := claim.DataKey(r.prefix, r.session)
	version, err := r.get(ctx, name, &key)
	if err != nil || version != 0 {
		return key, err
	}
	key = snapshot.NewKey()
	value, err := json.Marshal(key)
	if err != nil {
		return key, fmt.Errorf("encode key: %w", err)
	}
	limited, cancel := context.WithTimeoutCause(ctx, restTimeout, fmt.Errorf("no answer from Consul within %s", restTimeout))
	defer cancel()
	if _, _, err := r.kv.CAS(&api.KVPair{Key: name, Value: value}, new(api.WriteOptions).WithContext(limited)); err != nil {
		return key, fmt.Errorf("store key of %s: %w", r.session, because(limited, err))
	}
	// Whoever stored one first, that is the key.
	if version, err = r.get(ctx, name, &key); err == nil && version == 0 {
		err = fmt.Errorf("store key of %s: it is gone again", r.session)
	}
	return key, err
}

// Wanted implements Rests.
func (r *consulRests) Wanted(ctx context.Context, epoch uint64) (expires time.Time, wanted bool, err error) {
	var record struct {
		Epoch   uint64    `json:"epoch"`
		Expires time.Time `json:"expires"`
	}
	version, err := r.get(ctx, claim.RecordKey(r.prefix, r.session), &record)
	return record.Expires, version != 0 && record.Epoch == epoch, err
}

// Vacate implements Rests.
func (r *consulRests) Vacate(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, restTimeout, fmt.Errorf("no answer from Consul within %s", restTimeout))
	defer cancel()
	key := claim.SlotKey(r.prefix, r.session)
	if _, err := r.kv.Delete(key, new(api.WriteOptions).WithContext(ctx)); err != nil {
		return fmt.Errorf("delete %s: %w", key, because(ctx, err))
	}
	return nil
}
