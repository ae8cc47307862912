// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/e2e/stack"
)

// TestLife goes through what needs a system with short times, and a node of its
// own that may be drained and lost.
func TestLife(t *testing.T) {
	const (
		sleepAfter = 20 * time.Second
		// leftAfter is when a session that nobody uses has left a node that drains, also if
		// it was in use when it was first told to, or its node too busy: it is told again
		// after 1 s, or 10 s.
		leftAfter = 15 * time.Second
	)
	c := startCluster(t, 6*time.Minute, stack.Options{
		IdleAfter: time.Second, SleepAfter: sleepAfter, CheckpointEvery: time.Second,
		Keys:     busyKey("life"),
		Frontend: M{"reap_interval": "1s"},
	})
	s, ctx, api := c.Stack, c.ctx, c.apis[0]
	begin := func(t *testing.T) *session { return createSession(t, ctx, api, M{}) }

	t.Run("by itself", func(t *testing.T) {
		own := begin(t)
		own.write("file", "kept")
		own.background(`Bun.serve({ port: 8080, fetch: () => new Response("x") })`)
		own.awaitState("idle")
		own.awaitState("deep-sleep")
		equal(t, "file", own.read("file"), "kept")
		equal(t, "state", own.info().State, "active")
	})
	t.Run("a drain with little time", func(t *testing.T) {
		own := begin(t)
		own.write("file", "drained")
		running := own.begin(M{"command": "touch begun; sleep 30"})
		own.waitFor("begun")
		undrain := drain(t, s, time.Second)
		equal(t, "reason", running.result().Reason, "interrupted")
		own.awaitState("deep-sleep")
		undrain()
		equal(t, "file", own.read("file"), "drained")
	})
	t.Run("a drain with time", func(t *testing.T) {
		used, unused := begin(t), begin(t)
		running := used.begin(M{"command": "touch begun; sleep 6; echo done"})
		used.waitFor("begun")
		unused.write("file", "drained")
		written := time.Now()
		undrain := drain(t, s, 5*time.Minute)
		unused.awaitState("deep-sleep")
		if took := time.Since(written); took >= leftAfter {
			t.Errorf("a session that nobody uses slept after %v", took)
		}
		done := running.result()
		ended := time.Now()
		equal(t, "reason", done.Reason, "exit")
		equal(t, "output", done.Stdout, "done\n")
		used.awaitState("deep-sleep")
		if took := time.Since(ended); took >= leftAfter {
			t.Errorf("a session slept %v after its execution", took)
		}
		undrain()
		equal(t, "file", unused.read("file"), "drained")
		equal(t, "file", used.read("begun"), "")
		if used.info().Durability.Lost || unused.info().Durability.Lost {
			t.Error("something is lost")
		}
	})
	t.Run("a session whose sandbox dies", func(t *testing.T) {
		own := begin(t)
		own.shell("echo kept >file; sync")
		eventually(t, ctx, "a checkpoint", 30*time.Second, func() (bool, string) {
			i := own.info()
			return i.Durability.LastCheckpoint != "" && !i.Durability.Dirty, brief(i)
		})
		allocs, _, err := s.Nomad.Jobs().Allocations(own.host(), false, nil)
		if err != nil || len(allocs) != 1 {
			t.Fatalf("allocations %v, %v", allocs, err)
		}
		if err := s.Nomad.Allocations().Signal(&nomad.Allocation{ID: allocs[0].ID}, nil, "session", "SIGKILL"); err != nil {
			t.Fatal(err)
		}
		equal(t, "file of the last checkpoint", own.read("file"), "kept\n")
	})
}

// drain drains the only node of a stack, and returns what undoes it.
func drain(t *testing.T, s *stack.Stack, deadline time.Duration) (undo func()) {
	t.Helper()
	nodes, _, err := s.Nomad.Nodes().List(nil)
	if err != nil || len(nodes) != 1 {
		t.Fatalf("nodes %v, %v", nodes, err)
	}
	if _, err := s.Nomad.Nodes().UpdateDrain(nodes[0].ID, &nomad.DrainSpec{Deadline: deadline}, false, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if _, err := s.Nomad.Nodes().UpdateDrain(nodes[0].ID, nil, true, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// awaitState waits until the session's info tells of a state, which it does not
// change by asking.
func (s *session) awaitState(want string) {
	s.t.Helper()
	eventually(s.t, s.ctx, "state "+want, time.Minute, func() (bool, string) {
		i := s.info()
		return i.State == want, brief(i)
	})
}
