// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver"
)

// BenchmarkIsolation compares the classes, turn by turn in one run:
//
//	go test -run '^$' -bench Isolation -benchtime 1x ./driver/agent
func BenchmarkIsolation(b *testing.B) {
	config := newConfig(b)
	config.Network.Pool = netip.MustParsePrefix("198.18.208.0/20")
	config.Runsc = tool(b, "e2e/tools/get", "runsc")
	a, err := Open(context.Background(), config, hclog.NewNullLogger())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := a.Close(); err != nil {
			b.Error(err)
		}
	})
	classes := []string{driver.IsolationProcess, driver.IsolationGVisor}
	took := map[string]map[string][]time.Duration{}
	note := func(work, class string, d time.Duration) {
		if took[work] == nil {
			took[work] = map[string][]time.Duration{}
		}
		took[work][class] = append(took[work][class], d)
	}
	for b.Loop() {
		for range 10 {
			for _, class := range classes {
				benchOne(b, config, a, class, note)
			}
		}
	}
	var table strings.Builder
	fmt.Fprintf(&table, "\n%-34s %12s %12s %8s\n", "median", classes[0], classes[1], "ratio")
	for _, work := range benchOrder {
		m := [2]time.Duration{}
		for i, class := range classes {
			d := took[work][class]
			slices.Sort(d)
			m[i] = d[len(d)/2]
		}
		fmt.Fprintf(&table, "%-34s %12s %12s %8.1f\n", work, m[0].Round(100*time.Microsecond), m[1].Round(100*time.Microsecond), float64(m[1])/float64(m[0]))
	}
	b.Log(table.String())
}

var benchOrder = []string{"start of the sandbox", "start until Bun's first line", "execute, runner ready", "CPU: primes below 3,000,000", "system calls: 20,000 stats", "files: 500 written and read", "preview: 200 requests"}

var benchCode = map[string]string{
	"CPU: primes below 3,000,000": `let n = 0; const s = new Uint8Array(3e6); for (let i = 2; i < 3e6; i++) if (!s[i]) { n++; for (let j = i * 2; j < 3e6; j += i) s[j] = 1 } console.log(n)`,
	"system calls: 20,000 stats":  `const fs = require('fs'); for (let i = 0; i < 20000; i++) fs.statSync('/workspace'); console.log(1)`,
	"files: 500 written and read": `const fs = require('fs'); for (let i = 0; i < 500; i++) fs.writeFileSync('f' + i, 'x'.repeat(4096)); let n = 0; for (let i = 0; i < 500; i++) n += fs.readFileSync('f' + i).length; for (let i = 0; i < 500; i++) fs.unlinkSync('f' + i); console.log(n)`,
}

func benchOne(b *testing.B, config *driver.Config, a driver.Runtime, class string, note func(string, string, time.Duration)) {
	f := &fixture{agent: a, config: config, task: &driver.Task{
		ID: "alloc/session/1", AllocID: fmt.Sprintf("bench-%d", time.Now().UnixNano()), Name: "session",
		Limits:  driver.Limits{Memory: 1 << 30, CPUCores: 2, Pids: 512, Files: 4096, Disk: 256 << 20},
		Session: &driver.Session{ID: "ses_test", Epoch: 1, ExpiresAt: time.Now().Add(time.Hour)},
		API:     freeAddress(b), Preview: freeAddress(b), Isolation: class,
	}}
	begin := time.Now()
	var err error
	if f.instance, err = a.Start(b.Context(), f.task); err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := f.instance.Destroy(context.Background()); err != nil {
			b.Error(err)
		}
	}()
	note("start of the sandbox", class, time.Since(begin))
	f.run(b, map[string]any{"code": "console.log(1)"})
	note("start until Bun's first line", class, time.Since(begin))
	f.waitRunners(b)
	begin = time.Now()
	f.run(b, map[string]any{"code": "console.log(1)"})
	note("execute, runner ready", class, time.Since(begin))
	for work, code := range benchCode {
		f.waitRunners(b)
		begin = time.Now()
		if r := f.run(b, map[string]any{"code": code}); r.ExitCode != 0 {
			b.Fatalf("%s: %+v", work, r)
		}
		note(work, class, time.Since(begin))
	}
	f.run(b, map[string]any{"code": "Bun.serve({port: 8080, fetch: () => new Response('x')})"})
	begin = time.Now()
	for range 200 {
		if status, _ := f.get(b, 8080); status != 200 {
			b.Fatalf("preview: %d", status)
		}
	}
	note("preview: 200 requests", class, time.Since(begin))
}

// waitRunners returns when the session has its runners ready.
func (f *fixture) waitRunners(t testing.TB) {
	t.Helper()
	r := f.instance.(*instance).session.runners
	deadline := time.After(30 * time.Second)
	for {
		r.mu.Lock()
		ready, changed := len(r.ready) >= fewRunners, r.changed
		r.mu.Unlock()
		if ready {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatal("no runners")
		}
	}
}
