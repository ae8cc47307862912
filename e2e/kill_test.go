// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// server is code of a server on a port, with a handler of its own for SIGTERM
// where that is not "".
func server(port int, onTerm string) string {
	code := fmt.Sprintf(`Bun.serve({ port: %d, fetch: () => new Response("up") });`, port)
	if onTerm != "" {
		code = `process.on("SIGTERM", async () => {` + onTerm + `});` + code
	}
	return code
}

// gone waits until a process is in the list no more.
func (s *session) gone(pids ...int) {
	s.t.Helper()
	eventually(s.t, s.ctx, fmt.Sprint("processes gone: ", pids), 5*time.Second, func() (bool, string) {
		left := s.processes()
		return !slices.ContainsFunc(left, func(p process) bool { return slices.Contains(pids, p.PID) }), brief(left)
	})
}

func TestProcesses(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	equal(t, "processes of a new session", s.processes(), []process{})
	before := time.Now().Truncate(time.Second)
	r := s.background(server(8080, "") + `Bun.serve({ port: 9000, hostname: "127.0.0.1", fetch: () => new Response("up") });`)
	reply := s.get("/processes")
	var raw struct{ Processes []json.RawMessage }
	if err := json.Unmarshal(reply.Body, &raw); err != nil {
		t.Fatal(err)
	}
	equal(t, "processes", len(raw.Processes), 1)
	keys(t, "process", raw.Processes[0], []string{"pid", "executionId", "command", "startedAt", "memory", "cpuTime", "ports"}, nil)
	p := s.processes()[0]
	equal(t, "pid", p.PID, r.PID)
	equal(t, "executionId", p.ExecutionID, r.ExecutionID)
	equal(t, "ports", slices.Sorted(slices.Values(p.Ports)), []int{8080, 9000})
	startedAt := instant(t, "startedAt", p.StartedAt)
	if startedAt.Before(before.Add(-time.Second)) || startedAt.After(time.Now().Add(time.Second)) {
		t.Errorf("startedAt %v is not between %v and now", startedAt, before)
	}
	within(t, "memory in bytes", p.Memory, mib, 1<<30)
	within(t, "cpuTime in ms", p.CPUTime, 0, 20_000)
	if p.Command == "" {
		t.Error("no command")
	}

	s.command(`sleep 1234 & sleep 1235 &`)
	// The shell's children are the shell for a moment.
	eventually(t, s.ctx, "the command's processes", 5*time.Second, func() (bool, string) {
		commands := []string{}
		for _, p := range s.processes() {
			commands = append(commands, p.Command)
		}
		return len(commands) == 3 && slices.Contains(commands, "sleep 1234") && slices.Contains(commands, "sleep 1235"), brief(commands)
	})
}

