// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/testserver"
)

// candidateOf, in a test's environment, has it stand for leader at that Consul
// instead, until its standard input ends.
const candidateOf = "BUNTIME_TEST_CANDIDATE_OF"

func TestMain(m *testing.M) {
	address := os.Getenv(candidateOf)
	if address == "" {
		os.Exit(m.Run())
	}
	e, err := consul.NewElection(consul.Config{Address: address, Prefix: prefix}, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		panic(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	e.Lead(ctx, func(ctx context.Context) {
		fmt.Println("leads")
		<-ctx.Done()
		fmt.Println("leads no more")
	})
}

// polls is a Consul with candidates of this test.
type polls struct {
	address string
	client  *api.Client
}

func newPolls(t testing.TB) *polls {
	p := &polls{address: testserver.Consul(t)}
	p.client = newClient(t, &api.Config{Address: p.address})
	return p
}

func newClient(t testing.TB, c *api.Config) *api.Client {
	client, err := api.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

func (p *polls) stand(t *testing.T) frontend.Election {
	e, err := consul.NewElection(consul.Config{Address: p.address, Prefix: prefix}, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

// empty fails the test unless Consul has nothing of any election, but for checks of
// the killed, which it drops itself.
func (p *polls) empty(t *testing.T, killed int) {
	t.Helper()
	sessions, _, err := p.client.Session().List(nil)
	if err != nil || len(sessions) > 0 {
		t.Errorf("sessions left: %+v, %v", sessions, err)
	}
	keys, _, err := p.client.KV().Keys("", "", nil)
	if err != nil || len(keys) > 0 {
		t.Errorf("keys left: %q, %v", keys, err)
	}
	services, err := p.client.Agent().Services()
	if err != nil || len(services) != killed {
		t.Errorf("services left: %d, want %d, %v", len(services), killed, err)
	}
}

func TestElection(t *testing.T) {
	p := newPolls(t)
	frontendtest.TestElection(t, p.stand, func(t *testing.T) {
		if _, err := p.client.KV().Delete(prefix+"/leader", nil); err != nil {
			t.Fatal(err)
		}
	})
	p.empty(t, 0)
}

// TestBeatsAreNotWritten: each write is one of all Consul servers.
func TestBeatsAreNotWritten(t *testing.T) {
	p := newPolls(t)
	c := p.child(t)
	c.says("leads")
	check := func() *api.HealthCheck {
		checks, _, err := p.client.Health().Checks("buntime-election", nil)
		if err != nil || len(checks) != 1 || checks[0].Status != api.HealthPassing {
			t.Fatalf("checks %+v, %v", checks, err)
		}
		return checks[0]
	}
	before := check()
	time.Sleep(4 * time.Second) // longer than a lease: it has beaten
	if after := check(); after.ModifyIndex != before.ModifyIndex {
		t.Errorf("written at %d, and again at %d", before.ModifyIndex, after.ModifyIndex)
	}
	c.endGently()
	p.empty(t, 0)
}

// child is a process of its own that stands for leader.
type child struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Closer
	lines chan string
}

func (p *polls) child(t *testing.T) *child {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), candidateOf+"="+p.address)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c := &child{t: t, cmd: cmd, stdin: stdin, lines: make(chan string, 100)}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(out); s.Scan(); {
			c.lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		<-read
		_ = cmd.Wait()
	})
	return c
}

// patience is for a Consul that starts: its agent may take half a minute until it
// tells its server of a check.
const patience = time.Minute

// says waits for what the child prints next, which must be this.
func (c *child) says(want string) {
	c.t.Helper()
	select {
	case line := <-c.lines:
		if line != want {
			c.t.Fatalf("it says %q, want %q", line, want)
		}
	case <-time.After(patience):
		c.t.Fatalf("it has not said %q in %v", want, patience)
	}
}

func (c *child) signal(s syscall.Signal) {
	c.t.Helper()
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Fatal(err)
	}
}

func (c *child) endGently() {
	c.t.Helper()
	_ = c.stdin.Close()
	if err := c.cmd.Wait(); err != nil {
		c.t.Error(err)
	}
}

