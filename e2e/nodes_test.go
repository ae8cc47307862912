// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/tracing/tracingtest"
	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// nodes is a system with two nodes, two front-ends and a Swift of its own.
type nodes struct {
	*cluster
	traces *tracingtest.Collector
}

// TestNodes goes through what one node and one front-end cannot show. What is
// taken away comes back before the next test.
func TestNodes(t *testing.T) {
	c := startNodes(t)
	t.Run("any front-end serves any session", c.anyFrontend)
	t.Run("a conversation at two front-ends", c.mcp)
	t.Run("a request is traced", c.traced)
	t.Run("a front-end dies", c.frontendDies)
	t.Run("a session wakes before its files are there", c.wakesBefore)
	t.Run("a node cannot start a sandbox", c.startsNothing)
	t.Run("requests with a key", c.repeats)
	t.Run("a node's agent stands still", c.agentStands)
	t.Run("a node is lost", c.nodeLost)
	t.Run("a node comes back late", c.lateNode)
	t.Run("drains", c.drains)
	t.Run("the store is away", c.storeAway)
	t.Run("the store is bad", c.storeBad)
	t.Run("all front-ends are away", c.frontendsAway)
}

// nodeTimes are short, so that all of it takes minutes.
const (
	nodeIdle       = time.Second
	nodeSleep      = 4 * time.Second
	nodeCheckpoint = time.Second
	nodeHeartbeat  = 2 * time.Second
	// lostAfter is when a node is taken for lost: up to two heartbeats until the
	// next is due, and the grace.
	lostAfter = 2*nodeHeartbeat + stack.HeartbeatGrace
	// cleanWithin is what nothing without an owner outlives: a minute after the
	// plugin's start, if Nomad has forgotten it, and a look at it.
	cleanWithin = 90 * time.Second
)

func startNodes(t *testing.T) *nodes {
	t.Helper()
	traces := tracingtest.Start(t)
	return &nodes{startCluster(t, 8*time.Minute, stack.Options{
		Env:     traces.Env(),
		Clients: 2, Frontends: 2, Swift: true, Heartbeat: nodeHeartbeat,
		IdleAfter: nodeIdle, SleepAfter: nodeSleep, CheckpointEvery: nodeCheckpoint,
		Keys:     busyKey("nodes"),
		Frontend: M{"reap_interval": "1s", "shutdown_timeout": "2s"},
	}), traces}
}

// create makes a session through the first front-end.
func (c *cluster) create(t *testing.T) *session {
	t.Helper()
	return createSession(t, c.ctx, c.apis[0], M{})
}

// createOn makes a session on a node.
func (c *cluster) createOn(t *testing.T, node *stack.Client) *session {
	t.Helper()
	c.only(t, node)
	defer c.only(t, c.Clients...)
	s := c.create(t)
	s.print(`1`)
	equal(t, "node of the session", c.life(t, s).node, node.Name)
	return s
}

// only has nothing new placed but on some of the nodes.
func (c *cluster) only(t *testing.T, nodes ...*stack.Client) {
	t.Helper()
	for _, n := range c.Clients {
		may := false
		for _, m := range nodes {
			may = may || m == n
		}
		if err := n.TakeNew(c.ctx, may); err != nil {
			t.Fatal(err)
		}
	}
}

// through is the same session at another front-end.
func (s *session) through(api *client.Client) *session {
	o := *s
	o.api = api
	return &o
}

// lifeOf is what Consul has of a session's life.
type lifeOf struct {
	epoch uint64
	state string
	node  string // name; empty if it is on none
}

