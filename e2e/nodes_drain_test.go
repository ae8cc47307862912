// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// drainDeadline is when a node that is drained stops what is still there.
const drainDeadline = 10 * time.Second

// drainWait is what a request may wait for its session to have moved. There are
// clients that wait 10 s for anything and no longer; the rest is for a busy machine.
const drainWait = 20 * time.Second

// drains has both nodes drained one after the other, as for an update of all of
// them, while sessions are used. No request is refused, and nothing is lost.
func (c *cluster) drains(t *testing.T) {
	l := &useOf{cluster: c, t: t, stop: make(chan struct{})}
	defer l.end()
	c.only(t, c.Clients[0])
	for range 2 {
		l.begin("executes", l.executes)
		l.begin("writes", l.writes)
	}
	l.begin("visits", l.visits)
	c.only(t, c.Clients...)
	for _, node := range c.Clients {
		before := l.rounds.Load()
		c.drain(t, node)
		c.clean(t, node)
		eventually(t, c.ctx, "the sessions are being used elsewhere", 20*time.Second, func() (bool, string) {
			n := l.rounds.Load()
			return n > before+20, fmt.Sprintf("%d requests", n-before)
		})
		if err := node.TakeNew(c.ctx, true); err != nil {
			t.Fatal(err)
		}
	}
	l.end()
	if took := time.Duration(l.slowest.Load()); took > drainWait {
		t.Errorf("a request took %v, more than %v", took, drainWait)
	}
	t.Logf("%d requests, %d executions interrupted, the slowest answer took %v", l.rounds.Load(), l.interrupted.Load(), time.Duration(l.slowest.Load()).Round(time.Millisecond))
	for _, s := range l.sessions {
		i := s.info()
		equal(t, "lost", i.Durability.Lost, false)
		for path, text := range l.written[s.id] {
			equal(t, path, s.read(path), text)
		}
		if l := c.life(t, s); l.epoch < 3 {
			t.Errorf("the session has moved less than twice: %+v", l)
		}
	}
}

// drain drains a node and waits until that is over.
func (c *cluster) drain(t *testing.T, node *stack.Client) {
	t.Helper()
	id, err := node.ID(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if _, err := c.Nomad.Nodes().UpdateDrain(id, &nomad.DrainSpec{Deadline: drainDeadline}, false, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, c.ctx, "the drain ends", drainDeadline+time.Minute, func() (bool, string) {
		n, _, err := c.Nomad.Nodes().Info(id, nil)
		if err != nil {
			return false, err.Error()
		}
		return !n.Drain, brief(n.LastDrain)
	})
	t.Logf("%s is drained after %v", node.Name, time.Since(begin).Round(10*time.Millisecond))
}

// useOf uses sessions until it is ended.
type useOf struct {
	*cluster
	t        *testing.T
	stop     chan struct{}
	once     sync.Once
	loops    sync.WaitGroup
	sessions []*session
	written  map[string]map[string]string // by session and path, what was acknowledged last
	mu       sync.Mutex                   // of written

	rounds, interrupted, slowest atomic.Int64
}

func (l *useOf) end() {
	l.once.Do(func() { close(l.stop) })
	l.loops.Wait()
}

// begin has a session of its own used by a loop. Round n goes through another
// front-end than the one before.
func (l *useOf) begin(name string, round func(s *session, n int) error) {
	s := l.create(l.t)
	l.sessions = append(l.sessions, s)
	l.loops.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-l.stop:
				return
			default:
			}
			begin := time.Now()
			if err := round(s.through(l.apis[n%len(l.apis)]), n); err != nil {
				l.t.Errorf("%s %s, request %d, after %v: %v", name, s.id, n, time.Since(begin).Round(time.Millisecond), err)
			}
			l.rounds.Add(1)
			for took := int64(time.Since(begin)); ; {
				slowest := l.slowest.Load()
				if took <= slowest || l.slowest.CompareAndSwap(slowest, took) {
					break
				}
			}
		}
	})
}

// ok sends a request that has to be answered with 200.
func (l *useOf) ok(s *session, call client.Call) (*client.Reply, error) {
	reply, err := s.api.Do(l.ctx, call)
	if err == nil && reply.Status != http.StatusOK {
		err = fmt.Errorf("status %d: %s", reply.Status, reply.Body)
	}
	return reply, err
}

func (l *useOf) execute(s *session, body M) (execution, error) {
	var r execution
	reply, err := l.ok(s, client.Call{Method: "POST", Path: "/execute", JSON: s.body(body)})
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(reply.Body, &r)
}

func (l *useOf) executes(s *session, n int) error {
	r, err := l.execute(s, M{"code": fmt.Sprintf(`await Bun.sleep(20); console.log(%d)`, n)})
	switch {
	case err != nil:
		return err
	case r.Reason == "interrupted": // its node could not wait any longer
		l.interrupted.Add(1)
	case r.ExitCode != 0 || r.Stdout != fmt.Sprintln(n):
		return fmt.Errorf("result %s", brief(r))
	}
	return nil
}

func (l *useOf) writes(s *session, n int) error {
	path, text := fmt.Sprintf("file%d", n%10), fmt.Sprint("text ", n)
	if _, err := l.ok(s, client.Call{Method: "POST", Path: "/files/write", JSON: s.body(M{"path": path, "content": text})}); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.written == nil {
		l.written = map[string]map[string]string{}
	}
	if l.written[s.id] == nil {
		l.written[s.id] = map[string]string{}
	}
	l.written[s.id][path] = text
	return nil
}

// visits looks at a page of the session's. The server of it ends with each life of
// the session, and is started again.
func (l *useOf) visits(s *session, n int) error {
	url := "http://" + s.host() + "." + l.Frontends[n%len(l.Frontends)].PreviewDomain + "/"
	req, err := http.NewRequestWithContext(l.ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := s.api.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode == http.StatusOK && string(text) == "page":
		return nil
	case res.StatusCode != http.StatusBadGateway:
		return fmt.Errorf("status %d: %s", res.StatusCode, text)
	}
	r, err := l.execute(s, M{"code": `Bun.serve({ port: 8080, fetch: () => new Response("page") })`})
	if err == nil && !r.Background && r.Reason != "interrupted" && !strings.Contains(r.Stderr, "EADDRINUSE") {
		err = fmt.Errorf("start a server: %s", brief(r))
	}
	return err
}
