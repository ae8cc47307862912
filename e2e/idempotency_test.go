// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// keyed is a call with an Idempotency-Key.
func keyed(path, key string, body M) client.Call {
	return client.Call{Method: "POST", Path: path, JSON: body, Header: map[string]string{"Idempotency-Key": key}}
}

// sendAll sends a call n times at once, in turn through each of the clients.
func sendAll(t *testing.T, ctx context.Context, n int, call client.Call, apis ...*client.Client) []*client.Reply {
	t.Helper()
	replies := make([]*client.Reply, n)
	var all sync.WaitGroup
	for i := range replies {
		all.Go(func() { replies[i] = send(t, ctx, apis[i%len(apis)], call) })
	}
	all.Wait()
	return replies
}

// TestRepeatedCreate: a create that arrives often makes one session.
func TestRepeatedCreate(t *testing.T) {
	t.Parallel()
	repeatedCreate(t, deadline(t, usual), enterprise())
}

func repeatedCreate(t *testing.T, ctx context.Context, apis ...*client.Client) {
	t.Helper()
	call := keyed("/sessions/create", "create-"+time.Now().Format(time.RFC3339Nano), M{"metadata": M{"key": "k"}})
	replies := sendAll(t, ctx, 8, call, apis...)
	first := decode[created](t, replies[0])
	dropLater(t, apis[0], first.SessionID)
	replies = append(replies, send(t, ctx, apis[0], call))
	for _, r := range replies {
		status(t, r, http.StatusOK)
		equal(t, "answer", string(r.Body), string(replies[0].Body))
		equal(t, "Idempotency-Key", r.Header.Get("Idempotency-Key"), call.Header["Idempotency-Key"])
	}
	other := call
	other.JSON = M{"metadata": M{"key": "other"}}
	refusal(t, send(t, ctx, apis[0], other), http.StatusConflict, "idempotency_conflict")
}

// TestRepeatedExecute: an execute that arrives often runs once, whatever becomes of
// the session meanwhile, and each is told the same.
func TestRepeatedExecute(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	repeatedExecute(t, s, s.api)
	t.Run("after deep sleep", func(t *testing.T) {
		s := s.in(t)
		call := keyed("/execute", "sleep", s.body(M{"command": "echo run >>ran-sleep; wc -l <ran-sleep"}))
		first := send(t, s.ctx, s.api, call)
		decode[execution](t, first)
		status(t, send(t, s.ctx, s.api, client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: M{"state": "deep-sleep"}}), http.StatusOK)
		equal(t, "answer", string(send(t, s.ctx, s.api, call).Body), string(first.Body))
	})
	t.Run("a server", func(t *testing.T) {
		s := s.in(t)
		call := keyed("/execute", "server", s.body(M{"code": `
			console.log("begin"); Bun.serve({ port: 8080, fetch: () => new Response("") }); setInterval(() => console.log("more"), 10);`}))
		first := send(t, s.ctx, s.api, call)
		equal(t, "background", decode[execution](t, first).Background, true)
		equal(t, "answer", string(send(t, s.ctx, s.api, call).Body), string(first.Body))
		s.kill(M{})
		equal(t, "answer after its end", string(send(t, s.ctx, s.api, call).Body), string(first.Body))
	})
	t.Run("refused before it began", func(t *testing.T) {
		s := s.in(t)
		body := s.body(M{"command": "pwd", "workingDir": "later"})
		refusedField(t, send(t, s.ctx, s.api, keyed("/execute", "later", body)), "workingDir")
		s.command("mkdir later")
		equal(t, "stdout", decode[execution](t, send(t, s.ctx, s.api, keyed("/execute", "later", body))).Stdout, "/workspace/later\n")
	})
	t.Run("the session is gone", func(t *testing.T) {
		s := createSession(t, s.in(t).ctx, enterprise(), nil)
		call := keyed("/execute", "gone", s.body(M{"command": "true"}))
		status(t, send(t, s.ctx, s.api, call), http.StatusOK)
		status(t, send(t, s.ctx, s.api, client.Call{Method: "DELETE", Path: "/sessions/" + s.id}), http.StatusOK)
		refusal(t, send(t, s.ctx, s.api, call), http.StatusNotFound, "session_not_found")
	})
}

// repeatedExecute sends executes many times at once, plain and streamed.
func repeatedExecute(t *testing.T, s *session, apis ...*client.Client) {
	t.Helper()
	for _, stream := range []bool{false, true} {
		name := map[bool]string{false: "plain", true: "stream"}[stream]
		call := keyed("/execute", name, s.body(M{"command": "echo run >>ran-" + name + "; sleep 0.3; wc -l <ran-" + name, "stream": stream}))
		replies := sendAll(t, s.ctx, 8, call, apis...)
		replies = append(replies, send(t, s.ctx, apis[0], call))
		for _, r := range replies {
			status(t, r, http.StatusOK)
			equal(t, name+": id", r.Header.Get("X-Execution-Id"), replies[0].Header.Get("X-Execution-Id"))
			if stream {
				contains(t, "events", string(r.Body), "event: stdout\nid: 2\ndata: {\"data\":\"1\\n\"}\n\nevent: result\nid: 2\n")
			} else {
				equal(t, "stdout", decode[execution](t, r).Stdout, "1\n")
				equal(t, "answer", string(r.Body), string(replies[0].Body))
			}
		}
		other := call
		other.JSON = s.body(M{"command": "true"})
		refusal(t, send(t, s.ctx, apis[0], other), http.StatusConflict, "idempotency_conflict")
	}
}

// repeats: keys are honoured across front-ends, also when the one that was asked
// first dies over it.
func (c *cluster) repeats(t *testing.T) {
	repeatedCreate(t, c.ctx, c.apis...)
	s := c.create(t)
	repeatedExecute(t, s, c.apis...)

	dying := c.Frontends[1]
	call := keyed("/execute", "dies", s.body(M{
		"timeout": 60, "code": `require("fs").appendFileSync("ran", "x"); ` + untilFile("go") + ` console.log("done")`,
	}))
	cut := make(chan error, 1)
	go func() {
		_, err := c.apis[1].Do(c.ctx, call)
		cut <- err
	}()
	s.waitFor("ran")
	if err := dying.Kill(c.ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-cut; err == nil {
		t.Error("a dead front-end has answered")
	}
	again := make(chan *client.Reply, 8)
	for range cap(again) {
		go func() {
			reply, err := c.apis[0].Do(c.ctx, call)
			if err != nil {
				reply = &client.Reply{Body: []byte(err.Error())}
			}
			again <- reply
		}()
	}
	s.write("go", "")
	for range cap(again) {
		if r := <-again; r.Status != http.StatusOK || !strings.Contains(string(r.Body), `"stdout":"done\n"`) {
			t.Errorf("%d %s", r.Status, r.Body)
		}
	}
	equal(t, "runs", s.read("ran"), "x")
	if err := dying.Restart(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.apis[1].HTTP.CloseIdleConnections()
}
