// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
	"github.com/buntime/buntime/frontend"
)

// TestUpgrade replaces every program of ours while sessions are used, then loses Consul's
// and the store's data and brings them back from a backup. With BUNTIME_UPGRADE_FROM, a folder
// as `make build` fills it, it begins with the programs of an earlier build.
func TestUpgrade(t *testing.T) {
	c := startCluster(t, 4*time.Minute, stack.Options{
		Out:     os.Getenv("BUNTIME_UPGRADE_FROM"),
		Clients: 2, Frontends: 2,
		IdleAfter: time.Second, CheckpointEvery: time.Second,
		ShutdownDelay: 4 * time.Second, // longer than watchReady takes on a busy machine
		Keys:          busyKey("upgrade"),
		Frontend:      M{"reap_interval": "1s", "shutdown_timeout": "2s"},
	})
	t.Run("rolling", c.rolls)
	t.Run("backup", c.backedUp)
}

// rolls replaces front-ends, then plugins, one after the other. No request to a session that
// is idle fails, with nothing sent twice by who asks; a front-end is used while it says
// that it is ready. What runs goes on.
func (c *cluster) rolls(t *testing.T) {
	var used []*session
	var nodes []string
	for _, node := range c.Clients {
		c.only(t, node)
		for range 6 { // so many that some are used in each moment
			s := c.create(t)
			s.background(tokenServer)
			s.write("file", "1")
			used, nodes = append(used, s), append(nodes, node.Name)
		}
	}
	c.only(t, c.Clients...)
	asleep := c.create(t)
	asleep.write("file", "slept")
	status(t, asleep.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	busy := c.createOn(t, c.Clients[0])
	stream := &streaming{}
	go stream.run(busy)
	busy.waitFor("running")
	running := busy.processes()
	equal(t, "processes", len(running), 1)

	terminal, err := c.apis[0].WebSocket(c.ctx, c.Frontends[0].URL+"/sessions/"+busy.id+"/terminal", http.Header{"Authorization": {"Bearer " + c.Keys[0].Key}})
	if err != nil {
		t.Fatal(err)
	}
	defer terminal.CloseNow()
	hungUp := make(chan error, 1)
	go func() {
		for {
			if _, _, err := terminal.Read(c.ctx); err != nil {
				hungUp <- err
				return
			}
		}
	}()

	ready := c.watchReady(t)
	over := make(chan struct{})
	var load sync.WaitGroup
	var asked, meanwhile, longest atomic.Int64
	var replacing atomic.Bool
	var mu sync.Mutex
	var failed []failure
	var replaced []replacement
	tokens := make([]string, len(used))
	for i, s := range used {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				case <-time.After(1200 * time.Millisecond): // so that it is idle
				}
				for what, call := range map[string]func(at int) (string, error){
					"execute": func(at int) (string, error) {
						return c.asks(at, "POST", "/execute", s.body(M{"command": "cat file"}), `"stdout":"1"`)
					},
					"preview": func(at int) (string, error) { return c.visits(at, s) },
					"info":    func(at int) (string, error) { return c.asks(at, "GET", "/sessions/"+s.id, nil, s.id) },
				} {
					if replacing.Load() && what != "info" {
						meanwhile.Add(1)
					}
					at := ready(n) // the one before may have been long
					begin := time.Now()
					text, err := call(at)
					asked.Add(1)
					longest.Store(max(longest.Load(), int64(time.Since(begin))))
					if err != nil {
						mu.Lock()
						failed = append(failed, failure{nodes[i], begin, time.Now(), fmt.Sprintf("%s of an idle session on %s through front-end %d: %v", what, nodes[i], at, err)})
						mu.Unlock()
					}
					if what == "preview" && err == nil {
						if tokens[i] == "" {
							tokens[i] = text
						}
						equal(t, "server of "+s.id, text, tokens[i])
					}
				}
			}
		})
	}
	if err := c.Use(c.ctx, ""); err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Frontends {
		begin := time.Now()
		if err := f.Restart(c.ctx); err != nil {
			t.Fatal(err)
		}
		t.Logf("a front-end was replaced in %v", time.Since(begin).Round(time.Millisecond))
		time.Sleep(2 * readyEvery) // so that it is known to be ready, before the next is taken away
	}
	for _, node := range c.Clients {
		before, err := c.Pids()
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		replacing.Store(true)
		if err := node.Restart(c.ctx); err != nil {
			t.Fatal(err)
		}
		replacing.Store(false)
		replaced = append(replaced, replacement{node.Name, begin, time.Now()})
		t.Logf("the plugin of %s was replaced in %v", node.Name, time.Since(begin).Round(time.Millisecond))
		after, err := c.Pids()
		if err != nil {
			t.Fatal(err)
		}
		for name := range before {
			if strings.HasPrefix(name, "plugin") && strings.TrimPrefix(name, "plugin") == strings.TrimPrefix(node.Name, "client") && before[name] == after[name] {
				t.Errorf("the plugin of %s is the same process as before", node.Name)
			}
		}
	}
	close(over)
	load.Wait()
	t.Logf("%d requests to idle sessions, %d of them while a plugin was replaced, %d failed, the longest took %v",
		asked.Load(), meanwhile.Load(), len(failed), time.Duration(longest.Load()).Round(time.Millisecond))
	for _, f := range failed {
		if took := f.awaited(replaced); took > 0 {
			t.Logf("while its plugin was replaced, in %v: %s", took.Round(time.Millisecond), f.text)
		} else {
			complain(t, "%s", f.text)
		}
	}
	if meanwhile.Load() == 0 {
		t.Error("nobody used a session while a plugin was replaced")
	}

	// What ran when everything was replaced has gone on, and its output is whole.
	busy = busy.through(c.apis[1])
	busy.write("go", "")
	eventually(t, c.ctx, "the execution ends well", 20*time.Second, func() (bool, string) {
		r := busy.get("/executions/" + running[0].ExecutionID)
		return strings.Contains(string(r.Body), `"state":"exited"`) && strings.Contains(string(r.Body), `"stdout":"begun\ndone\n"`), string(r.Body)
	})
	if text := stream.text(); !strings.Contains(text, "event: error") || !strings.Contains(text, "service_unavailable") {
		complain(t, "a stream that was cut off was told %q", text)
	}
	if err := <-hungUp; websocket.CloseStatus(err) != websocket.StatusServiceRestart {
		complain(t, "a terminal whose front-end has ended was told %v", err)
	}
	equal(t, "file of a session that slept", asleep.through(c.apis[0]).read("file"), "slept")
	equal(t, "a new session", c.create(t).print(`console.log("works")`), "works\n")
}

