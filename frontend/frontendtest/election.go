// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/frontend"
)

// Election is a frontend.Election in memory. The zero value is ready.
type Election struct {
	lock chan struct{}
	once sync.Once

	mu     sync.Mutex
	depose context.CancelFunc // nil while nobody leads
}

var _ frontend.Election = (*Election)(nil)

// Lead implements frontend.Election.
func (e *Election) Lead(ctx context.Context, do func(context.Context)) {
	e.once.Do(func() { e.lock = make(chan struct{}, 1) })
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case e.lock <- struct{}{}:
		}
		term, cancel := context.WithCancel(ctx)
		e.set(cancel)
		do(term)
		e.set(nil)
		cancel()
		<-e.lock
	}
}

func (e *Election) set(depose context.CancelFunc) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.depose = depose
}

// Depose ends the leadership of who leads.
func (e *Election) Depose() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.depose != nil {
		e.depose()
	}
}

// TestElection is what every Election must pass. stand makes one that stands with the
// others, depose takes the leadership from whoever has it.
func TestElection(t *testing.T, stand func(t *testing.T) frontend.Election, depose func(t *testing.T)) {
	for name, test := range map[string]func(*testing.T, *candidates){
		"one leads, and each in turn": testTurns,
		"deposed":                     func(t *testing.T, c *candidates) { testDeposed(t, c, depose) },
		"done early":                  testDoneEarly,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeoutCause(context.Background(), 2*time.Minute, errors.New("test took over 2 minutes"))
			defer cancel()
			c := &candidates{ctx: ctx, stand: stand, led: make(chan *candidate, 100), most: 1}
			defer c.all.Wait()
			defer c.endAll()
			test(t, c)
		})
	}
}

// candidates are front-ends that stand for leader.
type candidates struct {
	ctx   context.Context
	stand func(t *testing.T) frontend.Election
	all   sync.WaitGroup
	ends  []context.CancelFunc
	led   chan *candidate // who has come to lead

	mu    sync.Mutex
	leads int // how many lead now
	most  int // how many may
}

type candidate struct {
	end   context.CancelFunc
	ended chan struct{}
}

func (c *candidates) endAll() {
	for _, end := range c.ends {
		end()
	}
}

// add adds a front-end that leads, when it does, for as long as lead.
func (c *candidates) add(t *testing.T, lead func(context.Context)) {
	ctx, end := context.WithCancel(c.ctx)
	c.ends = append(c.ends, end)
	one := &candidate{end: end, ended: make(chan struct{})}
	election := c.stand(t)
	c.all.Go(func() {
		defer close(one.ended)
		election.Lead(ctx, func(ctx context.Context) {
			c.count(t, 1)
			c.led <- one
			lead(ctx)
			c.count(t, -1)
		})
	})
}

func (c *candidates) count(t *testing.T, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.leads += n; c.leads > c.most {
		t.Errorf("%d lead at a time", c.leads)
	}
}

// leader waits for the next to lead.
func (c *candidates) leader(t *testing.T) *candidate {
	t.Helper()
	select {
	case one := <-c.led:
		return one
	case <-c.ctx.Done():
		t.Fatal("nobody leads: ", context.Cause(c.ctx))
		return nil
	}
}

func untilOver(ctx context.Context) { <-ctx.Done() }

func testTurns(t *testing.T, c *candidates) {
	const n = 5
	for range n {
		c.add(t, untilOver)
	}
	seen := map[*candidate]bool{}
	for range n {
		one := c.leader(t)
		if seen[one] {
			t.Error("one that has ended leads")
		}
		seen[one] = true
		begin := time.Now()
		one.end()
		select {
		case <-one.ended:
		case <-c.ctx.Done():
			t.Fatal("it does not end: ", context.Cause(c.ctx))
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("a gentle end took %v", took)
		}
	}
}

func testDeposed(t *testing.T, c *candidates, depose func(*testing.T)) {
	c.most = 2 // who is deposed need not know before the next leads
	c.add(t, untilOver)
	c.add(t, untilOver)
	for range 3 {
		c.leader(t)
		depose(t)
	}
	c.leader(t)
}

func testDoneEarly(t *testing.T, c *candidates) {
	c.add(t, func(context.Context) {})
	for range 2 {
		c.leader(t)
	}
}
