// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"strings"
	"testing"

	"github.com/buntime/buntime/driver"
)

// TestMemoryLimit has an execution take more than the session may, while another
// one lives.
func TestMemoryLimit(t *testing.T) {
	f := newFixture(t)
	server := f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: () => new Response('x')})"})
	var answer struct {
		Error struct {
			Code    string
			Details struct{ Result Result }
		}
	}
	status := f.call(t, "POST", "/v1/execute", map[string]any{
		"executionId": "exec_memory", "timeout": 120,
		"code": "console.log('begin'); const kept = []; for (;;) kept.push(new Uint8Array(8 << 20).fill(1))",
	}, &answer)
	if status != 507 || answer.Error.Code != "memory_limit_exceeded" {
		t.Errorf("status %d: %+v", status, answer)
	}
	if r := answer.Error.Details.Result; r.Reason != reasonOOM || r.Stdout != "begin\n" || r.MemoryUsed < 200<<20 || r.MemoryUsed > 512<<20 {
		t.Errorf("partial result %+v", r)
	}
	if r := f.run(t, map[string]any{"code": "console.log('lives')"}); r.Stdout != "lives\n" || r.Reason != reasonExit {
		t.Errorf("%+v", r)
	}
	var list struct{ Processes []Process }
	f.call(t, "GET", "/v1/processes", nil, &list)
	if len(list.Processes) != 1 || list.Processes[0].Pid != server.Pid {
		t.Errorf("processes %+v, want only the server %d", list.Processes, server.Pid)
	}
}

// TestPidsLimit has an execution fork until it may not, and then wants the
// session to work as before.
func TestPidsLimit(t *testing.T) {
	f := newFixtureWith(t, nil, func(task *driver.Task) { task.Limits.Pids = 100 })
	r := f.run(t, map[string]any{"timeout": 120, "command": "i=0; while [ $i -lt 110 ]; do sleep 1000 & i=$((i+1)); done; echo all"})
	if r.Stdout == "all\n" || !strings.Contains(strings.ToLower(r.Stderr), "fork") {
		t.Errorf("%+v", r)
	}
	f.call(t, "POST", "/v1/kill", map[string]any{}, nil)
	if r := f.run(t, map[string]any{"command": "ps -e -o args="}); strings.Contains(r.Stdout, "sleep 1000") || r.ExitCode != 0 {
		t.Errorf("after the kill: %+v", r)
	}
}

// TestTimeoutEndsTheTree wants a time-out to take what has left its parents.
func TestTimeoutEndsTheTree(t *testing.T) {
	f := newFixture(t)
	other := f.run(t, map[string]any{"command": "nohup sleep 2222 >/dev/null 2>&1 &"})
	if other.ExitCode != 0 {
		t.Fatalf("%+v", other)
	}
	r := f.run(t, map[string]any{"timeout": 3, "command": "setsid sh -c 'setsid sleep 1000 & setsid sleep 1001' & echo up; sleep 1002"})
	if !r.TimedOut || r.Reason != reasonTimeout || r.ExitCode != exitTimeout || r.Stdout != "up\n" {
		t.Errorf("%+v", r)
	}
	left := f.run(t, map[string]any{"command": "ps -e -o args="}).Stdout
	if strings.Contains(left, "sleep 100") || !strings.Contains(left, "sleep 2222") {
		t.Errorf("processes left: %s", left)
	}
}

// TestUsage wants the figures of an execution to be its own.
func TestUsage(t *testing.T) {
	f := newFixture(t)
	idle := f.run(t, map[string]any{"code": "1"})
	busy := f.run(t, map[string]any{"timeout": 120, "code": `
		const b = new Uint8Array(96 << 20).fill(1)
		for (const u = process.cpuUsage(); ;) {
			const d = process.cpuUsage(u)
			if (d.user + d.system > 700_000) break
		}
		console.log(b.length)`})
	again := f.run(t, map[string]any{"code": "1"})
	if busy.CPUTime < 700 || busy.MemoryUsed < idle.MemoryUsed+90<<20 {
		t.Errorf("idle %+v, busy %+v", idle, busy)
	}
	if again.MemoryUsed > idle.MemoryUsed+48<<20 {
		t.Errorf("memory of an earlier execution counts: %+v, then %+v", idle, again)
	}
}
