// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// batch reads accounts' indexes for all who ask at the same time. In a burst of creates
// each has to know what is stored once it is stored itself, so that a reading that is
// under way is too old: those who come meanwhile share the next.
type batch struct {
	mu      sync.Mutex
	next    map[string]*reading // that begins when the one under way has ended
	running map[string]bool
}

type reading struct {
	done    chan struct{}
	entries []Entry // in the Store's order
	err     error
}

// account lists an account's sessions in the Store's order, as of some time after the
// call began. The list is others' too.
func (s *Service) account(ctx context.Context, account string) ([]Entry, error) {
	b := &s.batch
	b.mu.Lock()
	r := b.next[account]
	if r == nil {
		if b.next == nil {
			b.next, b.running = map[string]*reading{}, map[string]bool{}
		}
		r = &reading{done: make(chan struct{})}
		b.next[account] = r
		if !b.running[account] {
			b.running[account] = true
			s.background.Go(func() { s.readAccount(context.WithoutCancel(ctx), account) })
		}
	}
	b.mu.Unlock()
	select {
	case <-r.done:
		return r.entries, r.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// readAccount reads an account's index as long as somebody waits for it.
func (s *Service) readAccount(ctx context.Context, account string) {
	b := &s.batch
	for {
		b.mu.Lock()
		r := b.next[account]
		delete(b.next, account)
		if r == nil {
			delete(b.running, account)
			b.mu.Unlock()
			return
		}
		b.mu.Unlock()
		limited, cancel := context.WithTimeoutCause(ctx, lookupTimeout, fmt.Errorf("index of %s not read in %v", account, lookupTimeout))
		r.entries, r.err = s.Store.Account(limited, account)
		cancel()
		slices.SortFunc(r.entries, Entry.compare)
		close(r.done)
	}
}
