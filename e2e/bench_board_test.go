// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/report"
)

// The measures of ComputeSDK's board (github.com/computesdk/benchmarks): the time to
// interactive is from the call that creates a sandbox until a command in it has
// succeeded; to remove it is not part of it, but goes on beside the others. Their
// command is `node -v`, which Bun's node does not know: here it is `bun -v`.
const (
	boardTries   = 100
	boardStagger = 200 * time.Millisecond
	boardTimeout = 120 * time.Second
)

// boarder is one who takes part.
type boarder struct {
	name string
	// ready waits until a mode can begin.
	ready func() error
	// interactive is what is timed. It returns how to remove what it made.
	interactive func() (remove func() error, err error)

	took   []time.Duration
	failed []error
	first  time.Duration // from the beginning until the first was interactive
	all    time.Duration // until the last was
}

// board measures the three modes as ComputeSDK does: one who takes part after the
// other, because a burst beside another would be none.
func (m *bench) board() {
	pool := m.poolStack(benchSlots, "")
	ready := func() error { return errors.Join(pool.filled(benchSlots), m.quiet()) } // nothing is made beside it
	runc := m.runc("version", m.rootfs(), "-v")
	for _, mode := range []struct {
		name string
		run  func(*boarder) error
	}{
		{"sequential", (*boarder).sequential},
		{"staggered", func(b *boarder) error { return b.together(boardStagger) }},
		{"burst", func(b *boarder) error { return b.together(0) }},
	} {
		boarders := []*boarder{
			{name: "session, slots ready", ready: ready, interactive: pool.interactive},
			{name: "session, no slots", ready: ready, interactive: m.interactive},
			{name: "runc run", ready: ready, interactive: func() (func() error, error) { return m.runcInteractive(runc()) }},
		}
		for _, b := range boarders {
			m.must(b.ready())
			if err := mode.run(b); err != nil {
				m.must(fmt.Errorf("%s, %s: %w", mode.name, b.name, err))
			}
		}
		m.boardTable(mode.name, boarders)
	}
}

// interactive creates a session and runs their command in it.
func (m *bench) interactive() (func() error, error) {
	s, err := m.open(0, new(spans))
	if err != nil {
		return nil, err
	}
	remove := func() error { return m.close(s) }
	var r execution
	_, err = m.call(client.Call{Method: "POST", Path: "/execute", JSON: M{"sessionId": s.id, "command": "bun -v"}}, &r)
	if err == nil && (r.ExitCode != 0 || r.Stdout == "") {
		err = fmt.Errorf("bun -v ended with %d: %s%s", r.ExitCode, r.Stdout, r.Stderr)
	}
	return remove, err
}

// runcInteractive is the same with a container, which ends with its command.
func (m *bench) runcInteractive(command []string) (func() error, error) {
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(m.ctx, command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	err := cmd.Run()
	if err == nil && out.Len() == 0 {
		err = errors.New("no version")
	}
	if err != nil {
		err = fmt.Errorf("runc: %w: %s", err, problems.Bytes())
	}
	return func() error { return nil }, err
}

// sequential makes each when the one before is removed.
func (b *boarder) sequential() error {
	begin := time.Now()
	var closing error
	for range boardTries {
		remove, took, err := b.once()
		b.note(took, time.Since(begin), err)
		if remove != nil {
			closing = errors.Join(closing, remove())
		}
	}
	return b.done(closing)
}

// together makes all without waiting for each other, one after every pause.
func (b *boarder) together(pause time.Duration) error {
	begin := time.Now()
	var mu sync.Mutex
	var closing error
	var all sync.WaitGroup
	for i := range boardTries {
		if pause > 0 {
			time.Sleep(time.Until(begin.Add(time.Duration(i) * pause)))
		}
		all.Go(func() {
			remove, took, err := b.once()
			at := time.Since(begin)
			var removed error
			if remove != nil {
				removed = remove()
			}
			mu.Lock()
			defer mu.Unlock()
			b.note(took, at, err)
			closing = errors.Join(closing, removed)
		})
	}
	all.Wait()
	return b.done(closing)
}

func (b *boarder) once() (remove func() error, took time.Duration, err error) {
	begin := time.Now()
	remove, err = b.interactive()
	if took = time.Since(begin); err == nil && took > boardTimeout {
		err = fmt.Errorf("not interactive after %v", boardTimeout)
	}
	return remove, took, err
}

func (b *boarder) note(took, at time.Duration, err error) {
	if err != nil {
		b.failed = append(b.failed, err)
		return
	}
	b.took = append(b.took, took)
	b.all = max(b.all, at)
	if b.first == 0 || at < b.first {
		b.first = at
	}
}

// done is an error only if there is nothing to show.
func (b *boarder) done(closing error) error {
	if len(b.took) == 0 {
		return errors.Join(b.failed[0], closing)
	}
	return closing
}

func (m *bench) boardTable(mode string, boarders []*boarder) {
	peer := boarders[len(boarders)-1]
	reference := slices.Sorted(slices.Values(peer.took))
	t := newTable("Time to interactive, "+mode+" 100", "n", "p50", "p95", "p99", "max", "p50 ratio", "p99 ratio", "first", "all", "success", "score")
	t.Peer = peer.name
	var notes []string
	for _, b := range boarders {
		took := slices.Sorted(slices.Values(b.took))
		theirs := report.NewBoard(b.took, boardTries)
		cells := []string{b.name, strconv.Itoa(len(took))}
		for _, p := range percentiles {
			cells = append(cells, ms(percentile(took, p)))
		}
		for _, p := range []float64{50, 99} {
			cells = append(cells, ratio(percentile(took, p), percentile(reference, p)))
		}
		cells = append(cells, ms(b.first), ms(b.all), fmt.Sprintf("%.0f %%", 100*theirs.Success), fmt.Sprintf("%.2f", theirs.Score))
		t.row(cells...).Samples = samples(b.took)
		notes = append(notes, fmt.Sprintf("%s, trimmed as ComputeSDK does: median %s, p95 %s, p99 %s", b.name, ms(theirs.Median), ms(theirs.P95), ms(theirs.P99)))
		if len(b.failed) > 0 {
			notes = append(notes, fmt.Sprintf("%s: first of %d failures: %v", b.name, len(b.failed), b.failed[0]))
		}
	}
	t.print(append([]string{"ms; ratio to " + peer.name + "; first and all: since the beginning; success and score: ComputeSDK's definitions"}, notes...)...)
	m.b.ReportMetric(float64(percentile(slices.Sorted(slices.Values(boarders[0].took)), 50))/float64(time.Millisecond), mode+"-p50-ms")
}