func TestKill(t *testing.T) {
	t.Parallel()
	t.Run("one by pid", func(t *testing.T) {
		t.Parallel()
		s := newSession(t)
		one, two := s.background(server(8080, "")), s.background(server(8081, ""))
		reply := s.post("/execution/kill", M{"pid": one.PID})
		keys(t, "answer", reply.Body, []string{"killed", "pids"}, nil)
		equal(t, "answer", decode[killed](t, reply), killed{Killed: 1, PIDs: []int{one.PID}})
		s.gone(one.PID)
		left := s.processes()
		equal(t, "processes left", len(left), 1)
		equal(t, "the other", left[0].PID, two.PID)
		equal(t, "the other's answer", string(s.fetchPort(8081, "/").Body), "up")
		eventually(t, s.ctx, "the execution's end", 5*time.Second, func() (bool, string) {
			r := decode[execution](t, s.get("/executions/"+one.ExecutionID))
			return r.State == "exited" && r.Reason == "killed", brief(r)
		})
		equal(t, "again", s.kill(M{"pid": one.PID}), killed{Killed: 0, PIDs: []int{}})
	})
	t.Run("port is free again", func(t *testing.T) {
		t.Parallel()
		s := newSession(t)
		for range 3 {
			r := s.background(server(8080, ""))
			s.kill(M{"pid": r.PID})
			s.gone(r.PID)
		}
	})
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		s := newSession(t)
		one := s.background(server(8080, ""))
		s.shell(`sleep 1000 & setsid sleep 1001 & nohup sh -c 'trap "" TERM; sleep 1002' >/dev/null 2>&1 &`)
		var all []int
		eventually(t, s.ctx, "the server, three times sleep, and a shell", 5*time.Second, func() (bool, string) {
			all = nil
			sleeps := 0
			list := s.processes()
			for _, p := range list {
				all = append(all, p.PID)
				if strings.HasPrefix(p.Command, "sleep 100") {
					sleeps++
				}
			}
			return len(all) == 5 && sleeps == 3 && slices.Contains(all, one.PID), brief(list)
		})
		got := s.kill(M{})
		equal(t, "pids", slices.Sorted(slices.Values(got.PIDs)), slices.Sorted(slices.Values(all)))
		equal(t, "killed", got.Killed, len(all))
		s.gone(all...)
		equal(t, "with none left", s.kill(M{}), killed{Killed: 0, PIDs: []int{}})
		equal(t, "the session", s.print(`console.log("lives")`), "lives\n")
	})
	t.Run("unknown pid", func(t *testing.T) {
		t.Parallel()
		s := newSession(t)
		keep := s.background(server(8080, ""))
		for _, pid := range []int{999_999, 1 << 22} {
			equal(t, fmt.Sprint("pid ", pid), s.kill(M{"pid": pid}), killed{Killed: 0, PIDs: []int{}})
		}
		equal(t, "init", s.kill(M{"pid": 1}), killed{Killed: 0, PIDs: []int{}})
		// To kill(2) these mean whole groups of processes.
		for _, pid := range []int{0, -1, -keep.PID} {
			reply := s.post("/execution/kill", M{"pid": pid})
			if reply.Status != 400 && decode[killed](t, reply).Killed != 0 {
				t.Errorf("kill of pid %d: %d %s", pid, reply.Status, reply.Body)
			}
		}
		equal(t, "the server", string(s.fetch("/").Body), "up")
	})
	t.Run("signal", func(t *testing.T) {
		t.Parallel()
		s := newSession(t)
		r := s.background(server(8080, `await Bun.write("got-term", "yes"); process.exit(7)`))
		equal(t, "killed", s.kill(M{"pid": r.PID, "signal": "SIGTERM"}).Killed, 1)
		s.gone(r.PID)
		equal(t, "the handler ran", s.read("got-term"), "yes")
		eventually(t, s.ctx, "the handler's exit code", 5*time.Second, func() (bool, string) {
			r := decode[execution](t, s.get("/executions/"+r.ExecutionID))
			return r.State == "exited" && r.ExitCode == 7, brief(r)
		})

		r = s.background(`process.on("SIGUSR2", async () => { await Bun.write("got-usr2", "yes") });` + server(8080, ""))
		equal(t, "killed", s.kill(M{"pid": r.PID, "signal": "SIGUSR2"}).Killed, 1)
		s.waitFor("got-usr2")
		equal(t, "lives on", string(s.fetch("/").Body), "up")
		s.kill(M{"pid": r.PID, "signal": "SIGKILL"})
		s.gone(r.PID)
	})
}

// TestKillOfRunning: who waits for the execution gets its answer.
func TestKillOfRunning(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]M{
		"code":    {"code": `console.log("before"); await Bun.write("running", ""); await Bun.sleep(25_000)`},
		"command": {"command": `echo before; : >running; sleep 25`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			run := s.begin(body)
			s.waitFor("running")
			if got := s.kill(M{}); got.Killed < 1 {
				t.Fatalf("killed: %+v", got)
			}
			r := run.result()
			equal(t, "reason", r.Reason, "killed")
			equal(t, "stdout", r.Stdout, "before\n")
			equal(t, "timedOut", r.TimedOut, false)
			if r.ExitCode != 137 && r.ExitCode != 143 {
				t.Errorf("exitCode is %d", r.ExitCode)
			}
			within(t, "executionTime", r.ExecutionTime, 0, 15_000)
		})
	}
}

// TestKillOnlyOwn: a pid means a process of the session, never of another.
func TestKillOnlyOwn(t *testing.T) {
	t.Parallel()
	one, two := newSession(t), newSession(t)
	target := one.background(tokenServer)
	token := string(one.fetch("/").Body)
	got := two.kill(M{"pid": target.PID})
	equal(t, "killed by another session", got.Killed, 0)
	two.kill(M{})
	equal(t, "the server", string(one.fetch("/").Body), token)
}
