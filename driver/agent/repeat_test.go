// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
)

// events returns what GET on a path streams.
func (f *fixture) events(t testing.TB, path string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.task.API+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+claim.Token([]byte(testSecret), f.task.Session.ID, f.task.Session.Epoch))
	res, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestRepeatedExecute: what is sent many times under one id runs once, and each is
// told the same.
func TestRepeatedExecute(t *testing.T) {
	f := newFixture(t)
	req := map[string]any{
		"executionId": "exec_same", "command": "echo run >>ran; sleep 0.3; wc -l <ran",
		"files": []map[string]string{{"path": "ran", "content": ""}},
	}
	var all sync.WaitGroup
	answers := make([]Result, 8)
	for i := range answers {
		all.Go(func() {
			if i%2 == 0 {
				f.call(t, "POST", "/v1/execute", req, &answers[i])
				return
			}
			for f.call(t, "GET", "/v1/executions/exec_same/answer", nil, &answers[i]) == http.StatusNotFound {
				time.Sleep(time.Millisecond) // not sent yet
			}
		})
	}
	all.Wait()
	for _, r := range answers {
		if r.Stdout != "1\n" || r.ExecutionID != "exec_same" || r.State != "" {
			t.Errorf("%+v", r)
		}
	}
	if status := f.call(t, "GET", "/v1/executions/exec_other/answer", nil, nil); status != http.StatusNotFound {
		t.Errorf("an execution that never was: status %d", status)
	}
	if got := f.events(t, "/v1/executions/exec_other/answer/output"); !strings.Contains(got, "execution_not_found") {
		t.Errorf("its output: %s", got)
	}
}

// displace executes until an execution that ends is no longer in memory: it may end after
// some of those that come later.
func (f *fixture) displace(t *testing.T, id string) {
	t.Helper()
	for range 3 * keepEnded {
		f.run(t, map[string]any{"command": "true"})
		if _, ok := f.instance.(*instance).session.find(id); !ok {
			return
		}
	}
	t.Fatalf("%s is in memory after %d more", id, 3*keepEnded)
}

// TestAnswerStays: a server's caller was told what it had printed by then, and who
// asks again is told the same: later, after a restart, and when it is over.
func TestAnswerStays(t *testing.T) {
	f := newFixture(t)
	first := f.run(t, map[string]any{"code": `
		console.log("begin");
		Bun.serve({port: 8080, fetch: () => new Response("x")});
		setInterval(() => console.log("more"), 20);
	`})
	if !first.Background || !strings.HasPrefix(first.Stdout, "begin\n") {
		t.Fatalf("%+v", first)
	}
	same := func(when string) {
		t.Helper()
		var again Result
		if status := f.call(t, "GET", "/v1/executions/"+first.ExecutionID+"/answer", nil, &again); status != 200 {
			t.Fatalf("%s: status %d", when, status)
		}
		if again.Stdout != first.Stdout || !again.Background || again.ExitCode != 0 || again.State != "" || again.Reason != "" {
			t.Errorf("%s: got %+v, want %+v", when, again, first)
		}
		if got := f.events(t, "/v1/executions/"+first.ExecutionID+"/answer/output"); !strings.HasPrefix(got, "event: stdout\n") ||
			!strings.Contains(got, "begin") || !strings.Contains(got, `"background":true`) {
			t.Errorf("%s: output %s", when, got)
		}
	}
	time.Sleep(100 * time.Millisecond) // it prints
	same("later")
	f.restart(t)
	same("after a restart")
	f.call(t, "POST", "/v1/kill", map[string]any{}, nil)
	f.displace(t, first.ExecutionID)
	same("when it is over")
	var found Result
	f.call(t, "GET", "/v1/executions/"+first.ExecutionID, nil, &found)
	if found.Reason != reasonKilled || found.State != stateExited {
		t.Errorf("what became of it: %+v", found)
	}
}

// TestOutOfMemoryFromJournal: an execution that ran out of memory ends the same way
// for who asks for it later.
func TestOutOfMemoryFromJournal(t *testing.T) {
	f := newFixture(t)
	f.call(t, "POST", "/v1/execute", map[string]any{
		"executionId": "exec_memory", "timeout": 120,
		"code": "console.log('begin'); const kept = []; for (;;) kept.push(new Uint8Array(8 << 20).fill(1))",
	}, nil)
	paths := []string{"/output", "/output?until=answer", "/answer/output"}
	var live []string
	for _, path := range paths {
		live = append(live, f.events(t, "/v1/executions/exec_memory"+path))
	}
	f.displace(t, "exec_memory")
	for i, path := range paths {
		past := f.events(t, "/v1/executions/exec_memory"+path)
		if !strings.Contains(past, "event: error\n") || !strings.Contains(past, "memory_limit_exceeded") || !strings.Contains(past, `"data":"begin\n"`) {
			t.Errorf("%s: %s", path, past)
		}
		if strings.Count(past, "event: ") != strings.Count(live[i], "event: ") || strings.Contains(live[i], "event: result") {
			t.Errorf("%s: from memory %s, from the journal %s", path, live[i], past)
		}
	}
	if status := f.call(t, "GET", "/v1/executions/exec_memory/answer", nil, nil); status != http.StatusInsufficientStorage {
		t.Errorf("answer: status %d", status)
	}
}

// TestReserve: who waits for another to begin may give up.
func TestReserve(t *testing.T) {
	s := new(Session)
	free, err := s.reserve(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.reserve(ctx, "a"); err == nil {
		t.Error("two have it")
	}
	other, err := s.reserve(ctx, "b")
	if err != nil {
		t.Error(err)
	} else {
		other()
	}
	free()
	if again, err := s.reserve(ctx, "a"); err != nil {
		t.Error(err)
	} else {
		again()
	}
}
