// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// The benchmarks print tables, write them into out/bench, and assert nothing about time. What is compared
// takes turns in one run, so that all of it meets the same machine; see
// docs/performance.md. One iteration is a whole measurement, so they want
// -benchtime 1x.

// Memory comes first: what servers hold after a load says little of sessions.

func BenchmarkMemory(b *testing.B)     { newBench(b).memory() }
func BenchmarkExecute(b *testing.B)    { newBench(b).execute() }
func BenchmarkThroughput(b *testing.B) { newBench(b).throughput() }
func BenchmarkCreate(b *testing.B)     { newBench(b).create() }
func BenchmarkRest(b *testing.B)       { newBench(b).rest() }
func BenchmarkSlots(b *testing.B)      { newBench(b).slots() }
func BenchmarkBurst(b *testing.B)      { newBench(b).bursts() }
func BenchmarkBoard(b *testing.B)      { newBench(b).board() }
func BenchmarkPreview(b *testing.B)    { newBench(b).preview() }
func BenchmarkSandbox(b *testing.B)    { newBench(b).sandboxes() }
func BenchmarkLayers(b *testing.B)     { newBench(b).layers() }
func BenchmarkInside(b *testing.B)     { newBench(b).atWork() }
func BenchmarkDensity(b *testing.B)    { newBench(b).density() }

// module is what all of them run, and output what it prints.
const (
	module = "const x: number = 1; console.log(x)"
	output = "1\n"
)

// bench is what one benchmark works with.
type bench struct {
	b     *testing.B
	ctx   context.Context
	api   *client.Client
	stack *stack.Stack
	bun   string // of the host
	agent string // Nomad's binary
	dir   string
	file  string // with the module
	nodes int    // opened so far

	containers *atomic.Int64 // started so far

	served []time.Duration // until init of a sandbox served
}

// benchTimeout bounds each of the benchmarks; all of them together take some
// 16 minutes on a quiet machine with two cores.
const benchTimeout = 8 * time.Minute

func newBench(b *testing.B) *bench {
	b.Helper()
	if system.stack == nil {
		b.Skip("it measures processes of its own system, and BUNTIME_E2E_URL names another")
	}
	ctx, cancel := context.WithTimeoutCause(b.Context(), benchTimeout, fmt.Errorf("%s is not done after %v", b.Name(), benchTimeout))
	b.Cleanup(cancel)
	m := &bench{b: b, ctx: ctx, api: enterprise(), stack: system.stack, dir: b.TempDir(), containers: new(atomic.Int64)}
	m.bun, m.agent = m.tool("bun"), m.tool("nomad")
	m.file = m.write("module.ts", module)
	m.record()
	b.ReportMetric(0, "ns/op") // leaves it out
	return m
}

// must ends the benchmark.
func (m *bench) must(err error) {
	if err != nil {
		m.b.Helper()
		m.b.Fatal(errors.Join(err, context.Cause(m.ctx)))
	}
}

func (m *bench) tool(name string) string {
	root, err := stack.Root()
	m.must(err)
	path, err := exec.CommandContext(m.ctx, filepath.Join(root, "e2e/tools/get"), name).Output()
	m.must(err)
	return strings.TrimSpace(string(path))
}

func (m *bench) write(name, text string) string {
	path := filepath.Join(m.dir, name)
	m.must(os.WriteFile(path, []byte(text), 0o644))
	return path
}

// contender is one way to do what others do too. Only run is timed.
type contender struct {
	name               string
	before, run, after func() error
	took               []time.Duration
}

// race lets the contenders take turns: in each round each runs batch times.
func (m *bench) race(rounds, batch int, contenders ...*contender) {
	m.b.Helper()
	for range rounds {
		for _, c := range contenders {
			for range batch {
				if err := c.turn(); err != nil {
					m.must(fmt.Errorf("%s: %w", c.name, err))
				}
			}
		}
	}
}

func (c *contender) turn() error {
	if c.before != nil {
		if err := c.before(); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := c.run(); err != nil {
		return err
	}
	c.took = append(c.took, time.Since(begin))
	if c.after != nil {
		return c.after()
	}
	return nil
}

// percentile is the value that p % of all do not exceed (nearest rank).
func percentile[T any](sorted []T, p float64) T {
	return sorted[max(0, int(math.Ceil(float64(len(sorted))*p/100))-1)]
}

var percentiles = []float64{50, 95, 99, 100}

// table prints the contenders beside the peer, which is one of them: all values
// count. The first contender's median, and its ratio to the peer's, go into
// the benchmark's own result line, too.
func (m *bench) table(title string, peer *contender, contenders ...*contender) {
	reference := slices.Sorted(slices.Values(peer.took))
	t := newTable(title, "n", "p50", "p95", "p99", "max", "p50 ratio", "p99 ratio")
	t.Peer = peer.name
	for _, c := range contenders {
		took := slices.Sorted(slices.Values(c.took))
		cells := []string{c.name, strconv.Itoa(len(took))}
		for _, p := range percentiles {
			cells = append(cells, ms(percentile(took, p)))
		}
		for _, p := range []float64{50, 99} {
			cells = append(cells, ratio(percentile(took, p), percentile(reference, p)))
		}
		t.row(cells...).Samples = samples(c.took)
	}
	t.print("ms; ratio to " + peer.name)
	first := percentile(slices.Sorted(slices.Values(contenders[0].took)), 50)
	m.b.ReportMetric(float64(first)/float64(time.Millisecond), "p50-ms")
	m.b.ReportMetric(float64(first)/float64(percentile(reference, 50)), "p50-ratio")
}

func ms(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 2, 64)
}

func ratio[T int | float64 | time.Duration](value, reference T) string {
	return strconv.FormatFloat(float64(value)/float64(reference), 'f', 2, 64)
}