// TestTakeOver: how long nobody leads after each kind of end. A gentle one takes some
// milliseconds, of which a busy machine can make seconds now and then.
func TestTakeOver(t *testing.T) {
	for _, end := range []struct {
		name         string
		median, most time.Duration
		do           func(*child)
		// killed: it could not clear up.
		killed bool
	}{
		{"gently", 500 * time.Millisecond, 5500 * time.Millisecond, func(c *child) { go c.stdin.Close() }, false},
		{"killed", 5 * time.Second, 5 * time.Second, func(c *child) { c.signal(syscall.SIGKILL) }, true},
		{"stopped", 5 * time.Second, 5 * time.Second, func(c *child) { c.signal(syscall.SIGSTOP) }, true},
	} {
		t.Run(end.name, func(t *testing.T) {
			t.Parallel()
			p := newPolls(t)
			const turns = 5
			leader := p.child(t)
			leader.says("leads")
			var took []time.Duration
			for range turns {
				next := p.child(t)
				p.stands(t, 2)
				begin := time.Now()
				end.do(leader)
				next.says("leads")
				took = append(took, time.Since(begin))
				if end.name == "stopped" { // it knows at once when it goes on
					leader.signal(syscall.SIGCONT)
					leader.says("leads no more")
					leader.endGently()
				}
				leader = next
			}
			slices.Sort(took)
			t.Logf("taken over after %v", took)
			if median, most := took[turns/2], took[turns-1]; median > end.median || most > end.most {
				t.Errorf("it took %v, at most %v; want %v, at most %v", median, most, end.median, end.most)
			}
			leader.endGently()
			if !end.killed || end.name == "stopped" {
				p.empty(t, 0)
			} else {
				p.empty(t, turns)
			}
		})
	}
}

// stands waits until so many have a session, and with it all they need to lead.
func (p *polls) stands(t *testing.T, want int) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for q := new(api.QueryOptions); ; {
		sessions, meta, err := p.client.Session().List(q)
		if err != nil {
			t.Fatal(err)
		}
		if len(sessions) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d stand, want %d", len(sessions), want)
		}
		q.WaitIndex, q.WaitTime = meta.LastIndex, time.Second
	}
}

// TestConsulHangs: who leads stops in time, before another could have the lock, and
// leads again when Consul answers.
func TestConsulHangs(t *testing.T) {
	p := newPolls(t)
	target, err := url.Parse("http://" + p.address)
	if err != nil {
		t.Fatal(err)
	}
	var hangs atomic.Bool
	goesOn := make(chan struct{})
	forward := httputil.NewSingleHostReverseProxy(target)
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hangs.Load() {
			<-goesOn
		}
		forward.ServeHTTP(w, r)
	}))
	defer proxy.Close()
	through := &polls{address: proxy.URL, client: p.client}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 2*patience, errors.New("test took too long"))
	defer cancel()
	e, turns := through.stand(t), 0
	e.Lead(ctx, func(lead context.Context) {
		if turns++; turns == 2 {
			cancel()
			return
		}
		hangs.Store(true)
		begin := time.Now()
		// What a busy machine adds to any timer of this process is not held against it.
		due := make(chan time.Time, 1)
		time.AfterFunc(3*time.Second, func() { due <- time.Now() })
		<-lead.Done()
		ended := time.Now()
		if late := ended.Sub(<-due); late > 500*time.Millisecond {
			t.Errorf("it led for %v without Consul, %v longer than 3 s take here", ended.Sub(begin), late)
		}
		time.AfterFunc(5*time.Second, func() {
			hangs.Store(false)
			close(goesOn)
		})
	})
	if turns != 2 {
		t.Errorf("it led %d times: %v", turns, context.Cause(ctx))
	}
}

// TestNoConsul: nobody leads, and it is tried until there is one; and an end is quick.
func TestNoConsul(t *testing.T) {
	var log strings.Builder
	e, err := consul.NewElection(consul.Config{Address: "127.0.0.1:1"}, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	begin := time.Now()
	e.Lead(ctx, func(context.Context) { t.Error("it leads") })
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it ended after %v", took)
	}
	// At once, and after 0.5, 1 and 2 s more.
	if tries := strings.Count(log.String(), "trying again"); !errors.Is(ctx.Err(), context.DeadlineExceeded) || tries < 2 || tries > 4 {
		t.Errorf("it was tried %d times: %s", tries, log.String())
	}
}
