// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// wakeSlack is what a wake may take on a busy machine once it is known that it has to
// be one.
const wakeSlack = 10 * time.Second

// back executes until it is done, through all front-ends in turn, and says how long
// that took since begin. On the way are refusals with 503 or 408.
func (c *cluster) back(t *testing.T, s *session, begin time.Time, most time.Duration) {
	t.Helper()
	n := 0
	eventually(t, c.ctx, "the session answers", most, func() (bool, string) {
		n++
		at := s.through(c.apis[n%len(c.apis)])
		reply := send(t, c.ctx, at.api, client.Call{Method: "POST", Path: "/execute", JSON: s.body(M{"command": "echo back", "timeout": 1})})
		if reply.Status == http.StatusRequestTimeout {
			return false, string(reply.Body)
		}
		said := unready(t, reply)
		return said == "", said
	})
	took := time.Since(begin)
	t.Logf("executes again after %v and %d requests", took.Round(10*time.Millisecond), n)
	if took > most {
		t.Errorf("that is more than %v", most)
	}
}

// checkpointed waits until all of the session is in the store, and returns the
// moment that this is of.
func checkpointed(t *testing.T, s *session) string {
	t.Helper()
	last := ""
	eventually(t, s.ctx, "a checkpoint", 20*time.Second, func() (bool, string) {
		i := s.info()
		last = i.Durability.LastCheckpoint
		return last != "" && !i.Durability.Dirty, brief(i)
	})
	return last
}

// nodeLost: a machine dies. What was in the store lives on elsewhere, and what was
// not is known to be lost.
func (c *cluster) nodeLost(t *testing.T) {
	dies, stays := c.Clients[0], c.Clients[1]
	asleep, awake := c.createOn(t, dies), c.createOn(t, dies)
	asleep.write("file", "slept")
	status(t, asleep.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	awake.write("file", "kept")
	last := checkpointed(t, awake)
	running := awake.begin(M{"timeout": 60, "code": `await Bun.write("late", ""); await Bun.sleep(60_000)`})
	awake.waitFor("late")

	begin := time.Now()
	if err := dies.Kill(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.back(t, awake, begin, lostAfter+wakeSlack)
	if a := <-running.answer; a.err == nil && a.reply.Status == http.StatusOK {
		t.Errorf("who waited for an execution on the node that died was told: %s", a.reply.Body)
	}
	equal(t, "node now", c.life(t, awake).node, stays.Name)
	equal(t, "file", awake.read("file"), "kept")
	i := awake.info()
	equal(t, "lost", i.Durability.Lost, true)
	if at := instant(t, "lastCheckpoint", i.Durability.LastCheckpoint); at.Before(instant(t, "lastCheckpoint before", last)) {
		t.Errorf("last checkpoint %v, before the node died %v", at, last)
	}
	equal(t, "file of the one that slept", asleep.read("file"), "slept")
	equal(t, "its node now", c.life(t, asleep).node, stays.Name)
	equal(t, "lost", asleep.info().Durability.Lost, false)

	if err := dies.Restart(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.clean(t, dies)
	equal(t, "file", awake.read("file"), "kept")
	equal(t, "a session on the node that is back", c.createOn(t, dies).print(`console.log("works")`), "works\n")
}

// lateNode: a node is not heard of for a while, and then goes on where it was. What
// it has of sessions that live elsewhere meanwhile does not count.
func (c *cluster) lateNode(t *testing.T) {
	late, other := c.Clients[0], c.Clients[1]
	idle, busy := c.createOn(t, late), c.createOn(t, late)
	for _, s := range []*session{idle, busy} {
		s.write("file", "old")
		checkpointed(t, s)
	}
	running := busy.begin(M{"timeout": 300, "code": `for (let n = 0; ; n++) { await Bun.write("file", "late " + n); await Bun.sleep(20); }`})
	eventually(t, c.ctx, "the session is being written", 20*time.Second, func() (bool, string) {
		text := busy.read("file")
		return strings.HasPrefix(text, "late"), text
	})
	if err := late.Pause(c.ctx); err != nil {
		t.Fatal(err)
	}
	defer late.Resume()
	begin := time.Now()
	// The answer to a request that it has taken is awaited first.
	for _, s := range []*session{idle, busy} {
		c.back(t, s, begin, 2*(lostAfter+wakeSlack))
		equal(t, "node now", c.life(t, s).node, other.Name)
		s.write("file", "new")
	}
	if left, err := late.Leftovers(c.ctx); err != nil || !strings.Contains(strings.Join(left, "\n"), "process") {
		t.Errorf("the sandboxes of the late node do not run any more, so it proves nothing: %q, %v", left, err)
	}
	if err := late.Resume(); err != nil {
		t.Fatal(err)
	}
	c.clean(t, late)
	<-running.answer // whatever it is
	for _, s := range []*session{idle, busy} {
		equal(t, "file", s.read("file"), "new")
		before := c.life(t, s).epoch // it may have slept by itself meanwhile
		status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)
		equal(t, "file after a sleep", s.read("file"), "new")
		equal(t, "life", c.life(t, s).epoch, before+1)
	}
	equal(t, "a session on the node that is back", c.createOn(t, late).print(`console.log("works")`), "works\n")
}

// agentStands: a session that is deleted is gone at once at every front-end, and what ran
// in it ends, although its node's Nomad agent hears of nothing.
func (c *cluster) agentStands(t *testing.T) {
	node := c.Clients[0]
	s := c.createOn(t, node)
	s.write("file", "deleted")
	s.background(tokenServer)
	other := s.through(c.apis[1])
	page := "http://" + s.host() + "." + c.Frontends[1].PreviewDomain
	status(t, other.visit("GET", page, nil, nil), http.StatusOK)
	if err := node.Agent.Pause(c.ctx); err != nil {
		t.Fatal(err)
	}
	defer node.Agent.Resume()
	equal(t, "file, at another front-end", other.read("file"), "deleted") // which knows where it is
	status(t, s.drop(), http.StatusOK)
	refusal(t, other.get("/files/read", "path", "file"), http.StatusNotFound, "session_not_found")
	refusal(t, other.post("/execute", M{"command": "cat file"}), http.StatusNotFound, "session_not_found")
	status(t, other.visit("GET", page, nil, nil), http.StatusNotFound)
	eventually(t, c.ctx, "nothing of it runs", 10*time.Second, func() (bool, string) {
		left, err := node.Leftovers(c.ctx)
		left = slices.DeleteFunc(left, func(what string) bool { return !strings.Contains(what, "process") })
		return err == nil && len(left) == 0, fmt.Sprint(left, err)
	})
	if err := node.Agent.Resume(); err != nil {
		t.Fatal(err)
	}
	c.clean(t, node)
}
