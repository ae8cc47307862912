// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	vegeta "github.com/tsenart/vegeta/v12/lib"
)

// throughput is how many executions a second there are: as many at a time as there
// are cores, beside as many loops of `bun run` and of runc; then at rates that rise
// until the answers do not keep up. The load is vegeta's, the figures are of every
// single answer.
func (m *bench) throughput() {
	const rounds, turn = 3, 2 * time.Second
	workers := runtime.NumCPU()
	execute := m.executeTargets(4 * workers)
	runc := m.runc("module", m.rootfs(), "run", "/mnt/module.ts")
	loops := []*pressure{
		{name: fmt.Sprintf("POST /execute, %d at a time", workers), run: func(during time.Duration) *pressure { return attack(execute, 0, workers, during) }},
		{name: fmt.Sprintf("bun run, %d at a time", workers), run: func(during time.Duration) *pressure {
			return m.loop(workers, during, func() []string { return []string{m.bun, "run", m.file} })
		}},
		{name: fmt.Sprintf("runc run, %d at a time", workers), run: func(during time.Duration) *pressure { return m.loop(workers, during, runc) }},
	}
	for _, p := range loops {
		p.run(turn / 4) // connections, page cache
	}
	for range rounds {
		for _, p := range loops {
			p.add(p.run(turn))
		}
	}
	var steps []*pressure
	for _, rate := range []int{25, 50, 75, 100, 125, 150, 200, 250, 300, 400, 600, 800} {
		p := attack(execute, rate, 0, 2*turn)
		p.name = fmt.Sprintf("POST /execute, %d/s", rate)
		steps = append(steps, p)
		if p.rate() < 0.9*float64(rate) {
			break
		}
	}
	m.throughputTable(loops[1], append(loops, steps...))
}

// pressure is what came of one kind of load.
type pressure struct {
	name string
	run  func(during time.Duration) *pressure

	asked   int // times a second; 0: as fast as possible
	took    []time.Duration
	failed  []string
	seconds float64 // from the first call to the last answer
}

func (p *pressure) add(o *pressure) {
	p.took = append(p.took, o.took...)
	p.failed = append(p.failed, o.failed...)
	p.seconds += o.seconds
}

func (p *pressure) rate() float64 { return float64(len(p.took)) / p.seconds }

// executeTargets are executions of the module in so many sessions of 1 core, by turns.
func (m *bench) executeTargets(sessions int) vegeta.Targeter {
	targets := make([]vegeta.Target, sessions)
	for i := range targets {
		s := m.session(1)
		m.must(s.execute(new(spans)))
		body, err := json.Marshal(M{"sessionId": s.id, "code": module})
		m.must(err)
		targets[i] = vegeta.Target{Method: http.MethodPost, URL: system.base + "/execute", Body: body, Header: http.Header{
			"Authorization": {"Bearer " + system.enterprise}, "Content-Type": {"application/json"},
		}}
	}
	return vegeta.NewStaticTargeter(targets...)
}

// attack asks at a rate, or as fast as so many at a time are answered.
func attack(targets vegeta.Targeter, rate, workers int, during time.Duration) *pressure {
	// A front-end lets one address have so many connections, and who waits for one counts.
	options := []func(*vegeta.Attacker){vegeta.Timeout(30 * time.Second), vegeta.MaxConnections(64)}
	if rate == 0 {
		options = append(options, vegeta.Workers(uint64(workers)), vegeta.MaxWorkers(uint64(workers)))
	}
	p := &pressure{asked: rate}
	begin, end := time.Now(), time.Time{}
	for r := range vegeta.NewAttacker(options...).Attack(targets, vegeta.Rate{Freq: rate, Per: time.Second}, during, "execute") {
		var answer execution
		switch {
		case r.Error != "":
			p.failed = append(p.failed, r.Error)
		case json.Unmarshal(r.Body, &answer) != nil || answer.Stdout != output:
			p.failed = append(p.failed, string(r.Body))
		default:
			p.took = append(p.took, r.Latency)
		}
		if done := r.End(); done.After(end) {
			end = done
		}
	}
	p.seconds = end.Sub(begin).Seconds()
	return p
}

// loop runs commands, each after the other, so many at a time.
func (m *bench) loop(workers int, during time.Duration, command func() []string) *pressure {
	p := new(pressure)
	begin := time.Now()
	var mu sync.Mutex
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for time.Since(begin) < during && m.ctx.Err() == nil {
				argv := command()
				start := time.Now()
				err := printed(exec.CommandContext(m.ctx, argv[0], argv[1:]...).CombinedOutput())
				took := time.Since(start)
				mu.Lock()
				if err != nil {
					p.failed = append(p.failed, err.Error())
				} else {
					p.took = append(p.took, took)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	p.seconds = time.Since(begin).Seconds()
	return p
}

func (m *bench) throughputTable(peer *pressure, all []*pressure) {
	t := newTable("Throughput", "n", "a second", "success", "p50", "p95", "p99", "max", "rate ratio")
	t.Peer = peer.name
	notes := []string{fmt.Sprintf("ms; rate ratio to %s; %d sessions of 1 core; at the last rate the answers do not keep up", peer.name, 4*runtime.NumCPU())}
	for _, p := range all {
		if len(p.took) == 0 {
			m.must(fmt.Errorf("%s: nothing succeeded: %s", p.name, p.failed[0]))
		}
		took := slices.Sorted(slices.Values(p.took))
		cells := []string{
			p.name, strconv.Itoa(len(took)), fmt.Sprintf("%.0f", p.rate()),
			fmt.Sprintf("%.1f %%", 100*float64(len(took))/float64(len(took)+len(p.failed))),
		}
		for _, q := range percentiles {
			cells = append(cells, ms(percentile(took, q)))
		}
		t.row(append(cells, ratio(p.rate(), peer.rate()))...).Samples = samples(p.took)
		if len(p.failed) > 0 {
			notes = append(notes, fmt.Sprintf("%s: first of %d failures: %s", p.name, len(p.failed), p.failed[0]))
		}
	}
	t.print(notes...)
	m.b.ReportMetric(all[0].rate(), "executions/s")
}
