// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

func TestInfoAnswer(t *testing.T) {
	t.Parallel()
	s := createSession(t, deadline(t, usual), paid(), M{"ttl": 600, "metadata": M{"purpose": "info"}})
	reply := s.toldReply()
	keys(t, "info", reply.Body, []string{
		"sessionId", "createdAt", "expiresAt", "lastActive", "state", "filesCount", "activeProcesses", "metadata",
		"previewUrl", "resourceLimits", "usage", "awakeBecause",
	}, []string{"nextTransition", "durability"})
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(reply.Body, &parts); err != nil {
		t.Fatal(err)
	}
	keys(t, "usage", parts["usage"], []string{"memory", "disk", "cpuTime"}, nil)

	got := decode[info](t, reply)
	equal(t, "sessionId", got.SessionID, s.id)
	equal(t, "createdAt", got.CreatedAt, s.CreatedAt)
	equal(t, "expiresAt", got.ExpiresAt, s.ExpiresAt)
	equal(t, "previewUrl", got.PreviewURL, s.PreviewURL)
	equal(t, "resourceLimits", got.ResourceLimits, s.ResourceLimits)
	equal(t, "state", got.State, "active")
	equal(t, "filesCount", got.FilesCount, 0)
	equal(t, "activeProcesses", got.ActiveProcesses, 0)
	if got.AwakeBecause == nil {
		t.Error("awakeBecause is no list")
	}
	lastActive := instant(t, "lastActive", got.LastActive)
	if lastActive.Before(instant(t, "createdAt", got.CreatedAt)) || lastActive.After(time.Now().Add(time.Second)) {
		t.Errorf("lastActive %s is not between createdAt %s and now", got.LastActive, got.CreatedAt)
	}
	if !sameJSON(t, string(got.Metadata), `{"purpose":"info"}`) {
		t.Errorf("metadata: got %s", got.Metadata)
	}
}

func TestInfoCounts(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("a.txt", "a")
	s.write("deep/er/b.txt", "b")
	s.print(`await Bun.write("deep/c.txt", "c")`)
	equal(t, "filesCount, without directories and history", s.info().FilesCount, 3)

	server := s.background(`Bun.serve({ port: 8080, fetch: () => new Response("x") })`)
	equal(t, "activeProcesses with a server", s.info().ActiveProcesses, 1)
	if s.info().Usage.CPUTime <= 0 {
		t.Error("usage.cpuTime is 0 after executions")
	}
	s.kill(M{"pid": server.PID})
	eventually(t, s.ctx, "activeProcesses is 0", 5*time.Second, func() (bool, string) {
		i := s.info()
		return i.ActiveProcesses == 0, brief(i)
	})
	status(t, s.del("/files", "path", "deep", "recursive", "true"), 200)
	equal(t, "filesCount after a delete", s.info().FilesCount, 1)
}

// TestInfoLastActive: an execution and a file operation are activity; info and
// list are not.
func TestInfoLastActive(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.print(`1`)
	last := instant(t, "lastActive", s.info().LastActive)
	for _, activity := range []struct {
		name string
		do   func()
	}{
		{"execute", func() { s.print(`1`) }},
		{"write", func() { s.write("a", "a") }},
		{"read", func() { s.read("a") }},
		{"kill", func() { s.kill(M{"pid": 999999}) }},
	} {
		nextSecond(t, s.ctx, time.Now())
		activity.do()
		now := instant(t, "lastActive", s.info().LastActive)
		if !now.After(last) {
			t.Errorf("lastActive after %s: still %v", activity.name, now)
		}
		last = now
	}
	nextSecond(t, s.ctx, time.Now())
	s.info()
	send(t, s.ctx, s.api, client.Call{Method: "GET", Path: "/sessions"})
	equal(t, "lastActive after info and list", instant(t, "lastActive", s.info().LastActive), last)
}

// TestSessionNotFound: an unknown id of any form is 404 at every endpoint, and
// so is a session of another account.
func TestSessionNotFound(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	own := newSession(t)
	own.write("secret.txt", "secret")
	run := own.execute(M{"code": `console.log("secret")`})

	t.Run("another account's", func(t *testing.T) {
		other := &session{t: t, ctx: own.ctx, api: free(), id: own.id}
		goneEverywhere(other, run.ExecutionID)
		equal(t, "the owner's file", own.in(t).read("secret.txt"), "secret")
	})
	for _, id := range []string{
		"ses_aaaaaaaaaaaaaaaaaaaa", "ses_abc123def456ghi789", "ses_", "ses", "x",
		"SES_AAAAAAAAAAAAAAAAAAAA", "ses-aaaaaaaaaaaaaaaaaaaa", "ses_*", "ses_" + strings.Repeat("a", 300), "ses_ü", "ses_\x00", "ses_a b",
	} {
		t.Run("id "+id[:min(len(id), 30)], func(t *testing.T) {
			goneEverywhere(&session{t: t, ctx: ctx, api: paid(), id: id}, run.ExecutionID)
		})
	}
	t.Run("an own session's id in capitals", func(t *testing.T) {
		goneEverywhere(&session{t: t, ctx: ctx, api: paid(), id: strings.ToUpper(own.id)}, run.ExecutionID)
	})
}
