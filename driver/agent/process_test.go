// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// TestCommandsAreBounded looks at a process whose command line is long.
func TestCommandsAreBounded(t *testing.T) {
	cmd := exec.Command("sh", append([]string{"-c", "echo; read x", "é"}, slices.Repeat([]string{strings.Repeat("é", 50_000)}, 15)...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil { // only now it surely is that program
		t.Fatal(err)
	}
	for _, limit := range []int{maxCommand, maxCommand - 1, 10} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p, err := inspect(cmd.Process.Pid, limit)
		runtime.ReadMemStats(&after)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(p.Command); n > limit || n < limit-utf8.UTFMax || !strings.HasPrefix(p.Command, "sh -c echo") || !utf8.ValidString(p.Command) {
			t.Errorf("%d bytes of a command, want %d: %.20q", n, limit, p.Command)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 256<<10 {
			t.Errorf("took %d bytes", took)
		}
	}
}

// TestProcessesAreBounded lists processes with long command lines, which are
// short together.
func TestProcessesAreBounded(t *testing.T) {
	f := newFixture(t)
	const some = 300
	r := f.run(t, map[string]any{"timeout": 60, "command": `
		zeros=$(head -c 120000 /dev/zero | tr '\0' 0)
		i=0; while [ $i -lt 300 ]; do sleep 1000 $zeros >/dev/null 2>&1 & i=$((i+1)); done
		until [ $(grep -lsx sleep /proc/[0-9]*/comm | wc -l) = 300 ]; do sleep 0.1; done`})
	if r.ExitCode != 0 {
		t.Fatalf("%+v", r)
	}
	var list struct{ Processes []Process }
	f.call(t, "GET", "/v1/processes", nil, &list)
	if n := len(list.Processes); n != some {
		t.Fatalf("%d processes, want %d", n, some)
	}
	all := 0
	for _, p := range list.Processes {
		all += len(p.Command)
		if p.ExecutionID != r.ExecutionID || !strings.HasPrefix(p.Command, "sleep") {
			t.Fatalf("%.40s of execution %s", p.Command, p.ExecutionID)
		}
	}
	if all > maxCommands || all < maxCommands/2 {
		t.Errorf("%d bytes of commands, want at most %d", all, maxCommands)
	}
	var k Killed
	f.call(t, "POST", "/v1/kill", map[string]any{"pid": list.Processes[some-1].Pid}, &k)
	if k.Killed != 1 {
		t.Errorf("killed %+v", k)
	}
	f.call(t, "POST", "/v1/kill", map[string]any{}, &k)
	if k.Killed < some-1 {
		t.Errorf("killed %+v", k)
	}
}
