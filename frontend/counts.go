// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"sync"
	"time"
)

const (
	// countFor is how long a count of an account's sessions is good enough to try where
	// it is near the limit: what decides is the count after a session was stored.
	countFor = 2 * time.Second
	// countKept is how long it counts at all. Who is at the limit may use up a slot for
	// nothing as often.
	countKept = 10 * time.Minute
)

// counts has how many sessions accounts had when they were last counted, so that
// creates need not count before.
type counts struct {
	mu       sync.Mutex
	accounts map[string]counted
	swept    time.Time
}

type counted struct {
	n  int
	at time.Time
}

// note keeps a count.
func (c *counts) note(account string, n int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.accounts == nil {
		c.accounts = map[string]counted{}
	}
	if now.Sub(c.swept) >= countKept {
		c.swept = now
		for name, was := range c.accounts {
			if now.Sub(was.at) >= countKept {
				delete(c.accounts, name)
			}
		}
	}
	c.accounts[account] = counted{n, now}
}

// full says whether an account may have no room for one session more, so that it is to
// be counted; if not, it counts that one. Of an account that was not counted of late
// nothing bad is supposed.
func (c *counts) full(account string, most int, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, ok := c.accounts[account]
	if !ok || now.Sub(was.at) >= countKept {
		return false
	}
	if was.n >= most || 2*was.n >= most && now.Sub(was.at) >= countFor {
		return true
	}
	was.n++
	c.accounts[account] = was
	return false
}
