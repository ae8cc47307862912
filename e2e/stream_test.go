// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// TestStreamIsLive: what was written is here before the execution goes on.
func TestStreamIsLive(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]M{
		"code":    {"code": `console.log("one"); ` + untilFile("go-1") + ` console.error("two"); ` + untilFile("go-2") + ` process.stdout.write("three"); process.exit(4)`},
		"command": {"command": `echo one; until [ -e go-1 ]; do sleep 0.02; done; echo two >&2; until [ -e go-2 ]; do sleep 0.02; done; printf three; exit 4`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			stream := s.stream(body)
			equal(t, "first id", stream.wants("stdout", "one\n"), "4")
			s.write("go-1", "")
			equal(t, "second id", stream.wants("stderr", "two\n"), "8")
			s.write("go-2", "")
			equal(t, "third id", stream.wants("stdout", "three"), "13")

			last := stream.next()
			equal(t, "last", last.Name, "result")
			stream.end()
			r := decodeText[execution](t, []byte(last.Data))
			equal(t, "stdout", r.Stdout, "one\nthree")
			equal(t, "stderr", r.Stderr, "two\n")
			equal(t, "exitCode", r.ExitCode, 4)
			again := decode[execution](t, s.get("/executions/"+r.ExecutionID))
			again.State = ""
			equal(t, "result", r, again)
		})
	}
}

func TestStreamEnds(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	cases := map[string]struct {
		body M
		want execution
	}{
		"no output":  {M{"code": `1`}, execution{Reason: "exit"}},
		"exit":       {M{"code": `process.exit(3)`}, execution{ExitCode: 3, Reason: "exit"}},
		"signal":     {M{"code": `process.kill(process.pid, "SIGKILL"); await Bun.sleep(20_000)`}, execution{ExitCode: 137, Reason: "signal"}},
		"timeout":    {M{"code": `await Bun.sleep(20_000)`, "timeout": 1}, execution{ExitCode: 124, Reason: "timeout", TimedOut: true}},
		"background": {M{"code": `Bun.serve({ port: 8080, fetch: () => new Response("x") })`}, execution{Background: true}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			stream := s.in(t).stream(c.body)
			got := stream.collect()
			equal(t, "last event", got.last.Name, "result")
			stream.end()
			r := decodeText[execution](t, []byte(got.last.Data))
			equal(t, "exitCode", r.ExitCode, c.want.ExitCode)
			equal(t, "timedOut", r.TimedOut, c.want.TimedOut)
			equal(t, "background", r.Background, c.want.Background)
			if !r.Background {
				equal(t, "reason", r.Reason, c.want.Reason)
			}
		})
	}
	t.Run("refused before the first byte", func(t *testing.T) {
		refusedField(t, s.in(t).post("/execute", M{"code": 1, "stream": true}), "code")
		unknown := &session{t: t, ctx: s.ctx, api: s.api, id: "ses_unknown"}
		refusal(t, unknown.post("/execute", M{"code": "1", "stream": true}), 404, "session_not_found")
	})
}

// TestStreamCharacters: characters of several bytes stay whole however the
// output is cut into events.
func TestStreamCharacters(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	want := strings.Repeat("añ€😀", 40_000)
	stream := s.stream(M{"code": `process.stdout.write("añ€😀".repeat(40_000))`})
	got := stream.collect()
	if got.stdout != want {
		t.Errorf("streamed %d bytes of %d, equal up to %d", len(got.stdout), len(want), common(got.stdout, want))
	}
	id := decodeText[execution](t, []byte(got.last.Data)).ExecutionID
	if again := s.output(id, "").stdout; again != want {
		t.Errorf("read again %d bytes of %d, equal up to %d", len(again), len(want), common(again, want))
	}

	// One character in four writes, with a pause that the reader sees.
	split := s.stream(M{"code": `
		for (const byte of Buffer.from("😀")) { await Bun.write(Bun.stdout, new Uint8Array([byte])); await Bun.sleep(20); }
		console.log();
	`})
	equal(t, "a character in pieces", split.collect().stdout, "😀\n")
}