// life reads a session's record.
func (c *cluster) life(t *testing.T, s *session) lifeOf {
	t.Helper()
	var record struct {
		Epoch uint64
		State string
		Claim struct {
			Epoch uint64
			Node  string
		}
	}
	pair, _, err := c.Consul.KV().Get("buntime/sessions/"+s.id, nil)
	if err != nil || pair == nil {
		t.Fatalf("read record of %s: %v, %v", s.id, pair, err)
	}
	if err := json.Unmarshal(pair.Value, &record); err != nil {
		t.Fatal(err)
	}
	l := lifeOf{epoch: record.Epoch, state: record.State}
	if record.Claim.Epoch != record.Epoch {
		return l
	}
	for _, n := range c.Clients {
		id, err := n.ID(c.ctx)
		if err != nil {
			t.Fatal(err)
		}
		if id == record.Claim.Node {
			l.node = n.Name
		}
	}
	return l
}

// clean waits until a node has nothing of any session.
func (c *cluster) clean(t *testing.T, node *stack.Client) {
	t.Helper()
	begin := time.Now()
	eventually(t, c.ctx, "nothing of a session on "+node.Name, cleanWithin, func() (bool, string) {
		left, err := node.Leftovers(c.ctx)
		if err != nil {
			return false, err.Error()
		}
		return len(left) == 0, strings.Join(left, "\n\t")
	})
	t.Logf("%s has nothing of a session any more after %v", node.Name, time.Since(begin).Round(10*time.Millisecond))
}

func (c *cluster) anyFrontend(t *testing.T) {
	first := c.create(t)
	second := first.through(c.apis[1])
	second.print(`await Bun.write("file", "1")`)
	for round, at := range []*session{first, second} {
		other := []*session{second, first}[round]
		status(t, at.sleep(M{"state": "deep-sleep"}), http.StatusOK)
		equal(t, "state at the other", other.info().State, "deep-sleep")
		equal(t, "file", other.read("file"), "1")
	}
	status(t, first.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	before := c.life(t, first)
	var all sync.WaitGroup
	for i := range 8 {
		s := []*session{first, second}[i%2]
		all.Go(func() {
			reply, err := s.api.Do(s.ctx, client.Call{Method: "POST", Path: "/execute", JSON: s.body(M{"command": "cat file"})})
			if err != nil || reply.Status != http.StatusOK || !strings.Contains(string(reply.Body), `"stdout":"1"`) {
				t.Errorf("execute while it wakes: %v, %+v", err, reply)
			}
		})
	}
	all.Wait()
	equal(t, "lives that eight requests began", c.life(t, first).epoch-before.epoch, 1)

	status(t, first.drop(), http.StatusOK)
	// It may believe for a second what it has read.
	eventually(t, c.ctx, "the other front-end does not know it any more", 10*time.Second, func() (bool, string) {
		r := second.post("/execute", M{"code": `1`})
		if r.Status == http.StatusOK {
			t.Error("a session that was deleted executes")
		}
		return r.Status == http.StatusNotFound, string(r.Body)
	})
}

// frontendDies: requests at the other one do not notice, and what the dead one had
// begun goes on.
func (c *cluster) frontendDies(t *testing.T) {
	first := c.create(t)
	dying := c.Frontends[1]
	second := first.through(c.apis[1])
	waiting := second.begin(M{"timeout": 60, "code": `await Bun.write("running", ""); ` + untilFile("go") + ` console.log("done")`})
	first.waitFor("running")
	running := first.processes()
	equal(t, "processes", len(running), 1)
	stop := make(chan struct{})
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				reply, err := first.api.Do(c.ctx, client.Call{Method: "POST", Path: "/execute", JSON: first.body(M{"command": "echo x"})})
				if err != nil || reply.Status != http.StatusOK {
					t.Errorf("execute at the front-end that stays: %v, %+v", err, reply)
					return
				}
			}
		})
	}
	if err := dying.Kill(c.ctx, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if a := <-waiting.answer; a.err == nil {
		t.Errorf("a dead front-end has answered: %+v", a.reply)
	}
	first.write("go", "")
	close(stop)
	load.Wait()
	eventually(t, c.ctx, "the execution of the dead front-end ends well", 20*time.Second, func() (bool, string) {
		r := first.get("/executions/" + running[0].ExecutionID)
		return strings.Contains(string(r.Body), `"state":"exited"`) && strings.Contains(string(r.Body), `"stdout":"done\n"`), string(r.Body)
	})
	equal(t, "a session from start to end", c.create(t).print(`console.log("works")`), "works\n")
	if err := dying.Restart(c.ctx); err != nil {
		t.Fatal(err)
	}
	second.api.HTTP.CloseIdleConnections()
	equal(t, "at the one that is back", second.print(`console.log("works")`), "works\n")
}

