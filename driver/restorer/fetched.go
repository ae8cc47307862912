// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package restorer

import (
	"context"
	"net"
	"sync"
	"time"
)

// Fetched is what a restorer has fetched from object stores.
type Fetched struct {
	OK, Failed int64         // calls
	Bytes      int64         // that came
	Took       time.Duration // all calls together
}

func (f Fetched) since(o Fetched) Fetched {
	return Fetched{f.OK - o.OK, f.Failed - o.Failed, f.Bytes - o.Bytes, f.Took - o.Took}
}

// tally adds it up.
type tally struct {
	mu  sync.Mutex
	all Fetched
}

// observe is a store.Observer.
func (t *tally) observe(operation string, bytes int, took time.Duration, err error) {
	if operation != "get" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all.Took += took
	if err != nil {
		t.all.Failed++
		return
	}
	t.all.OK++
	t.all.Bytes += int64(bytes)
}

func (t *tally) sum() Fetched {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

// tellEvery is how often a plugin is told what was fetched.
const tellEvery = 2 * time.Second

// tell tells a plugin, until the context ends or it does not listen.
func (t *tally) tell(ctx context.Context, c *net.UnixConn) {
	told := t.sum()
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := t.sum()
		if now == told {
			continue
		}
		more := now.since(told)
		if send(c, message{Op: saysFetched, Fetched: &more}) != nil {
			return
		}
		told = now
	}
}
