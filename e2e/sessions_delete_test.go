// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// path is the session's own URL path, whatever its id is made of.
func (s *session) path() string { return "/sessions/" + url.PathEscape(s.id) }

func (s *session) drop() *client.Reply {
	s.t.Helper()
	return send(s.t, s.ctx, s.api, client.Call{Method: "DELETE", Path: s.path()})
}

// goneEverywhere calls every endpoint that takes a session's id and wants 404
// session_not_found from each.
func goneEverywhere(s *session, executionID string) {
	t := s.t
	t.Helper()
	for what, reply := range map[string]*client.Reply{
		"info":              send(t, s.ctx, s.api, client.Call{Method: "GET", Path: s.path()}),
		"delete":            s.drop(),
		"execute code":      s.post("/execute", M{"code": "1"}),
		"execute command":   s.post("/execute", M{"command": "true"}),
		"execute streaming": s.post("/execute", M{"code": "1", "stream": true}),
		"kill":              s.post("/execution/kill", M{}),
		"processes":         s.get("/processes"),
		"list files":        s.get("/files/list"),
		"write file":        s.post("/files/write", M{"path": "a", "content": "a"}),
		"read file":         s.get("/files/read", "path", "secret.txt"),
		"delete file":       s.del("/files", "path", "secret.txt"),
		"execution":         s.get("/executions/" + executionID),
		"output":            s.get("/executions/" + executionID + "/output"),
		"extend":            send(t, s.ctx, s.api, client.Call{Method: "POST", Path: s.path() + "/extend", JSON: M{"ttl": 600}}),
		"sleep":             s.sleep(M{"state": "deep-sleep"}),
		"pack":              s.get("/files/archive"),
		"unpack": send(t, s.ctx, s.api, client.Call{
			Method: "PUT", Path: "/files/archive", Query: url.Values{"sessionId": {s.id}}, Header: map[string]string{"Content-Type": "application/x-tar"}, Body: strings.NewReader("x"),
		}),
	} {
		t.Run(what, func(t *testing.T) { refusal(t, reply, 404, "session_not_found") })
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("secret.txt", "secret")
	run := s.code(`console.log("once")`)
	s.background(`Bun.serve({ port: 8080, fetch: () => new Response("server") })`)
	page := s.fetch("/")
	equal(t, "preview before", string(page.Body), "server")

	reply := s.drop()
	keys(t, "answer", reply.Body, []string{"deleted", "sessionId"}, nil)
	got := decode[struct {
		Deleted   bool   `json:"deleted"`
		SessionID string `json:"sessionId"`
	}](t, reply)
	equal(t, "deleted", got.Deleted, true)
	equal(t, "sessionId", got.SessionID, s.id)

	t.Run("preview", func(t *testing.T) { status(t, s.in(t).fetch("/"), 404) })
	goneEverywhere(s, run.ExecutionID)
	t.Run("list", func(t *testing.T) {
		for _, other := range listSessions(t, s.ctx, s.api).Sessions {
			if other.SessionID == s.id {
				t.Errorf("the list still has %s", s.id)
			}
		}
	})
	t.Run("Nomad", func(t *testing.T) {
		eventually(t, s.ctx, "no job of the session in Nomad", 30*time.Second, func() (bool, string) {
			said := string(fetchURL(t, s.ctx, system.nomad+"/v1/jobs?prefix="+s.host()).Body)
			return !strings.Contains(said, s.host()), said
		})
	})
}

// TestDeleteWhileRunning: an execution does not hold up a delete, and its
// caller hears of it.
func TestDeleteWhileRunning(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	events := s.stream(M{"code": `console.log("running"); await Bun.sleep(25_000)`})
	events.wants("stdout", "running\n")
	reply := s.drop()
	status(t, reply, 200)
	within(t, "time of the delete", reply.Took, 0, 10*time.Second)
	refusal(t, s.infoReply(), 404, "session_not_found")
	for {
		event, err := events.Next()
		if err != nil {
			break // ended, in whatever way
		}
		if event.Name == "result" && strings.Contains(event.Data, `"exitCode":0`) {
			t.Errorf("the execution ended well: %s", event.Data)
		}
	}
	if s.ctx.Err() != nil {
		t.Error("the stream of the execution did not end")
	}
}
