// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"net/http"
	"strconv"
	"sync"
	"time"
)

// window is how long a count of requests lasts. It begins with the first one.
const window = time.Minute

const (
	// mostNames are counted each for itself. Who comes then, until the next
	// window, is counted with all others who do: there are not that many keys,
	// but there are that many addresses.
	mostNames = 100_000
	crowd     = "all others"
)

// limiter counts requests by name: an API key, or the address of someone who
// has none. It counts for this front-end alone.
type limiter struct {
	mu    sync.Mutex
	used  map[string]*count
	swept time.Time
}

type count struct {
	n   int
	end time.Time
}

// standing is where a name stands in its window.
type standing struct {
	limit, used int
	end         time.Time
}

// take counts n requests for a name. The answer is over when the limit is
// exceeded; such requests are counted, too, but change nothing.
func (l *limiter) take(name string, n, limit int, now time.Time) standing {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sweep(now)
	c := l.used[name]
	if c == nil && len(l.used) >= mostNames {
		name = crowd
		c = l.used[name]
	}
	if c == nil || !now.Before(c.end) {
		if n == 0 {
			return standing{limit, 0, now.Add(window)}
		}
		c = &count{end: now.Add(window)}
		l.used[name] = c
	}
	c.n = min(c.n+n, limit+1)
	return standing{limit, c.n, c.end}
}

// sweep removes what has ended, called with mu held.
func (l *limiter) sweep(now time.Time) {
	if l.used == nil {
		l.used = map[string]*count{}
	}
	if now.Sub(l.swept) < window {
		return
	}
	l.swept = now
	for name, c := range l.used {
		if !now.Before(c.end) {
			delete(l.used, name)
		}
	}
}

func (s standing) over() bool { return s.used > s.limit }

// write says where the client stands.
func (s standing) write(h http.Header) {
	h.Set("X-RateLimit-Limit", strconv.Itoa(s.limit))
	h.Set("X-RateLimit-Remaining", strconv.Itoa(max(0, s.limit-s.used)))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(s.end.Add(time.Second-1).Unix(), 10))
}
