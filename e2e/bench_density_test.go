// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

const (
	// densityDefault is how many sessions make bench has; DENSITY in the
	// environment says otherwise, and make density has 1,200.
	densityDefault = 200
	// activePart of them are awake, each with a server.
	activePart = 6
	// densityHands make and end sessions at a time.
	densityHands = 16
	// settleTime is for what a session does by itself after its first use, restTime is
	// how long it is looked how much CPU time is used while nobody comes, and
	// holdTime how long some come.
	settleTime = 5 * time.Second
	restTime   = 30 * time.Second
	holdTime   = time.Minute
	// densityTimeout bounds it all: 1,200 sessions take some six minutes.
	densityTimeout = 30 * time.Minute
)

// crowd is many sessions on one node, most of them idle.
type crowd struct {
	*bench
	awake, frozen []*benchSession
	states        map[string]string // "awake" or "idle", by allocation
	refused       atomic.Int32      // requests that were told to come again
}

// density measures what a session costs of memory and CPU time where there are
// many, and what those who use one notice of it.
func (m *bench) density() {
	n := densityDefault
	if text := os.Getenv("DENSITY"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		m.must(err)
	}
	c := &crowd{bench: m.densityStack()}
	empty := c.alone()
	m.must(c.pause(settleTime))
	before := c.take()

	began := time.Now()
	c.fill(n)
	made := time.Since(began)
	began = time.Now()
	c.freeze()
	stood := time.Since(began)
	m.must(c.pause(settleTime))
	c.know()
	after := c.take()
	var err error
	after.inside, after.kernel, err = insides(c.states)
	m.must(err)
	quiet := c.atRest()
	full := c.hold()
	began = time.Now()
	endErr := c.end()
	ended := time.Since(began)
	m.must(c.pause(settleTime))
	left := c.take()

	c.memoryTables(before, after, left)
	c.restTable(quiet)
	c.probeTable(empty, full)
	note(fmt.Sprintf("%d sessions made and used in %.1f s (%d times refused), %d made idle in %.1f s, all deleted in %.1f s, %d at a time",
		n, made.Seconds(), c.refused.Load(), len(c.frozen), stood.Seconds(), ended.Seconds(), densityHands))
	m.must(errors.Join(append(full.failed, endErr)...))
}

// densityStack is a system of its own, without a pool, whose sessions do not change
// their state by themselves meanwhile. It takes no checkpoints: they are the price of
// what was written, not of being there.
func (m *bench) densityStack() *bench {
	ctx, cancel := context.WithTimeoutCause(m.b.Context(), densityTimeout, fmt.Errorf("%s is not done after %v", m.b.Name(), densityTimeout))
	m.b.Cleanup(cancel)
	s, err := stack.Start(ctx, stack.Options{
		Keys:      []stack.Key{{Key: stack.NewKey(), Account: "density", Plan: "enterprise", Limits: M{"requests": 10_000_000, "sessions": 10_000}}},
		IdleAfter: time.Hour, SleepAfter: 2 * time.Hour, CheckpointEvery: time.Hour,
	})
	m.must(err)
	m.b.Cleanup(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), 5*time.Minute, errors.New("the system is still there after 5 minutes"))
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			m.b.Error(err)
		}
	})
	d := *m
	d.ctx, d.stack, d.api = ctx, s, client.New(s.URL, s.Keys[0].Key)
	return &d
}

// densityServer is what runs in a session that is awake.
const densityServer = `Bun.serve({ port: 8080, fetch: () => new Response("x") })`

// fill makes the sessions, and uses each.
func (c *crowd) fill(n int) {
	all := make([]*benchSession, n)
	m := c.bench
	var hands errgroup.Group
	hands.SetLimit(densityHands)
	for i := range all {
		hands.Go(func() (err error) {
			err = c.soon(func() error {
				all[i], err = m.open(0, new(spans))
				return err
			})
			if err != nil {
				return fmt.Errorf("make session %d: %w", i, err)
			}
			err = c.soon(func() error {
				if i%activePart == 0 {
					_, err = all[i].run(densityServer, new(spans))
					return err
				}
				return all[i].execute(new(spans))
			})
			if err != nil {
				return fmt.Errorf("use session %d: %w", i, err)
			}
			return nil
		})
	}
	m.must(hands.Wait())
	for i, s := range all {
		if i%activePart == 0 {
			c.awake = append(c.awake, s)
		} else {
			c.frozen = append(c.frozen, s)
		}
	}
}

// soon does what is refused by a node that is too busy again, and counts that.
func (c *crowd) soon(do func() error) (err error) {
	const tries = 5
	for range tries {
		if err = do(); err == nil {
			return nil
		}
		c.refused.Add(1)
	}
	return err
}

