// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package keys

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/buntime/buntime/frontend"
)

const (
	// pace is the least time between two readings of the store: a revoked key is
	// refused so much later at most. While there are no keys, Consul ends some waits
	// for what has nothing to do with them.
	pace = 250 * time.Millisecond
	// pauseAfter is how long to wait after the store did not answer.
	pauseAfter = time.Second
)

// Ring finds the keys of the configuration file and, while Run runs, those in a store.
type Ring struct {
	File  File
	Store Store
	Log   *slog.Logger
	// Now is the clock.
	Now func() time.Time

	stale atomic.Bool

	mu     sync.RWMutex
	loaded bool
	stored map[Sum]known
}

type known struct {
	Record
	key frontend.Key
}

// NewRing makes a Ring.
func NewRing(file File, store Store, log *slog.Logger) *Ring {
	return &Ring{File: file, Store: store, Log: log, Now: time.Now}
}

// Find returns what a key allows, if it is there. It is frontend.ErrUnavailable when
// the store has not answered yet. Later, when it does not answer, the keys are those
// that it had last.
func (r *Ring) Find(sum Sum) (frontend.Key, bool, error) {
	if key, ok := r.File[sum]; ok {
		return key, true, nil
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	k, ok := r.stored[sum]
	switch {
	case !r.loaded:
		return frontend.Key{}, false, frontend.ErrUnavailable
	case !ok || k.over(r.Now()):
		return frontend.Key{}, false, nil
	}
	return k.key, true, nil
}

// Loaded says whether the store has told its keys.
func (r *Ring) Loaded() bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.loaded
}

// Run follows the store until the context ends.
func (r *Ring) Run(ctx context.Context) {
	var since uint64
	for {
		wait := pace
		all, version, err := r.Store.Keys(ctx, since)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			r.stale.Store(true)
			r.Log.Warn("read API keys; trying again", "in", pauseAfter, "err", err)
			since, wait = 0, pauseAfter
		default:
			r.stale.Store(false)
			if version != since {
				r.take(all)
			}
			since = version
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

func (r *Ring) take(all []Record) {
	stored := make(map[Sum]known, len(all))
	for _, record := range all {
		key, err := record.Allowed()
		if err != nil { // of a later version than this front-end
			r.Log.Warn("API key is not known", "key", record.ID, "err", err)
			continue
		}
		stored[record.Sum] = known{record, key}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stored, r.loaded = stored, true
}

// Stale says whether the keys are those of some time ago, or only the file's, because
// the store has not answered since.
func (r *Ring) Stale() bool { return r.stale.Load() }