// complain says how a program that is replaced has ended. That of an earlier build cannot be
// made to do better.
func complain(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("BUNTIME_UPGRADE_FROM") != "" {
		t.Logf(format, args...)
		return
	}
	t.Errorf(format, args...)
}

// failure is a request that was not answered as it should be.
type failure struct {
	node       string // of its session
	begin, end time.Time
	text       string
}

// replacement is when a node's plugin was replaced.
type replacement struct {
	node       string
	begin, end time.Time
}

// awaited is how long the replacement took in which a request failed, if that is about
// what front-ends wait for a node or more, so that they could do no better; else 0.
func (f failure) awaited(all []replacement) time.Duration {
	for _, r := range all {
		took := r.end.Sub(r.begin)
		if r.node == f.node && f.begin.Before(r.end) && f.end.After(r.begin) && took >= frontend.NodeWait-time.Second {
			return took
		}
	}
	return 0
}

// streaming is a stream of an execution that outlasts its front-end.
type streaming struct {
	mu  sync.Mutex
	all strings.Builder
}

func (s *streaming) run(in *session) {
	res, err := in.api.Open(in.ctx, client.Call{Method: "POST", Path: "/execute", JSON: in.body(M{
		"timeout": 120, "stream": true, "code": `console.log("begun"); await Bun.write("running", ""); ` + untilFile("go") + ` console.log("done")`,
	})})
	if err != nil {
		return // it is missed
	}
	defer res.Body.Close()
	b := make([]byte, 4096)
	for {
		n, err := res.Body.Read(b)
		s.mu.Lock()
		s.all.Write(b[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (s *streaming) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.String()
}

// readyEvery is how often it is asked whether a front-end is ready, as a proxy does.
const readyEvery = 200 * time.Millisecond

// watchReady is a proxy's choice: front-ends that say that they are ready, in turn.
func (c *cluster) watchReady(t *testing.T) func(turn int) int {
	ready := make([]atomic.Bool, len(c.Frontends))
	apis := make([]*client.Client, len(c.Frontends))
	for i, f := range c.Frontends {
		apis[i] = client.New(f.URL, "")
	}
	look := func() {
		for i, api := range apis {
			ctx, cancel := context.WithTimeout(c.ctx, time.Second)
			reply, err := api.Do(ctx, client.Call{Method: "GET", Path: "/readyz"})
			ready[i].Store(err == nil && reply.Status == http.StatusOK)
			cancel()
		}
	}
	look()
	ctx, cancel := context.WithCancel(c.ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-time.After(readyEvery):
				look()
			}
		}
	})
	t.Cleanup(func() { cancel(); watch.Wait() })
	return func(turn int) int {
		for i := range ready {
			if at := (turn + i) % len(ready); ready[at].Load() {
				return at
			}
		}
		return turn % len(ready)
	}
}

