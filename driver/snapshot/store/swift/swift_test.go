// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package swift

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/snapshot/store"
	"github.com/buntime/buntime/driver/snapshot/store/storetest"
	"github.com/buntime/buntime/e2e/swift"
)

// server is the tests' Swift.
var server *swift.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "buntime-swift-")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	if server, err = swift.Start(context.Background(), dir); err != nil {
		fmt.Println(err)
		return 1
	}
	defer server.Stop()
	return m.Run()
}

var containers atomic.Int32

func config(authURL string) Config {
	return Config{
		AuthURL: authURL, User: server.User(), Key: server.Key(),
		Container: fmt.Sprintf("test-%d", containers.Add(1)),
	}
}

func newStore(t *testing.T, c Config) *Store {
	t.Helper()
	s, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	s := newStore(t, config(server.AuthURL()))
	s.page = 7
	storetest.Run(t, s)
}

func later() time.Time { return time.Now().Add(time.Hour) }

// newProxied returns a store that has logged in through a proxy, and has an
// object of the given bytes.
func newProxied(t *testing.T, data []byte) (*Store, *swift.Proxy) {
	t.Helper()
	p, err := swift.NewProxy(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	c := config(p.AuthURL())
	c.Timeout = 5 * time.Second
	s := newStore(t, c)
	if err := s.Put(t.Context(), "a/there", data, later()); err != nil {
		t.Fatal(err)
	}
	return s, p
}

// TestFaults has every request but the third and later ones go wrong, and expects
// it to be done in the end as if nothing had happened.
func TestFaults(t *testing.T) {
	data := bytes.Repeat([]byte("content "), 50_000)
	s, p := newProxied(t, data)
	faults := map[string]swift.Action{
		"500": swift.Answer(500), "502": swift.Answer(502), "503": swift.Answer(503), "504": swift.Answer(504),
		"429": swift.Answer(429), "498": swift.Answer(498), "401": swift.Answer(401), "408": swift.Answer(408),
		"cut": swift.Cut, "cut answer": swift.CutAnswer, "delay": swift.Delay(500 * time.Millisecond),
		"truncate": swift.Truncate(10_000), "corrupt request": swift.CorruptRequest,
	}
	for name, action := range faults {
		t.Run(name, func(t *testing.T) {
			p.Set(func(n int, _ *http.Request) swift.Action {
				if n < 2 {
					return action
				}
				return nil
			})
			defer p.Set(nil)
			fresh := "a/" + strings.ReplaceAll(name, " ", "-")
			if err := s.Put(t.Context(), fresh, data, later()); err != nil {
				t.Error(err)
			}
			for _, object := range []string{fresh, "a/there"} {
				got := make([]byte, len(data))
				p.Set(func(n int, _ *http.Request) swift.Action {
					if n < 2 {
						return action
					}
					return nil
				})
				if err := s.Get(t.Context(), object, 0, got); err != nil || !bytes.Equal(got, data) {
					t.Errorf("get %s: %v; as it was: %v", object, err, bytes.Equal(got, data))
				}
			}
		})
	}
}

// TestLastingFaults has errors that stay be told after a bounded time.
func TestLastingFaults(t *testing.T) {
	s, p := newProxied(t, []byte("x"))
	s.tries = 3
	for name, action := range map[string]swift.Action{
		"503": swift.Answer(503), "403": swift.Answer(403), "401": swift.Answer(401), "cut": swift.Cut, "truncate": swift.Truncate(0),
	} {
		t.Run(name, func(t *testing.T) {
			p.Set(func(int, *http.Request) swift.Action { return action })
			defer p.Set(nil)
			err := s.Get(t.Context(), "a/there", 0, make([]byte, 1))
			if err == nil || errors.Is(err, store.ErrNotExist) {
				t.Errorf("get: %v", err)
			}
			if name == "truncate" {
				return // a PUT has an empty answer
			}
			if err := s.Put(t.Context(), "a/new", []byte("x"), later()); err == nil {
				t.Error("put without an error")
			}
		})
	}
	if err := s.Get(t.Context(), "a/there", 0, make([]byte, 1)); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

// TestDenied has a wrong key be an error at once.
func TestDenied(t *testing.T) {
	c := config(server.AuthURL())
	c.Key = "wrong"
	s := newStore(t, c)
	if err := s.Put(t.Context(), "a/b", nil, later()); err == nil || errors.Is(err, store.ErrNotExist) {
		t.Errorf("put: %v", err)
	}
}

// TestHang has a server that says nothing be given up, and found again.
func TestHang(t *testing.T) {
	c := config(server.AuthURL())
	c.Timeout, c.Tries = 2*time.Second, 10
	s := newStore(t, c)
	if err := s.Put(t.Context(), "a/b", []byte("x"), later()); err != nil {
		t.Fatal(err)
	}
	s.tries = 1
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	err := s.Put(t.Context(), "a/c", []byte("x"), later())
	if err := server.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err == nil {
		t.Error("put to a server that hangs")
	}
	s.tries = 20
	if err := s.Put(t.Context(), "a/c", []byte("x"), later()); err != nil {
		t.Error(err)
	}
}

// TestRestart has a server that died go on with what it had acknowledged; the
// store logs in again by itself.
func TestRestart(t *testing.T) {
	s := newStore(t, config(server.AuthURL()))
	if err := s.Put(t.Context(), "a/b", []byte("x"), later()); err != nil {
		t.Fatal(err)
	}
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := server.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1)
	if err := s.Get(t.Context(), "a/b", 0, got); err != nil || string(got) != "x" {
		t.Errorf("got %q, %v", got, err)
	}
}
