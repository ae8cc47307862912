// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// The tests of this file run alone: no other runs while a part is down.

// crashes are the ways in which parts go away and come back.
var crashes = []struct {
	name string
	do   func(ctx context.Context, s *stack.Stack) error
}{
	{"front-end", func(ctx context.Context, s *stack.Stack) error {
		if err := s.Frontends[0].Kill(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		return s.Frontends[0].Restart(ctx)
	}},
	{"front-end, gently", func(ctx context.Context, s *stack.Stack) error {
		return s.Frontends[0].Restart(ctx)
	}},
	{"plugin", func(ctx context.Context, s *stack.Stack) error {
		return s.Clients[0].KillPlugin(ctx, syscall.SIGKILL)
	}},
	{"Nomad agent", func(ctx context.Context, s *stack.Stack) error {
		if err := s.Clients[0].Agent.Kill(ctx, syscall.SIGKILL); err != nil {
			return err
		}
		return s.Clients[0].Agent.Restart(ctx)
	}},
	{"Nomad agent, gently", func(ctx context.Context, s *stack.Stack) error {
		return s.Clients[0].Agent.Restart(ctx)
	}},
	{"front-end, plugin and Nomad agent", func(ctx context.Context, s *stack.Stack) error {
		for _, step := range []func() error{
			func() error { return s.Frontends[0].Kill(ctx, syscall.SIGKILL) },
			func() error { return s.Clients[0].Agent.Kill(ctx, syscall.SIGKILL) },
			func() error { return s.Clients[0].KillPlugin(ctx, syscall.SIGKILL) },
			func() error { return s.Clients[0].Agent.Restart(ctx) },
			func() error { return s.Frontends[0].Restart(ctx) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	}},
}

// busy is a session with a server in the background and an execution that
// runs.
type busy struct {
	*session
	before  info
	server  execution
	token   string // what the server says
	running process
	waiting *started // who waits for the execution
}

func newBusy(t *testing.T, name string) *busy {
	t.Helper()
	s := createSession(t, deadline(t, 3*time.Minute), enterprise(), M{"metadata": M{"crash": name}})
	s.write("kept.txt", "kept")
	b := &busy{session: s, server: s.background(tokenServer)}
	b.token = string(s.fetch("/").Body)
	b.waiting = s.begin(M{"timeout": 60, "code": `
		console.log("one", process.pid);
		await Bun.write("running", "");
		` + untilFile("go") + `
		console.log("two", process.pid);
		process.exit(5);`})
	s.waitFor("running")
	all := s.processes()
	i := slices.IndexFunc(all, func(p process) bool { return p.PID != b.server.PID })
	if i < 0 || len(all) != 2 {
		t.Fatalf("want the server and the execution in the list: %+v", all)
	}
	b.running, b.before = all[i], s.info()
	return b
}

// TestCrash takes a part away while a session has a server in the background
// and an execution that runs. Afterwards the session answers, both are the
// same processes, and no output is lost.
func TestCrash(t *testing.T) {
	if system.stack == nil {
		t.Skip("the system is not ours to kill")
	}
	for _, crash := range crashes {
		t.Run(crash.name, func(t *testing.T) {
			b := newBusy(t, crash.name)
			for range 2 { // what came back is as good as the first
				began := time.Now()
				if err := crash.do(b.ctx, system.stack); err != nil {
					t.Fatal(err)
				}
				b.api.HTTP.CloseIdleConnections()
				b.answersAgain()
				t.Logf("executes again %v after the crash began", time.Since(began).Round(time.Millisecond))
				b.isAsBefore(crash.name)
			}
			b.goesOn()
			b.canBeUsed()
		})
	}
}

// isAsBefore wants the session's processes, files and record untouched.
func (b *busy) isAsBefore(name string) {
	t := b.t
	t.Helper()
	equal(t, "the server", string(b.fetch("/").Body), b.token)
	pids := []int{}
	for _, p := range b.processes() {
		pids = append(pids, p.PID)
	}
	slices.Sort(pids)
	equal(t, "processes", pids, slices.Sorted(slices.Values([]int{b.server.PID, b.running.PID})))
	equal(t, "a file", b.read("kept.txt"), "kept")
	after := b.info()
	equal(t, "createdAt", after.CreatedAt, b.before.CreatedAt)
	equal(t, "expiresAt", after.ExpiresAt, b.before.ExpiresAt)
	equal(t, "resourceLimits", after.ResourceLimits, b.before.ResourceLimits)
	equal(t, "metadata", string(after.Metadata), string(b.before.Metadata))
	equal(t, "state", after.State, "active")
	equal(t, "in the list", listSessions(t, b.ctx, b.api, "metadata.crash", name).ids(), []string{b.id})
	equal(t, "state of the server", decode[execution](t, b.get("/executions/"+b.server.ExecutionID)).State, "background")
}

// goesOn lets the execution that was there before the crash end, and wants
// all that it said and its end.
func (b *busy) goesOn() {
	t := b.t
	t.Helper()
	equal(t, "state of the execution", decode[execution](t, b.get("/executions/"+b.running.ExecutionID)).State, "running")
	live := b.outputEvents(b.running.ExecutionID, "")
	live.wants("stdout", fmt.Sprintf("one %d\n", b.running.PID))
	b.write("go", "")
	equal(t, "output after the crash", live.collect().stdout, fmt.Sprintf("two %d\n", b.running.PID))
	r := decode[execution](t, b.get("/executions/"+b.running.ExecutionID))
	equal(t, "state", r.State, "exited")
	equal(t, "exitCode", r.ExitCode, 5)
	equal(t, "reason", r.Reason, "exit")
	equal(t, "stdout", r.Stdout, fmt.Sprintf("one %d\ntwo %[1]d\n", b.running.PID))
	select {
	case <-b.waiting.answer: // whatever became of it
	case <-b.ctx.Done():
		t.Error("who waited for the execution never heard of it")
	}
}

// canBeUsed wants everything to work as in a new session, and its end.
func (b *busy) canBeUsed() {
	t := b.t
	t.Helper()
	equal(t, "an execution", b.print(`console.log("works")`), "works\n")
	r := b.execute(M{"timeout": 1, "code": `Bun.spawn(["sleep", "1000"]); await Bun.sleep(20_000)`})
	equal(t, "a timeout", r.TimedOut, true)
	equal(t, "kill of the server", b.kill(M{"pid": b.server.PID}), killed{Killed: 1, PIDs: []int{b.server.PID}})
	b.gone(b.server.PID)
	equal(t, "processes left", b.processes(), []process{})
	equal(t, "a new session", newSession(t).print(`console.log("works")`), "works\n")
	status(t, b.drop(), 200)
	refusal(t, b.infoReply(), 404, "session_not_found")
	status(t, b.fetch("/"), 404)
}

// answersAgain executes until it is done, with no other refusal on the way
// than 503 with its Retry-After.
func (s *session) answersAgain() {
	s.t.Helper()
	eventually(s.t, s.ctx, "the session answers", time.Minute, func() (bool, string) {
		ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
		defer cancel()
		reply := send(s.t, ctx, s.api, client.Call{Method: "POST", Path: "/execute", JSON: s.body(M{"code": `console.log("back")`})})
		if reply.Status == 200 {
			equal(s.t, "stdout", decode[execution](s.t, reply).Stdout, "back\n")
			return true, ""
		}
		refusal(s.t, reply, 503, "service_unavailable")
		if reply.Header.Get("Retry-After") == "" {
			s.t.Error("503 without Retry-After")
		}
		return false, string(reply.Body)
	})
}

// TestCrashWhileCreating: a front-end that dies in the middle of creates leaves
// no half sessions: what the list has, works.
func TestCrashWhileCreating(t *testing.T) {
	if system.stack == nil {
		t.Skip("the system is not ours to kill")
	}
	ctx := deadline(t, 2*time.Minute)
	const tag = "crash-while-creating"
	const creates = 12
	answers := make(chan string, creates)
	for range creates {
		go func() {
			reply, err := enterprise().Do(ctx, client.Call{Method: "POST", Path: "/sessions/create", JSON: M{"metadata": M{"tag": tag}}})
			switch {
			case err != nil:
				answers <- ""
			default:
				answers <- string(reply.Body)
			}
		}()
	}
	made := []string{}
	note := func(body string) {
		if body != "" {
			made = append(made, decodeText[created](t, []byte(body)).SessionID)
		}
	}
	note(<-answers)
	if err := system.stack.Frontends[0].Kill(ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := system.stack.Frontends[0].Restart(ctx); err != nil {
		t.Fatal(err)
	}
	for range creates - 1 {
		note(<-answers)
	}
	shared.HTTP.CloseIdleConnections()
	listed := listSessions(t, ctx, enterprise(), "metadata.tag", tag, "limit", "100").ids()
	t.Cleanup(func() { dropTagged(t, tag) })
	t.Logf("%d creates, %d answered, %d listed", creates, len(made), len(listed))
	for _, id := range made {
		if !slices.Contains(listed, id) {
			t.Errorf("%s was created, but is not in the list", id)
		}
	}
	for _, id := range listed {
		s := &session{t: t, ctx: ctx, api: enterprise(), id: id}
		equal(t, "execute in "+id, s.print(`console.log("works")`), "works\n")
	}
}

// dropTagged deletes the sessions with a tag until nothing is left of any: one
// whose creator never had an answer may be claimed, and so listed, only later.
func dropTagged(t *testing.T, tag string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	eventually(t, ctx, "no session with the tag "+tag, time.Minute, func() (bool, string) {
		for _, id := range listSessions(t, ctx, enterprise(), "metadata.tag", tag, "limit", "100").ids() {
			status(t, send(t, ctx, enterprise(), client.Call{Method: "DELETE", Path: "/sessions/" + id}), 200)
		}
		left, err := system.stack.Leftovers(ctx)
		return err == nil && len(left) == 0, strings.Join(left, "; ")
	})
}