// asks sends a request once and wants 200 with some text.
func (c *cluster) asks(at int, method, path string, body any, want string) (string, error) {
	reply, err := c.apis[at].Do(c.ctx, client.Call{Method: method, Path: path, JSON: body})
	if err != nil {
		return "", err
	}
	if reply.Status != http.StatusOK || !strings.Contains(string(reply.Body), want) {
		return "", fmt.Errorf("status %d: %s", reply.Status, reply.Body)
	}
	return string(reply.Body), nil
}

// visits gets a session's preview once.
func (c *cluster) visits(at int, s *session) (string, error) {
	r, err := http.NewRequestWithContext(c.ctx, http.MethodGet, "http://"+s.host()+"."+c.Frontends[at].PreviewDomain+"/", nil)
	if err != nil {
		return "", err
	}
	res, err := c.apis[at].HTTP.Do(r)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d: %s, %w", res.StatusCode, text, err)
	}
	return string(text), nil
}

// backedUp: a backup that is taken while sessions sleep and are awake brings them back into
// an empty Consul and an empty store.
func (c *cluster) backedUp(t *testing.T) {
	asleep, awake, fresh := c.create(t), c.create(t), c.create(t)
	asleep.write("file", "asleep")
	status(t, asleep.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	awake.write("file", "saved")
	checkpointed(t, awake)
	gone := c.create(t)
	gone.write("file", "gone")
	status(t, gone.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	dir := filepath.Join(t.TempDir(), "backup")
	run := func(words ...string) (string, error) {
		words = append([]string{"-config", filepath.Join(c.Dir, "front-end.json")}, words...)
		out, err := exec.CommandContext(c.ctx, "../out/bin/buntime-frontend", words...).CombinedOutput()
		t.Logf("%s: %s", strings.Join(words[2:], " "), out)
		return string(out), err
	}
	if _, err := run("backup", dir); err != nil {
		t.Fatal(err)
	}
	status(t, gone.drop(), http.StatusOK)
	asleep.write("more", "2")
	status(t, asleep.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	out, err := run("backup", dir)
	if err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "*", gone.id+"*")); err != nil || len(left) > 0 {
		t.Errorf("of a session that is gone the backup has %q, %v", left, err)
	}
	isSaved := !strings.Contains(out, fresh.id)
	if out, err := run("restore", dir); err == nil || !strings.Contains(out, "a front-end leads") {
		t.Errorf("it was restored over what there is: %s", out)
	}
	awake.write("file", "not saved")

	// All is lost but the nodes, on which what was awake still runs.
	for _, f := range c.Frontends {
		if err := f.Kill(c.ctx, os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Consul.KV().DeleteTree("buntime/", nil); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(c.Dir, "store")); err != nil {
		t.Fatal(err)
	}
	if _, err := run("restore", dir); err != nil {
		t.Fatal(err)
	}
	for _, f := range c.Frontends {
		if err := f.Restart(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	for _, api := range c.apis {
		api.HTTP.CloseIdleConnections()
	}
	equal(t, "state", asleep.info().State, "deep-sleep")
	equal(t, "lost", asleep.info().Durability.Lost, false)
	equal(t, "lost of what was awake", awake.info().Durability.Lost, true)
	equal(t, "file", asleep.read("file")+asleep.read("more"), "asleep2")
	equal(t, "file of what was awake", awake.read("file"), "saved")
	if r := fresh.infoReply(); !isSaved {
		refusal(t, r, http.StatusNotFound, "session_not_found")
	}
	refusal(t, gone.infoReply(), http.StatusNotFound, "session_not_found")
	equal(t, "sessions", len(listSessions(t, c.ctx, c.apis[0], "limit", "100").ids()) >= 2, true)
	// They live on: what they do now is kept, under an epoch that none of the old had.
	awake.write("file", "new")
	status(t, awake.sleep(M{"state": "deep-sleep"}), http.StatusOK)
	equal(t, "file after another sleep", awake.read("file"), "new")
}
