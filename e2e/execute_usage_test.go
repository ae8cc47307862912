// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"strings"
	"testing"
	"time"
)

const mib = 1 << 20

// spin is code that uses so many ms of CPU time.
const spin = `
	const used = () => { const { user, system } = process.cpuUsage(); return user + system; };
	const spin = (ms: number) => { const from = used(); while (used() - from < ms * 1000) for (let i = 0; i < 100_000; i++); };
`

// TestUsageMemory: the peak of one execution, with its children and without
// what other executions use.
func TestUsageMemory(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	trivial := func(when string) {
		t.Helper()
		within(t, "memoryUsed of a trivial execution "+when, s.code(`console.log(1)`).MemoryUsed, mib, 120*mib)
	}
	trivial("at first")
	within(t, "200 MB in code", s.code(`Buffer.alloc(200 << 20, 1); console.log(1)`).MemoryUsed, 200*mib, 400*mib)
	trivial("after a big one")
	within(t, "200 MB in a child", s.command(`bun -e 'Buffer.alloc(200 << 20, 1)'`).MemoryUsed, 200*mib, 400*mib)

	s.background(`
		const held = Buffer.alloc(300 << 20, 1);
		Bun.serve({ port: 8080, fetch: () => new Response(String(held.length)) });
	`)
	trivial("beside a big server")
	within(t, "usage.memory of the session with the server", s.info().Usage.Memory, 1, 1<<40)
}

func TestUsageCPU(t *testing.T) {
	t.Parallel()
	s := createSession(t, deadline(t, usual), enterprise(), M{"resourceLimits": M{"cpu": 1}})
	within(t, "cpuTime of a trivial execution", s.code(`console.log(1)`).CPUTime, 0, 250)
	busy := s.code(spin + `spin(400); console.log(1)`)
	within(t, "cpuTime of 400 ms in code", busy.CPUTime, 390, 1500)
	within(t, "executionTime of it", busy.ExecutionTime, 390, 20_000)
	child := s.execute(M{"files": []M{{"path": "spin.ts", "content": spin + `spin(400)`}}, "command": "bun spin.ts; bun spin.ts & wait"})
	within(t, "cpuTime of two children", child.CPUTime, 780, 3000)
	waits := s.code(`await Bun.sleep(600)`)
	within(t, "cpuTime of waiting", waits.CPUTime, 0, 250)
	within(t, "executionTime of waiting", waits.ExecutionTime, 590, 10_000)
	within(t, "cpuTime after busy ones", s.code(`console.log(1)`).CPUTime, 0, 250)
}

// TestUsageCPULimit: a quarter of a core is a quarter of a core.
func TestUsageCPULimit(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.print(`1`)
	r := s.code(spin + `spin(1000); console.log(1)`)
	equal(t, "stdout", r.Stdout, "1\n")
	// 1,000 ms at 0.25 cores are 4,000 ms, less what the limit lets burst.
	within(t, "executionTime", r.ExecutionTime, 2000, 20_000)
}

// TestMemoryLimit: an execution over the limit is refused with what it had
// said so far; the session and its other processes live on.
func TestMemoryLimit(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("kept.txt", "kept")
	s.background(tokenServer)
	token := string(s.fetch("/").Body)

	const hog = `const held = []; for (;;) held.push(Buffer.alloc(64 << 20, 1));`
	for name, body := range map[string]M{
		"code":    {"code": `console.log("before"); console.error("careful"); await Bun.sleep(1);` + hog},
		"command": {"files": []M{{"path": "hog.ts", "content": hog}}, "command": `echo before; echo careful >&2; exec bun hog.ts`},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			e := refusal(t, s.post("/execute", body), 507, "memory_limit_exceeded")
			equal(t, "message", e.Message, "Session exceeded 1GB memory limit")
			partial := decodeText[struct {
				Result execution `json:"result"`
			}](t, e.Details).Result
			equal(t, "stdout", partial.Stdout, "before\n")
			contains(t, "stderr", partial.Stderr, "careful\n")
			equal(t, "reason", partial.Reason, "oom")
			equal(t, "exitCode", partial.ExitCode, 137)
			equal(t, "timedOut", partial.TimedOut, false)
			if partial.MemoryUsed < 500*mib {
				t.Errorf("memoryUsed is %d", partial.MemoryUsed)
			}
			equal(t, "by its id", decode[execution](t, s.get("/executions/"+partial.ExecutionID)).Reason, "oom")

			equal(t, "the server", string(s.fetch("/").Body), token)
			equal(t, "the next execution", s.print(`console.log(await Bun.file("kept.txt").text())`), "kept\n")
		})
	}
	t.Run("streaming", func(t *testing.T) {
		events := s.in(t).stream(M{"code": `console.log("before"); await Bun.sleep(1);` + hog})
		events.wants("stdout", "before\n")
		last := events.next()
		equal(t, "last event", last.Name, "error")
		contains(t, "error", last.Data, `"memory_limit_exceeded"`)
		events.end()
		equal(t, "the server", string(s.in(t).fetch("/").Body), token)
	})
}

// TestMemoryLimitBesideAnother: one execution's death does not touch another
// that runs at the same time.
func TestMemoryLimitBesideAnother(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	quiet := s.begin(M{"code": `await Bun.write("running", ""); ` + untilFile("go") + ` console.log("alive")`})
	s.waitFor("running")
	refusal(t, s.post("/execute", M{"code": `const held = []; for (;;) held.push(Buffer.alloc(64 << 20, 1));`}), 507, "memory_limit_exceeded")
	s.write("go", "")
	equal(t, "the quiet one", s.well(quiet.result()), "alive\n")
}

// TestDiskLimit: the disk is as big as promised, and filling it harms nobody.
func TestDiskLimit(t *testing.T) {
	t.Parallel()
	s := createSession(t, deadline(t, 2*time.Minute), enterprise(), M{"resourceLimits": M{"cpu": 1}})
	r := s.execute(M{"command": `head -c 700M /dev/zero >a && echo 700 fit; head -c 700M /dev/zero >b || echo full`, "timeout": 110})
	equal(t, "stdout", r.Stdout, "700 fit\nfull\n")
	contains(t, "stderr", r.Stderr, "No space left on device")
	refusal(t, s.post("/files/write", M{"path": "more.txt", "content": strings.Repeat("x", mib)}), 507, "disk_full")
	// Code is written to the disk; a command is not, so there is a way out.
	if reply := s.post("/execute", M{"code": `console.log("runs")`}); reply.Status == 200 {
		equal(t, "code on a full disk", decode[execution](t, reply).Stdout, "runs\n")
	} else {
		refusal(t, reply, 507, "disk_full")
	}
	equal(t, "a command on a full disk", s.shell(`rm b && echo removed`), "removed\n")
	s.write("more.txt", "fits again")
}
