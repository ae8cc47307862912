// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

func (s *session) sleep(body M) *client.Reply {
	s.t.Helper()
	return send(s.t, s.ctx, s.api, client.Call{Method: http.MethodPost, Path: s.path() + "/sleep", JSON: body})
}

// TestIdleOnRequest: a session at rest looks as it is, and wakes at once.
func TestIdleOnRequest(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(`let n = 0; setInterval(() => n++, 10); Bun.serve({ port: 8080, fetch: () => new Response(String(n)) })`)
	for _, wake := range []func(){
		func() { s.fetch("/") },
		func() { s.print(`1`) },
		func() { s.processes() },
	} {
		r := s.sleep(M{"state": "idle"})
		status(t, r, http.StatusOK)
		equal(t, "answer", strings.TrimSpace(string(r.Body)), fmt.Sprintf(`{"sessionId":%q,"state":"idle"}`, s.id))
		equal(t, "state", s.info().State, "idle")
		equal(t, "state, looked at again", s.info().State, "idle")
		wake()
		equal(t, "state after use", s.info().State, "active")
	}
}

// TestDeepSleep: nothing of the session runs, its files are in the store, and any
// request brings it back with all of them.
func TestDeepSleep(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.shell(`mkdir -p deep/er && echo kept >deep/er/file && chmod 640 deep/er/file && ln -s deep/er/file link && truncate -s 20M sparse`)
	s.write("node_modules/answers/index.js", `export const answer = 42`) // as bun add would, which needs the net
	s.print(`const { answer } = await import("answers"); await Bun.write("number.txt", String(answer))`)
	s.background(`Bun.serve({ port: 8080, fetch: () => new Response("x") })`)
	files := s.info().FilesCount
	wakes := map[string]func(){
		"execute": func() { s.print(`1`) },
		"preview": func() { s.fetchPort(9, "/") },
		"files":   func() { s.read("number.txt") },
		"many at once": func() {
			var all sync.WaitGroup
			for i := range 8 {
				all.Go(func() {
					r := s.code(fmt.Sprintf(`console.log(%d)`, i))
					equal(t, "stdout", r.Stdout, fmt.Sprintln(i))
				})
			}
			all.Wait()
		},
	}
	for name, wake := range wakes {
		status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)
		i := s.info()
		equal(t, "state", i.State, "deep-sleep")
		equal(t, "files", i.FilesCount, files)
		equal(t, "active processes", i.ActiveProcesses, 0)
		equal(t, "killed", s.kill(M{}).Killed, 0)
		equal(t, "state after kill", s.info().State, "deep-sleep")
		wake()
		equal(t, "state after "+name, s.info().State, "active")
		r := s.execute(M{"command": `cat link; stat -c '%a %U' deep/er/file; cat number.txt; stat -c '%s %b' sparse`})
		equal(t, "files after "+name, r.Stdout, "kept\n640 bun\n4220971520 0\n")
	}
	equal(t, "package that was installed before", s.print(`const { answer } = await import("answers"); console.log(answer)`), "42\n")
}

// TestPreviewDuringSleep: whoever visits while the session goes to sleep is served
// all the same, by the life before or by the next.
func TestPreviewDuringSleep(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for round := range 5 {
		s.background(`Bun.serve({ port: 8080, fetch: () => new Response("x") })`)
		stop := make(chan struct{})
		var visits sync.WaitGroup
		for range 3 {
			visits.Go(func() {
				for n := 0; ; n++ {
					r := s.fetch("/")
					// A server does not live through deep sleep: then nothing listens.
					if r.Status != http.StatusOK && r.Status != http.StatusBadGateway {
						t.Errorf("round %d, visit %d: status %d %s", round, n, r.Status, r.Body)
						return
					}
					select {
					case <-stop:
						return
					default:
					}
				}
			})
		}
		if r := s.sleep(M{"state": "deep-sleep", "force": true}); r.Status != http.StatusOK {
			t.Errorf("sleep: %d %s", r.Status, r.Body)
		}
		close(stop)
		visits.Wait()
	}
}

// TestSleepRefused: input that is wrong, and a session that is in use.
func TestSleepRefused(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for _, body := range []M{{}, {"state": "active"}, {"state": 1}, {"state": "idle", "force": "yes"}} {
		status(t, s.sleep(body), http.StatusBadRequest)
	}
	started := make(chan struct{})
	var run sync.WaitGroup
	run.Go(func() {
		close(started)
		r := s.execute(M{"code": `console.log("begun"); await Bun.write("begun", ""); await Bun.sleep(60_000)`})
		equal(t, "reason", r.Reason, "interrupted")
		equal(t, "stdout", r.Stdout, "begun\n")
	})
	<-started
	eventually(t, s.ctx, "the execution runs", 20*time.Second, func() (bool, string) {
		l := s.get("/files/read", "path", "begun")
		return l.Status == http.StatusOK, string(l.Body)
	})
	r := s.sleep(M{"state": "deep-sleep"})
	status(t, r, http.StatusConflict)
	contains(t, "body", string(r.Body), "session_busy")
	status(t, s.sleep(M{"state": "deep-sleep", "force": true}), http.StatusOK)
	run.Wait()
	s.read("begun")
}

// TestDeletedWhileAsleep: nothing is left of it, in the store either.
func TestDeletedWhileAsleep(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("file", "secret")
	status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	stored := func() bool {
		if system.stack == nil {
			return false
		}
		entries, err := os.ReadDir(filepath.Join(system.stack.Dir, "store"))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if e.Name() == s.id {
				return true
			}
		}
		return false
	}
	if system.stack != nil && !stored() {
		t.Error("the store has nothing of a sleeping session")
	}
	status(t, send(t, s.ctx, s.api, client.Call{Method: http.MethodDelete, Path: "/sessions/" + s.id}), http.StatusOK)
	status(t, s.get("/files/list"), http.StatusNotFound)
	if stored() {
		t.Error("the store has something of a deleted session")
	}
}
