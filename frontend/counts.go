// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"sync"
	"time"
)

// countFor is how long a count of an account's sessions is good enough to try: what
// decides is the count after a session was stored.
const countFor = 2 * time.Second

// counts has how many sessions accounts had a moment ago, so that creates in a row
// need not count before each.
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
	if now.Sub(c.swept) >= countFor {
		c.swept = now
		for name, was := range c.accounts {
			if now.Sub(was.at) >= countFor {
				delete(c.accounts, name)
			}
		}
	}
	c.accounts[account] = counted{n, now}
}

// another says whether the account had room for one session more, and counts it.
func (c *counts) another(account string, most int, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	was, ok := c.accounts[account]
	if !ok || now.Sub(was.at) >= countFor || was.n >= most {
		return false
	}
	was.n++
	c.accounts[account] = was
	return true
}
