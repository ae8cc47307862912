// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
)

// answersAgain waits, when a fault is over, until every session that has not answered
// meanwhile does. Those that nobody has used meanwhile are not asked: they may sleep.
func (f *injector) answersAgain() error {
	r := f.run
	over := time.Now()
	// The nodes have to be there for the next fault to have its effect.
	if err := r.ready(); err != nil {
		return err
	}
	var all sync.WaitGroup
	room := make(chan struct{}, 2) // what the machine has cores for
	for _, s := range r.sessions() {
		s.mu.Lock()
		failing := !s.failing.IsZero()
		s.mu.Unlock()
		if !failing {
			continue
		}
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			r.mustAnswer(s, over)
		})
	}
	all.Wait()
	return nil
}

func (r *run) sessions() []*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*session{}, r.alive...)
}

// mustAnswer executes in a session until it is done, through the front-ends in turn.
func (r *run) mustAnswer(s *session, over time.Time) bool {
	const pause = 200 * time.Millisecond
	for n := 0; ; n++ {
		if r.execute(s, n%len(r.apis), nil, nil, nil) {
			return true
		}
		s.mu.Lock()
		gone := s.gone != ""
		s.mu.Unlock()
		if gone {
			return true
		}
		if took := time.Since(over); took > answersWithin {
			r.tally.violate(s, "it does not answer %v after the fault %s was over", took.Round(time.Second), r.faults.last())
			return false
		}
		if !wait(r.ctx, pause) {
			return false
		}
	}
}

// ready waits until all nodes are.
func (r *run) ready() error {
	ctx, cancel := context.WithTimeoutCause(r.ctx, answersWithin, fmt.Errorf("not ready after %v", answersWithin))
	defer cancel()
	for {
		var lacking []string
		for _, c := range r.Clients {
			if status, err := c.Status(ctx); err != nil || status != "ready" {
				lacking = append(lacking, fmt.Sprintf("%s is %q, %v", c.Name, status, err))
			}
		}
		if len(lacking) == 0 {
			return nil
		}
		if !wait(ctx, 50*time.Millisecond) {
			return fmt.Errorf("wait for the nodes after %s: %w: %s", r.faults.last(), context.Cause(ctx), strings.Join(lacking, ", "))
		}
	}
}
