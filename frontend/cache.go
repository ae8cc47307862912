// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"sync"
	"time"
)

// cacheFor is how long a record is used without looking again: as long may
// pass until a session deleted through one front-end is unknown to another.
// Until then the node agent refuses what it does not carry any more.
const cacheFor = time.Second

// presumeFor is how long a record may be used for a request that is confirmed before
// it is answered (Service.Presume). It is shorter than what a session needs to come to
// rest, or to be given up with its node: either would cost a vain try to connect.
const presumeFor = time.Minute

// cache holds records read a moment ago, so that a sequence of requests to one
// session costs the store one read a second.
type cache struct {
	mu      sync.Mutex
	records map[string]cached
	swept   time.Time
}

type cached struct {
	session *Session // nil: dropped
	at      time.Time
}

// get returns a record that was read less than cacheFor before now, or nil.
func (c *cache) get(id string, now time.Time) *Session { return c.within(id, now, cacheFor) }

// within returns a record that was read less than d before now, or nil.
func (c *cache) within(id string, now time.Time, d time.Duration) *Session {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.records[id]
	if !ok || now.Sub(e.at) >= d {
		return nil
	}
	return e.session
}

// put keeps a record whose reading began at asked. A record that was dropped
// since is not taken back.
func (c *cache) put(s *Session, asked, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.records[s.ID]; ok && e.session == nil && !asked.After(e.at) {
		return
	}
	c.set(s.ID, cached{s, asked}, now)
}

// drop forgets a record, and any that is being read right now.
func (c *cache) drop(id string, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.set(id, cached{nil, now}, now)
}

// set is called with mu held. What is of no use any more goes now and then.
// Drops are kept longer than any reading may take.
func (c *cache) set(id string, e cached, now time.Time) {
	if c.records == nil {
		c.records = map[string]cached{}
	}
	if now.Sub(c.swept) >= 2*lookupTimeout {
		c.swept = now
		for id, e := range c.records {
			if age := now.Sub(e.at); age >= presumeFor || e.session == nil && age >= 2*lookupTimeout {
				delete(c.records, id)
			}
		}
	}
	c.records[id] = e
}
