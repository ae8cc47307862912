// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"sync"
	"time"

	"github.com/buntime/buntime/frontend"
)

const (
	// smallBody is not counted: there cannot be as many as matter.
	smallBody = 1 << 20
	// bodiesInAll is how many bytes of bodies may be on the way in at a time.
	// Each is held in memory some three times over while it is worked on.
	bodiesInAll = 1 << 30
	// bodiesPerKey is the same for one key, in bodies of the largest size that
	// the key allows.
	bodiesPerKey = 4
)

// bodies bounds the memory that large requests take.
type bodies struct {
	mu  sync.Mutex
	all int64
	by  map[string]int64
}

// enter takes room for a body of length bytes, of which a key may send limit;
// -1 is a length that is not known. What there is no room for may come again.
func (b *bodies) enter(key string, length, limit int64) error {
	n := room(length, limit)
	if n == 0 {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var e *frontend.Error
	switch {
	case b.by[key]+n > bodiesPerKey*limit:
		e = frontend.Errorf(frontend.CodeRateLimit, "too many large requests of this key are on their way; send them one after the other")
	case b.all > 0 && b.all+n > bodiesInAll:
		e = frontend.Unavailable("too many large requests are on their way; try again")
	default:
		if b.by == nil {
			b.by = map[string]int64{}
		}
		b.all += n
		b.by[key] += n
		return nil
	}
	e.RetryAfter = time.Second
	return e
}

// leave gives back what enter took.
func (b *bodies) leave(key string, length, limit int64) {
	n := room(length, limit)
	if n == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all -= n
	if b.by[key] -= n; b.by[key] == 0 {
		delete(b.by, key)
	}
}

// room is what a body counts.
func room(length, limit int64) int64 {
	switch {
	case length < 0:
		return limit
	case length <= smallBody:
		return 0
	}
	return length
}
