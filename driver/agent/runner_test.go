// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/buntime/buntime/driver"
)

// list lists the units of the runners that wait.
func (r *runners) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	units := make([]string, 0, len(r.ready))
	for _, run := range r.ready {
		units = append(units, run.unit)
	}
	return units
}

// settled waits until nothing of the runners changes any more, and lists them.
func (f *fixture) settled(t *testing.T, want int) []string {
	t.Helper()
	r := f.instance.(*instance).session.runners
	deadline := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		n, busy, changed := len(r.ready), r.starting > 0 || r.filling, r.changed
		r.mu.Unlock()
		if n == want && !busy {
			return r.list()
		}
		select {
		case <-changed:
		case <-time.After(calm): // what is dropped, and the end of a refill, tell nobody
		case <-deadline:
			t.Fatalf("%d runners wait, want %d", n, want)
		}
	}
}

// pass has it as if no execution had come for so long.
func (f *fixture) pass(d time.Duration) {
	r := f.instance.(*instance).session.runners
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sequence.last = time.Now().Add(-d)
}

// inARow executes n times and tells what in.
func (f *fixture) inARow(t *testing.T, n int) (units []string) {
	t.Helper()
	for range n {
		r := f.run(t, map[string]any{"code": "const x: number = 1; console.log(x)"})
		if r.Stdout != "1\n" {
			t.Fatalf("%+v", r)
		}
		e, _ := f.instance.(*instance).session.find(r.ExecutionID)
		units = append(units, e.unit)
	}
	return units
}

// learn executes n times in a row, until it was one for the session as well: a busy
// machine makes pauses.
func (f *fixture) learn(t *testing.T, n int) {
	t.Helper()
	r := f.instance.(*instance).session.runners
	seen := 0
	for range 10 {
		f.pass(time.Second) // a row of its own
		f.inARow(t, n)
		r.mu.Lock()
		seen = r.sequence.most
		r.mu.Unlock()
		if seen == n {
			return
		}
	}
	t.Fatalf("the session has seen %d in a row, want %d", seen, n)
}

// TestRunnersSequence: a session that has executed ten modules in a row has a runner
// for each of the next ten, and the one behind them. None of them is started meanwhile.
func TestRunnersSequence(t *testing.T) {
	f := newFixtureOf(t, fixtureOptions{change: func(task *driver.Task) { task.Limits.Memory, task.Limits.Pids = 1<<30, 1024 }})
	f.learn(t, 10)
	ready := f.settled(t, 11)
	f.pass(time.Second)
	for i, unit := range f.inARow(t, 10) {
		if unit != ready[i] {
			t.Errorf("execution %d did not get the runner that had waited for longest", i+1)
		}
	}
	f.settled(t, 11)
	if n := f.agent.(*Agent).stock.spare.Load(); n != 10 {
		t.Errorf("%d spare runners on the node, want all but one", n)
	}
	for _, c := range []struct {
		pause time.Duration
		want  int
	}{{time.Minute, 3}, {time.Hour, fewRunners}} {
		f.pass(c.pause)
		f.instance.(*instance).session.runners.look()
		f.settled(t, c.want)
	}
	f.inARow(t, 3)
	if err := f.instance.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := f.agent.(*Agent).stock.spare.Load(); n != 0 {
		t.Errorf("%d spare runners on the node without a session", n)
	}
}

// TestRunnersAtRest: what an idle session gives up, others can have.
func TestRunnersAtRest(t *testing.T) {
	f := newFixture(t)
	f.learn(t, 5)
	f.settled(t, 6)
	f.call(t, "POST", "/v1/sleep", map[string]any{"state": lifeIdle}, nil)
	f.settled(t, 1)
	if n := f.agent.(*Agent).stock.spare.Load(); n > 1 {
		t.Errorf("%d spare runners on the node, and one that waits", n)
	}
	f.pass(time.Second)
	f.inARow(t, 1)
	f.settled(t, 6)
}

// TestRunnersFew: what there is no memory or processes for is not started ahead.
func TestRunnersFew(t *testing.T) {
	for name, c := range map[string]struct {
		options fixtureOptions
		short   bool
		want    int
	}{
		"the node has a budget for two":    {fixtureOptions{configure: func(c *driver.Config) { c.RunnerMemory = 2*runnerMemory + 1 }}, false, 3},
		"the node has none":                {fixtureOptions{configure: func(c *driver.Config) { c.RunnerMemory = 0 }}, false, 1},
		"the node is short of memory":      {fixtureOptions{}, true, 1},
		"the session has little memory":    {fixtureOptions{change: func(task *driver.Task) { task.Limits.Memory = 256 << 20 }}, false, 4},
		"the session has little processes": {fixtureOptions{change: func(task *driver.Task) { task.Limits.Pids = 128 }}, false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixtureOf(t, c.options)
			if c.short {
				f.agent.(*Agent).stock.short = func() bool { return true } // no execution has been, so nobody asks yet
			}
			f.learn(t, 8)
			f.settled(t, c.want)
			f.inARow(t, 3)
			f.settled(t, c.want)
		})
	}
}

// TestRunnersShed: runners that wait are given up when the node comes to be short of
// memory.
func TestRunnersShed(t *testing.T) {
	f := newFixture(t)
	f.learn(t, 6)
	f.settled(t, 7)
	r := f.instance.(*instance).session.runners
	r.mu.Lock()
	f.agent.(*Agent).stock.short = func() bool { return true }
	r.mu.Unlock()
	r.look()
	f.settled(t, 1)
}