func common(a, b string) int {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// TestStreamComments: a quiet stream says every 15 s that it lives.
func TestStreamComments(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	stream := s.stream(M{"code": untilFile("go") + `console.log("end")`, "timeout": 60})
	begin := time.Now()
	event, err := stream.Next()
	if err != nil || !event.IsComment {
		t.Fatalf("want a comment, got %+v, %v", event, err)
	}
	within(t, "time of the comment", time.Since(begin), 0, 30*time.Second)
	s.write("go", "")
	equal(t, "stdout", stream.collect().stdout, "end\n")
}

// TestClientGoesAway: the execution goes on, and its output can be had by its
// id, also while it runs.
func TestClientGoesAway(t *testing.T) {
	t.Parallel()
	const body = `console.log("one"); await Bun.write("running", ""); ` + "%s" + ` console.log("two"); await Bun.write("done", "done")`
	for _, streaming := range []bool{false, true} {
		t.Run(fmt.Sprint("streaming ", streaming), func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			ctx, goAway := context.WithCancel(s.ctx)
			defer goAway()
			gone := make(chan error, 1)
			go func() {
				res, err := s.api.Open(ctx, client.Call{
					Method: "POST", Path: "/execute",
					JSON: s.body(M{"code": fmt.Sprintf(body, untilFile("go")), "stream": streaming}),
				})
				if err == nil {
					_, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				gone <- err
			}()
			s.waitFor("running")
			running := s.processes()
			equal(t, "processes", len(running), 1)
			id := running[0].ExecutionID
			goAway()
			if err := <-gone; err == nil {
				t.Fatal("the client got its answer before it went away")
			}

			live := s.outputEvents(id, "")
			live.wants("stdout", "one\n")
			equal(t, "state", decode[execution](t, s.get("/executions/"+id)).State, "running")
			s.write("go", "")
			equal(t, "the rest", live.collect().stdout, "two\n")
			equal(t, "what it did", s.read("done"), "done")
			equal(t, "all of it", s.output(id, "").stdout, "one\ntwo\n")
			r := decode[execution](t, s.get("/executions/"+id))
			equal(t, "state", r.State, "exited")
			equal(t, "exitCode", r.ExitCode, 0)
		})
	}
}

// TestOutputFromAnyOffset: with the id of the last event seen, every further
// byte comes once.
func TestOutputFromAnyOffset(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	r := s.code(`process.stdout.write("0123456789")`)
	equal(t, "stdout", r.Stdout, "0123456789")
	for offset := range 11 {
		got := s.output(r.ExecutionID, strconv.Itoa(offset))
		equal(t, fmt.Sprint("after ", offset), got.stdout, "0123456789"[offset:])
	}

	both := s.code(`
		for (let i = 0; i < 500; i++) {
			await Bun.write(Bun.stdout, "o".repeat(i) + "\n");
			await Bun.write(Bun.stderr, "e".repeat(i) + "\n");
		}
	`)
	whole := s.output(both.ExecutionID, "")
	equal(t, "stdout", whole.stdout, both.Stdout)
	equal(t, "stderr", whole.stderr, both.Stderr)
	if len(whole.ids) < 3 {
		t.Fatalf("the output came in %d events", len(whole.ids))
	}
	for i, id := range whole.ids[1:] {
		if id <= whole.ids[i] {
			t.Fatalf("ids do not rise: %d after %d", id, whole.ids[i])
		}
	}
	equal(t, "last id", whole.ids[len(whole.ids)-1], int64(len(both.Stdout)+len(both.Stderr)))
	// Stop after some event, come back with its id.
	for _, stop := range []int{1, len(whole.ids) / 2, len(whole.ids) - 1} {
		cut := s.outputEvents(both.ExecutionID, "")
		var stdout, stderr, last string
		for range stop {
			event := cut.next()
			last = event.ID
			if event.Name == "stdout" {
				stdout += cut.piece(event)
			} else {
				stderr += cut.piece(event)
			}
		}
		cut.Close()
		rest := s.output(both.ExecutionID, last)
		equal(t, fmt.Sprint("stdout, cut after event ", stop), stdout+rest.stdout, both.Stdout)
		equal(t, fmt.Sprint("stderr, cut after event ", stop), stderr+rest.stderr, both.Stderr)
	}

	t.Run("no offset", func(t *testing.T) {
		for _, id := range []string{"x", "-1", "1.5"} {
			reply := send(t, s.ctx, s.api, client.Call{
				Method: "GET", Path: "/executions/" + r.ExecutionID + "/output", Query: s.query(nil),
				Header: map[string]string{"Last-Event-ID": id},
			})
			refusal(t, reply, 400, "invalid_request")
		}
	})
}

// TestOutputOfBackground: a server's output goes on after the answer.
func TestOutputOfBackground(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	server := s.background(`
		console.log("listening");
		Bun.serve({ port: 8080, fetch(r) { console.log("asked", new URL(r.url).pathname); return new Response("ok") } });
	`)
	equal(t, "stdout of the answer", server.Stdout, "listening\n")
	live := s.outputEvents(server.ExecutionID, "")
	live.wants("stdout", "listening\n")
	s.fetch("/one")
	live.wants("stdout", "asked /one\n")
	s.fetch("/two")
	live.wants("stdout", "asked /two\n")
	r := decode[execution](t, s.get("/executions/"+server.ExecutionID))
	equal(t, "state", r.State, "background")
	equal(t, "stdout", r.Stdout, "listening\nasked /one\nasked /two\n")
	s.kill(M{"pid": server.PID})
	equal(t, "the rest", live.collect().stdout, "")
	eventually(t, s.ctx, "state exited", 5*time.Second, func() (bool, string) {
		r := decode[execution](t, s.get("/executions/"+server.ExecutionID))
		return r.State == "exited" && r.Reason == "killed", brief(r)
	})
}

// TestResultJSON: the result event is one line of the same JSON.
func TestResultJSON(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	got := s.stream(M{"code": `console.log("a\r\nb\n\ndata: c")`}).collect()
	equal(t, "stdout", got.stdout, "a\r\nb\n\ndata: c\n")
	if strings.Contains(got.last.Data, "\n") || !json.Valid([]byte(got.last.Data)) {
		t.Errorf("result is %q", got.last.Data)
	}
	keys(t, "result", json.RawMessage(got.last.Data), []string{
		"stdout", "stderr", "exitCode", "executionTime", "memoryUsed", "cpuTime", "timedOut", "filesWritten",
		"executionId", "pid", "background", "reason", "truncated",
	}, nil)
}

// TestExecutionIDIsInTheHead: who loses the connection can come back.
func TestExecutionIDIsInTheHead(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	reply := s.post("/execute", M{"code": "1"})
	equal(t, "X-Execution-Id", reply.Header.Get("X-Execution-Id"), decode[execution](t, reply).ExecutionID)

	stream := s.stream(M{"code": `console.log("a"); ` + untilFile("go")})
	stream.wants("stdout", "a\n")
	id := stream.Header.Get("X-Execution-Id")
	equal(t, "state", decode[execution](t, s.get("/executions/"+id)).State, "running")
	s.write("go", "")
}

// TestOutputUntilTheAnswer: of a server, the output that is read again ends as
// the stream of its execute would have.
func TestOutputUntilTheAnswer(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	first := s.stream(M{"code": `
		console.log("one");
		` + untilFile("go") + `
		Bun.serve({ port: 8080, fetch: () => new Response("x") });
		console.log("two");
	`})
	first.wants("stdout", "one\n")
	id := first.Header.Get("X-Execution-Id")
	first.Close()
	again := s.events(client.Call{
		Method: "GET", Path: "/executions/" + id + "/output", Query: s.query([]string{"until", "answer"}),
		Header: map[string]string{"Last-Event-ID": "4"},
	})
	s.write("go", "")
	got := again.collect()
	equal(t, "the rest", got.stdout, "two\n")
	equal(t, "last event", got.last.Name, "result")
	again.end()
	equal(t, "background", decodeText[execution](t, []byte(got.last.Data)).Background, true)
	refusedField(t, s.get("/executions/"+id+"/output", "until", "noon"), "until")
}
