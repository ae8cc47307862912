// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// poolStack is a second system, with a pool: the other has none, so that what is
// measured there meets no slot. out is a folder with other binaries, or "".
func (m *bench) poolStack(slots int, out string) *bench {
	settings := M{"min": slots, "max": slots, "node_memory": 24 * slots, "refills": 4}
	s, err := stack.Start(m.ctx, stack.Options{
		Out:      out,
		Keys:     []stack.Key{{Key: stack.NewKey(), Account: "pool", Plan: "enterprise", Limits: M{"requests": 1_000_000, "sessions": 1000}}},
		Frontend: M{"pool": settings},
	})
	m.must(err)
	m.b.Cleanup(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), 3*time.Minute, errors.New("the system is still there after 3 minutes"))
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			m.b.Error(err)
		}
	})
	p := *m
	p.stack, p.api = s, client.New(s.URL, s.Keys[0].Key)
	return &p
}

// filled waits until so many slots are ready, and nothing else is under way.
func (m *bench) filled(slots int) error {
	ctx, cancel := context.WithTimeoutCause(m.ctx, 2*time.Minute, fmt.Errorf("there are no %d slots ready", slots))
	defer cancel()
	for {
		pairs, _, err := m.stack.Consul.KV().List("buntime/slots/", nil)
		if err != nil {
			return err
		}
		ready := 0
		for _, pair := range pairs {
			if bytes.Contains(pair.Value, []byte(`"claim":`)) {
				ready++
			}
		}
		jobs, _, err := m.stack.Nomad.Jobs().List(nil)
		if err != nil {
			return err
		}
		if ready == slots && len(pairs) == slots && len(jobs) == slots {
			return nil
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("%w: %d ready of %d, %d jobs", context.Cause(ctx), ready, len(pairs), len(jobs))
		}
	}
}

// slotToResult is createToResult with a slot ready.
func (p *bench) slotToResult(slots int, timing *spans) *contender {
	c := p.createToResult("session of a slot", 0, timing)
	c.before = func() error { return p.filled(slots) }
	return c
}

// bursts compares many creates at once: with as many slots ready, and with none. Who
// is refused, because a machine that does other things too is not done in time, is
// counted.
func (m *bench) bursts() {
	p := m.poolStack(benchSlots, "")
	for _, n := range []int{20, 100} {
		ready, none := &burst{bench: p, n: n, used: cpuTimes{}}, &burst{bench: m, n: n, used: cpuTimes{}}
		for range max(1, 60/n) {
			m.must(p.filled(benchSlots))
			m.must(ready.run())
			m.must(p.filled(benchSlots)) // nothing is being made beside what comes now
			m.must(m.quiet())
			m.must(none.run())
		}
		t := newTable(fmt.Sprintf("%d creates at once, each to first result", n), "n", "p50", "p95", "p99", "max", "refused")
		ready.row("slots ready", t)
		none.row("no slots", t)
		t.print("ms", "slots ready, Server-Timing, p50: "+ready.timing.String(), "no slots, Server-Timing, p50: "+none.timing.String(),
			"slots ready, CPU time of each, ms: "+ready.used.per(len(ready.took)), "no slots, CPU time of each, ms: "+none.used.per(len(none.took)))
	}
}

// burst is so many creates at once.
type burst struct {
	*bench
	n       int
	took    []time.Duration
	refused []error
	timing  spans
	used    cpuTimes
}

func (b *burst) row(name string, t *table) {
	took := slices.Sorted(slices.Values(b.took))
	cells := []string{name, strconv.Itoa(len(took))}
	for _, p := range percentiles {
		cells = append(cells, ms(percentile(took, p)))
	}
	t.row(append(cells, strconv.Itoa(len(b.refused)))...).Samples = samples(b.took)
}

func (b *burst) run() error {
	sessions := make([]*benchSession, b.n)
	took, errs := make([]time.Duration, b.n), make([]error, b.n)
	timings := make([]spans, b.n)
	before := b.cpu()
	begin := time.Now()
	var all sync.WaitGroup
	for i := range b.n {
		all.Go(func() {
			if sessions[i], errs[i] = b.open(0, &timings[i]); errs[i] == nil {
				errs[i] = sessions[i].execute(&timings[i])
			}
			took[i] = time.Since(begin)
		})
	}
	all.Wait()
	b.used.add(before, b.cpu())
	for i, err := range errs {
		if err != nil {
			b.refused = append(b.refused, err)
			continue
		}
		b.took = append(b.took, took[i])
		b.timing.add(&timings[i])
	}
	if len(b.took) == 0 {
		return errors.Join(errs...)
	}
	var closing error
	for _, s := range sessions {
		if s != nil {
			closing = errors.Join(closing, b.close(s))
		}
	}
	return closing
}