// startsNothing: a session whose sandbox does not come up is made on another node. Without
// one its maker is told, and nothing of it stays.
func (c *nodes) startsNothing(t *testing.T) {
	n := c.Clients[0]
	defer c.only(t, c.Clients...)
	records := func() []string {
		keys, _, err := c.Consul.KV().Keys("buntime/sessions/", "", nil)
		if err != nil {
			t.Fatal(err)
		}
		return keys
	}
	before := records()
	place := filepath.Join(n.StateDir(), "sandboxes") // of each new one
	if err := os.Rename(place, place+".away"); err != nil {
		t.Fatal(err)
	}
	back := sync.OnceValue(func() error { return os.Rename(place+".away", place) })
	defer func() { _ = back() }()
	for range 6 {
		s := c.create(t)
		equal(t, "one made beside a node that works", s.print(`console.log("works")`), "works\n")
		equal(t, "its node", c.life(t, s).node, c.Clients[1].Name)
		status(t, s.drop(), http.StatusOK)
	}
	c.only(t, n)
	reply, err := c.apis[0].Do(c.ctx, client.Call{Method: "POST", Path: "/sessions/create"})
	if err != nil {
		t.Fatal(err)
	}
	contains(t, "reason", unready(t, reply), "no node could start the session's sandbox")
	if after := records(); !slices.Equal(before, after) {
		t.Errorf("records before: %v, after: %v", before, after)
	}
	if err := back(); err != nil {
		t.Fatal(err)
	}
	equal(t, "one made afterwards", c.create(t).print(`console.log("works")`), "works\n")
}

// unready says of the answers of a system with something away that they are 503 with
// a time to come again.
func unready(t *testing.T, reply *client.Reply) string {
	t.Helper()
	if reply.Status == http.StatusOK {
		return ""
	}
	refusal(t, reply, http.StatusServiceUnavailable, "service_unavailable")
	if reply.Header.Get("Retry-After") == "" {
		t.Errorf("503 without Retry-After: %s", reply.Body)
	}
	return fmt.Sprintf("%d %s", reply.Status, reply.Body)
}

// traced: the trace of an execute goes from the front-end to the node, and has where its
// time went.
func (c *nodes) traced(t *testing.T) {
	s := c.create(t)
	reply := s.post("/execute", M{"code": "1"})
	status(t, reply, http.StatusOK)
	request := reply.Header.Get("X-Request-Id")
	want := []string{"buntime-frontend POST /execute", "buntime-frontend node", "buntime-node POST /v1/execute", "buntime-node begin", "buntime-node run"}
	eventually(t, c.ctx, "a trace", 20*time.Second, func() (bool, string) {
		var trace string
		spans := c.traces.Spans()
		for _, span := range spans {
			if span.Attributes["buntime.request"] == request {
				trace = span.Trace
			}
		}
		parents, names := map[string]string{}, map[string]string{}
		for _, span := range spans {
			if span.Trace == trace && trace != "" {
				names[span.ID] = span.Service + " " + span.Name
				parents[names[span.ID]] = span.Parent
			}
		}
		for i, name := range want {
			above := want[max(0, min(i, 3)-1)] // the last two are side by side
			if parent, ok := parents[name]; !ok || i > 0 && names[parent] != above {
				return false, fmt.Sprintf("of %s: %v, %v", name, names, parents)
			}
		}
		return true, ""
	})
}