func (c *crowd) freeze() {
	c.must(c.each(c.frozen, func(s *benchSession) error { return s.sleep("idle") }))
}

// end deletes all sessions and waits until nothing is left of them.
func (c *crowd) end() error {
	if err := c.each(slices.Concat(c.awake, c.frozen), c.close); err != nil {
		return err
	}
	return c.quietWithin(5 * time.Minute)
}

func (c *crowd) each(sessions []*benchSession, do func(*benchSession) error) error {
	var hands errgroup.Group
	hands.SetLimit(densityHands)
	for _, s := range sessions {
		hands.Go(func() error { return do(s) })
	}
	return hands.Wait()
}

// probes are the ways in which sessions are used while there are many.
type probes struct {
	execute, visit, thaw, back *contender
	failed                     []error
}

func newProbes() *probes {
	return &probes{
		execute: &contender{name: "execute, awake"},
		visit:   &contender{name: "visit, awake"},
		thaw:    &contender{name: "execute, idle"},
		back:    &contender{name: "to idle again"},
	}
}

// on uses one session that is awake and one that is idle.
func (p *probes) on(c *crowd, awake, frozen *benchSession) {
	site := client.New("http://"+awake.label()+"."+c.stack.PreviewDomain, "")
	defer site.HTTP.CloseIdleConnections()
	visit := func() error {
		reply, err := site.Do(c.ctx, client.Call{Method: "GET", Path: "/"})
		if err == nil && (reply.Status != http.StatusOK || string(reply.Body) != "x") {
			err = fmt.Errorf("preview: status %d: %s", reply.Status, reply.Body)
		}
		return err
	}
	p.visit.run = visit
	p.execute.run = func() error { return awake.execute(new(spans)) }
	p.thaw.run = func() error { return frozen.execute(new(spans)) }
	p.back.run = func() error { return frozen.sleep("idle") }
	for _, probe := range []*contender{p.visit, p.execute, p.thaw} {
		if err := probe.turn(); err != nil {
			p.failed = append(p.failed, fmt.Errorf("%s: %w", probe.name, err))
		}
	}
	c.must(c.pause(probePause)) // in which it has a runner again, as after minutes of rest
	if err := p.back.turn(); err != nil {
		p.failed = append(p.failed, fmt.Errorf("%s: %w", p.back.name, err))
	}
}

// probePause is between two probes, and between the use of a session and its rest.
const probePause = 100 * time.Millisecond

// alone probes sessions on a node that has no others.
func (c *crowd) alone() *probes {
	awake, err := c.open(0, new(spans))
	c.must(err)
	_, err = awake.run(densityServer, new(spans))
	c.must(err)
	frozen, err := c.open(0, new(spans))
	c.must(err)
	c.must(frozen.execute(new(spans)))
	c.must(frozen.sleep("idle"))
	c.must(c.pause(time.Second))
	new := newProbes()
	for range 10 {
		new.on(c, awake, frozen)
	}
	p := newProbes()
	for range 100 {
		p.on(c, awake, frozen)
	}
	c.must(errors.Join(p.failed...))
	c.must(c.close(awake))
	c.must(c.close(frozen))
	c.must(c.quiet())
	return p
}

// hold probes some of the sessions, at random, for holdTime.
func (c *crowd) hold() *probes {
	p := newProbes()
	for began := time.Now(); time.Since(began) < holdTime && c.ctx.Err() == nil; {
		p.on(c, c.awake[rand.IntN(len(c.awake))], c.frozen[rand.IntN(len(c.frozen))])
	}
	return p
}

func (c *crowd) probeTable(empty, full *probes) {
	n := len(c.awake) + len(c.frozen)
	t := newTable(fmt.Sprintf("One request at a time, among %d sessions", n), "n", "p50", "p95", "p99", "max", "empty p50", "p95", "p99", "p50 ratio", "p99 ratio")
	for _, pair := range [][2]*contender{{empty.visit, full.visit}, {empty.execute, full.execute}, {empty.thaw, full.thaw}, {empty.back, full.back}} {
		before, now := slices.Sorted(slices.Values(pair[0].took)), slices.Sorted(slices.Values(pair[1].took))
		t.row(pair[1].name, strconv.Itoa(len(now)),
			ms(percentile(now, 50)), ms(percentile(now, 95)), ms(percentile(now, 99)), ms(percentile(now, 100)),
			ms(percentile(before, 50)), ms(percentile(before, 95)), ms(percentile(before, 99)),
			ratio(percentile(now, 50), percentile(before, 50)), ratio(percentile(now, 99), percentile(before, 99))).Samples = samples(pair[1].took)
	}
	t.print("ms; empty: the same in the same run on a node that had two sessions")
}