// TestRunnersQuota has many runners started in a session of a quarter of a core, and
// wants that not to be throttled: what they take of the quota is given back, but for what
// a start costs above startCPU on a busy machine.
func TestRunnersQuota(t *testing.T) {
	f := newFixtureOf(t, fixtureOptions{change: func(task *driver.Task) { task.Limits.CPUCores = 0.25 }})
	s := f.instance.(*instance).session
	f.settled(t, 1)
	throttled := t.Errorf
	look := func(run *runner) {
		if run.cpu > startCPU {
			t.Logf("a start took %v of CPU time", run.cpu)
			throttled = t.Logf
		}
	}
	s.runners.mu.Lock()
	look(s.runners.ready[0])
	s.runners.mu.Unlock()
	stats, err := s.box.Group().Stats()
	if err != nil {
		t.Fatal(err)
	}
	if stats.ThrottledPeriods != 0 {
		throttled("the start of the session was throttled in %d periods", stats.ThrottledPeriods)
	}
	for range 80 { // of 9 ms; the quota and what may be saved up are 62 each
		run, err := s.runners.prepare(t.Context(), workspaceDir)
		if err != nil {
			t.Fatal(err)
		}
		look(run)
		s.runners.discard(run)
	}
	after, err := s.box.Group().Stats()
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v of CPU time in %d periods, %d portions back", after.CPU-stats.CPU, after.Periods-stats.Periods, s.runners.refunds.given)
	if s.runners.refunds.given == 0 {
		t.Error("nothing was given back")
	}
	if n := after.ThrottledPeriods - stats.ThrottledPeriods; n != 0 {
		throttled("the start of runners was throttled in %d periods", n)
	}
}

// TestRunnersQuotaAttack: what a session can make Bun do before it comes to the gate
// is not paid for.
func TestRunnersQuotaAttack(t *testing.T) {
	f := newFixtureOf(t, fixtureOptions{change: func(task *driver.Task) { task.Limits.CPUCores = 0.25 }})
	s := f.instance.(*instance).session
	const n = 5
	// Each leaves a mark where it runs, and would take far more than a runner's start.
	spin := "require('fs').appendFileSync('/workspace/mark', 'x'); for (const end = Date.now() + 100; Date.now() < end;);"
	preload := "preload = [\"/workspace/pre.ts\"]\n"
	for name, files := range map[string]map[string]string{
		"bunfig.toml":                       {"bunfig.toml": preload},
		"bunfig.toml of the home directory": {"~/.bunfig.toml": preload},
		"bunfig.toml of the configuration":  {"~/.config/.bunfig.toml": preload},
		".env":                              {".env": "BUN_OPTIONS=--preload=/workspace/pre.ts\nNODE_OPTIONS=--require=/workspace/pre.ts\nBUN_INSPECT_PRELOAD=/workspace/pre.ts\nBUN_CONFIG_PRELOAD=/workspace/pre.ts\n"},
		"tsconfig.json":                     {"tsconfig.json": `{"compilerOptions": {"paths": {"bun:ffi": ["./pre.ts"], "*": ["./pre.ts"]}, "jsxImportSource": "/workspace/pre"}}`},
		"package.json":                      {"package.json": `{"imports": {"bun:ffi": "./pre.ts"}, "browser": {"bun:ffi": "./pre.ts"}, "scripts": {"prerun": "bun pre.ts"}}`},
		"node_modules":                      {"node_modules/bun:ffi/index.ts": spin, "node_modules/bun/index.ts": spin},
	} {
		t.Run(name, func(t *testing.T) {
			setUp := "mkdir -p node_modules/bun:ffi node_modules/bun ~/.config; "
			for file, text := range files {
				setUp += fmt.Sprintf("cat > %s <<'E'\n%s\nE\n", file, text)
			}
			setUp += fmt.Sprintf("cat > pre.ts <<'E'\n%s\nE\n", spin)
			if r := f.run(t, map[string]any{"command": setUp}); r.ExitCode != 0 {
				t.Fatalf("%+v", r)
			}
			f.settledAny(t)
			// A Bun that was starting while the files were written may have read them.
			if err := s.files.root.Remove("mark"); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			before, paid := s.runners.refunds.credited(t, s)
			for range n {
				run, err := s.runners.prepare(t.Context(), workspaceDir)
				if err != nil {
					t.Fatal(err)
				}
				s.runners.discard(run)
			}
			after, starts := s.runners.refunds.credited(t, s)
			// More may have started than were asked for: whoever waits for the next execution is
			// replaced when it has been taken.
			got := after - before
			starts -= paid
			t.Logf("%v credited for %d runners", got, starts)
			if got > time.Duration(starts)*startCPU {
				t.Errorf("%v credited for %d runners", got, starts)
			}
			if r := f.run(t, map[string]any{"command": "cat mark; rm -rf bunfig.toml .env tsconfig.json package.json node_modules pre.ts mark ~/.bunfig.toml ~/.config"}); r.Stdout != "" {
				t.Errorf("code of the session ran %d times before somebody asked for it", len(r.Stdout))
			}
		})
	}
}

// settledAny waits until no runner is being started.
func (f *fixture) settledAny(t *testing.T) {
	t.Helper()
	r := f.instance.(*instance).session.runners
	for deadline := time.Now().Add(60 * time.Second); ; {
		r.mu.Lock()
		busy := r.starting > 0 || r.filling
		quiet := time.Since(r.sequence.last) > 5*calm
		r.mu.Unlock()
		if !busy && quiet {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("runners are started without an end")
		}
		time.Sleep(calm)
	}
}

// credited is what was given back or will be, and for how many starts.
func (f *refunds) credited(t *testing.T, s *Session) (time.Duration, int) {
	t.Helper()
	portion, err := s.box.Group().Portion()
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.owed + time.Duration(f.given)*portion, f.paid
}
