// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// TestSnippets: the snippets of the users' document on sessions, section by
// section, with what it says of them.
func TestSnippets(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 2*time.Minute)
	create := func(t *testing.T, body M) *session { return createSession(t, ctx, paid(), body) }
	remove := func(s *session) {
		s.t.Helper()
		status(s.t, s.drop(), 200)
		refusal(s.t, s.infoReply(), 404, "session_not_found")
	}

	t.Run("What is a Session", func(t *testing.T) {
		s := create(t, nil)
		if !regexp.MustCompile(`^ses_[A-Za-z0-9]{18,20}$`).MatchString(s.id) {
			t.Errorf("session.id is %q", s.id)
		}
		equal(t, "exitCode", s.code(`1; // ...`).ExitCode, 0)
		equal(t, "exitCode", s.code(`2; // ...`).ExitCode, 0)
	})
	t.Run("Creation", func(t *testing.T) {
		s := create(t, M{"ttl": 3600, "metadata": M{"userId": "user_123", "purpose": "data-analysis"}})
		equal(t, "ttl", instant(t, "expiresAt", s.ExpiresAt).Sub(instant(t, "createdAt", s.CreatedAt)), time.Hour)
		equal(t, "an empty /workspace", s.list(), []file{})
		equal(t, "metadata", sameJSON(t, string(s.info().Metadata), `{"userId":"user_123","purpose":"data-analysis"}`), true)
	})
	t.Run("Time-to-Live", func(t *testing.T) {
		s := create(t, M{"ttl": 3600})
		equal(t, "ttl", instant(t, "expiresAt", s.ExpiresAt).Sub(instant(t, "createdAt", s.CreatedAt)), time.Hour)
		s = create(t, nil)
		equal(t, "default", instant(t, "expiresAt", s.ExpiresAt).Sub(instant(t, "createdAt", s.CreatedAt)), 86400*time.Second)
	})
	t.Run("Metadata", func(t *testing.T) {
		s := create(t, M{"metadata": M{"userId": "user_123", "conversationId": "conv_456", "environment": "production", "createdBy": "ai-agent"}})
		equal(t, "metadata", sameJSON(t, string(s.info().Metadata),
			`{"userId":"user_123","conversationId":"conv_456","environment":"production","createdBy":"ai-agent"}`), true)
	})
	t.Run("Workspace Directory", func(t *testing.T) {
		s := create(t, nil)
		equal(t, "stdout", s.print(`
    console.log(process.cwd()); // "/workspace"
    
    // Write a file
    await Bun.write('data.txt', 'Hello World');
    
    // File persists for next execution
  `), "/workspace\n")
		equal(t, "stdout", s.print(`
    // File still exists
    const data = await Bun.file('data.txt').text();
    console.log(data); // "Hello World"
  `), "Hello World\n")
	})
	t.Run("Background Processes", func(t *testing.T) {
		s := create(t, nil)
		r := s.code(`
    Bun.serve({
      port: 8080,
      fetch() {
        return new Response('Server running!');
      }
    });
  `)
		equal(t, "exitCode", r.ExitCode, 0)
		equal(t, "preview", string(s.visit("GET", s.PreviewURL, nil, nil).Body), "Server running!")
		s.print(`1`)
		equal(t, "preview after another execution", string(s.visit("GET", s.PreviewURL, nil, nil).Body), "Server running!")
	})
	t.Run("Stopping Processes", func(t *testing.T) {
		s := create(t, nil)
		r := s.background(tokenServer)
		status(t, s.post("/execution/kill", M{"pid": 1234}), 200)
		status(t, s.post("/execution/kill", M{"pid": r.PID}), 200)
		s.gone(r.PID)
	})
	t.Run("One Session Per Conversation", func(t *testing.T) {
		sessions := map[string]*session{}
		get := func(conversation string) *session {
			if sessions[conversation] == nil {
				sessions[conversation] = create(t, M{"ttl": 3600, "metadata": M{"conversationId": conversation}})
			}
			return sessions[conversation]
		}
		get("one").write("said.txt", "hello from one")
		get("two").write("said.txt", "hello from two")
		equal(t, "one", get("one").print(`console.log(await Bun.file("said.txt").text())`), "hello from one\n")
		equal(t, "two", get("two").print(`console.log(await Bun.file("said.txt").text())`), "hello from two\n")
		remove(get("one"))
		equal(t, "two after the end of one", get("two").read("said.txt"), "hello from two")
		remove(get("two"))
	})
	t.Run("One Session Per Task", func(t *testing.T) {
		task := func(code string) execution {
			s := create(t, M{"ttl": 600})
			defer remove(s)
			return s.code(code)
		}
		equal(t, "a task", task(`console.log(6 * 7)`).Stdout, "42\n")
		equal(t, "a task that fails", task(`throw new Error("failed")`).ExitCode, 1)
	})
	t.Run("Session Pool", func(t *testing.T) {
		var pool []*session
		get := func() *session {
			if len(pool) == 0 {
				return create(t, nil)
			}
			s := pool[len(pool)-1]
			pool = pool[:len(pool)-1]
			return s
		}
		first := get()
		first.print(`await Bun.write("used", "")`)
		pool = append(pool, first)
		again := get()
		equal(t, "the session from the pool", again.id, first.id)
		equal(t, "its file", again.read("used"), "")
		pool = append(pool, again, get())
		for _, s := range pool {
			remove(s)
		}
	})
	t.Run("Best Practices", func(t *testing.T) {
		equal(t, "task", create(t, M{"ttl": 600}).CreatedAt != "", true)
		equal(t, "conversation", create(t, M{"ttl": 86400}).CreatedAt != "", true)
		s := create(t, M{"metadata": M{"userId": "u", "source": "web-app", "version": "1.0.0"}})
		remove(s)
		user := create(t, M{"metadata": M{"userId": "user"}})
		other := create(t, M{"metadata": M{"userId": "other"}})
		user.write("own.txt", "the user's")
		refusal(t, other.get("/files/read", "path", "own.txt"), 404, "file_not_found")
	})
	t.Run("Get Session Info", func(t *testing.T) {
		s := create(t, nil)
		s.write("a.txt", "a")
		i := s.info()
		instant(t, "createdAt", i.CreatedAt)
		instant(t, "lastActive", i.LastActive)
		instant(t, "expiresAt", i.ExpiresAt)
		equal(t, "filesCount", i.FilesCount, 1)
		equal(t, "activeProcesses", i.ActiveProcesses, 0)
		equal(t, "state", i.State, "active")
	})
	t.Run("List Your Sessions", func(t *testing.T) {
		s := create(t, nil)
		ids := listSessions(t, ctx, s.api, "limit", "50", "offset", "0").ids()
		if !slices.Contains(ids, s.id) {
			t.Errorf("%s is not among the newest 50: %v", s.id, ids)
		}
	})
	t.Run("Session Not Found", func(t *testing.T) {
		s := create(t, nil)
		remove(s)
		unknown := &session{t: t, ctx: ctx, api: paid(), id: "ses_abc123def456ghi789"}
		refusal(t, unknown.infoReply(), 404, "session_not_found")
		refusal(t, s.post("/execute", M{"code": "..."}), 404, "session_not_found")
	})
}

// TestSessionLimit: the eleventh session of the free plan is refused until one
// of the ten is deleted. It runs alone, as others use that account too.
func TestSessionLimit(t *testing.T) {
	ctx := deadline(t, 2*time.Minute)
	equal(t, "sessions before", listSessions(t, ctx, free()).ids(), []string{})
	var all []*session
	for range 10 {
		all = append(all, createSession(t, ctx, free(), nil))
	}
	eleventh := client.Call{Method: "POST", Path: "/sessions/create"}
	reply := send(t, ctx, free(), eleventh)
	dropIfMade(t, free(), reply)
	refusal(t, reply, 429, "session_limit_exceeded")
	equal(t, "Retry-After", reply.Header.Get("Retry-After"), "")
	equal(t, "a session of another account", createSession(t, ctx, paid(), nil).id != "", true)
	status(t, all[3].drop(), 200)
	createSession(t, ctx, free(), nil)
}
