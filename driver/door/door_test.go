// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/door"
)

// quick is for tests: what takes longer takes too long.
var quick = door.Limits{Head: 2 * time.Second, Idle: 10 * time.Second, Stall: 300 * time.Millisecond}

// late is when a test gives up waiting for what has to happen.
const late = 30 * time.Second

// served is a server on loopback.
type served struct {
	address string
	mu      sync.Mutex
	paths   []string // of the requests that reached the handler
}

func (s *served) reached(path string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.paths {
		if strings.Contains(p, path) {
			return true
		}
	}
	return false
}

// serve serves h with the door before it, or without, to see that the attack
// is one.
func serve(t *testing.T, guarded bool, h http.HandlerFunc) *served {
	t.Helper()
	return serveWith(t, guarded, quick, h)
}

func serveWith(t *testing.T, guarded bool, patience door.Limits, h http.HandlerFunc) *served {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{address: l.Addr().String()}
	noting := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.paths = append(s.paths, r.URL.Path)
		s.mu.Unlock()
		h(w, r)
	})
	quiet := log.New(io.Discard, "", 0)
	srv := &http.Server{Handler: noting, ErrorLog: quiet}
	if guarded {
		srv = door.NewServer(noting, patience, quiet)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l) // until Close
	}()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})
	return s
}

// dial connects until the test ends.
func (s *served) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(late)); err != nil {
		t.Fatal(err)
	}
	return c
}

// exchange sends text and returns what comes until the server closes the
// connection, or nothing has come for longer than quick allows a head to take.
func (s *served) exchange(t *testing.T, text string) (answer string, closed bool) {
	t.Helper()
	c, err := net.Dial("tcp", s.address)
	if err != nil {
		t.Error(err)
		return "", false
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Error(err)
	}
	var b strings.Builder
	buf := make([]byte, 4096)
	for {
		_ = c.SetReadDeadline(time.Now().Add(6 * time.Second))
		n, err := c.Read(buf)
		b.Write(buf[:n])
		if err != nil {
			return b.String(), !errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
}

func readAll(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, "ok")
}

// TestNothingBehindChunks: with a Content-Length and chunks, what follows the
// chunks is a second request for one reader and body for another. It is served
// without the door.
func TestNothingBehindChunks(t *testing.T) {
	const hidden = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
	var all sync.WaitGroup
	defer all.Wait()
	for name, text := range map[string]string{
		"POST":      fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"OPTIONS *": fmt.Sprintf("OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s", 5+len(hidden), hidden),
		"HTTP/1.0": fmt.Sprintf("POST / HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n",
			len(hidden), hidden),
	} {
		for _, guarded := range []bool{false, true} {
			s := serve(t, guarded, readAll)
			all.Go(func() {
				answer, closed := s.exchange(t, text)
				if s.reached("/hidden") == guarded || guarded && !closed {
					t.Errorf("%s, guarded %v: hidden request reached: %v, closed: %v\n%s", name, guarded, s.reached("/hidden"), closed, answer)
				}
			})
		}
	}
}

func TestRefused(t *testing.T) {
	var all sync.WaitGroup
	defer all.Wait()
	many := func(n int) string { return strings.Repeat("X: y\r\n", n) }
	for name, c := range map[string]struct {
		text          string
		with, without int
	}{
		"fields":       {"GET / HTTP/1.1\r\nHost: a\r\n" + many(101) + "\r\n", 431, 200},
		"many fields":  {"GET / HTTP/1.1\r\nHost: a\r\n" + many(5000) + "\r\n", 431, 200},
		"enough":       {"GET / HTTP/1.1\r\nHost: a\r\n" + many(100) + "\r\n", 200, 200},
		"long field":   {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", 431, 200},
		"long target":  {"GET /" + strings.Repeat("x", 100<<10) + " HTTP/1.1\r\nHost: a\r\n\r\n", 431, 200},
		"HTTP/2":       {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, 200},
		"upgrade":      {"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx", 400, 200},
		"authority":    {"GET other:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, 200},
		"star":         {"GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400, 200},
		"OPTIONS":      {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 200, 200},
		"absolute":     {"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 200, 200},
		"other scheme": {"GET gopher://a/ HTTP/1.1\r\nHost: b\r\n\r\n", 400, 200},
		"plain":        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", 200, 200},
		"bare upgrade": {"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200, 200},
	} {
		for guarded, want := range map[bool]int{true: c.with, false: c.without} {
			s := serve(t, guarded, readAll)
			all.Go(func() {
				answer, closed := s.exchange(t, c.text)
				if !strings.HasPrefix(answer, fmt.Sprintf("HTTP/1.1 %d ", want)) || want != 200 && !closed {
					t.Errorf("%s, guarded %v: want %d, closed %v, got %.200q", name, guarded, want, closed, answer)
				}
			})
		}
	}
}

// TestSlowClients: each of them holds a handler, or a connection, for as long
// as it likes without the door.
func TestSlowClients(t *testing.T) {
	stalls := func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err == nil || !door.Stalled(r.Context()) {
			t.Errorf("a body that stalls: %v", err)
		}
		http.Error(w, "stalled", http.StatusRequestTimeout)
	}
	unread := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnauthorized) }
	for name, c := range map[string]struct {
		text, want string
		h          http.HandlerFunc
	}{
		"head":        {"GET / HTTP/1.1\r\nHost: a\r\nX", "", unread},
		"nothing":     {"", "", unread},
		"body":        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345", "HTTP/1.1 408 ", stalls},
		"chunk":       {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n12345", "HTTP/1.1 408 ", stalls},
		"unread body": {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345", "HTTP/1.1 401 ", unread},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c1 := serve(t, true, c.h).dial(t)
			if _, err := io.WriteString(c1, c.text); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(c1) // until the server closes it
			if err != nil || !strings.HasPrefix(string(answer), c.want) {
				t.Errorf("got %q, %v", answer, err)
			}
		})
	}
}

// TestSlowReader: a handler whose client takes nothing gets an error.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	failed := make(chan error, 1)
	s := serve(t, true, func(w http.ResponseWriter, _ *http.Request) {
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				failed <- err
				return
			}
		}
	})
	if _, err := io.WriteString(s.dial(t), "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-failed:
	case <-time.After(late):
		t.Error("the handler still writes")
	}
}

// TestUnhurried: a handler may take its time, and a client that sends and
// takes something now and then may take as long as it likes.
func TestUnhurried(t *testing.T) {
	t.Parallel()
	patience := door.Limits{Head: late, Idle: late, Stall: 4 * time.Second}
	s := serveWith(t, true, patience, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if len(body) > 1 {
			time.Sleep(patience.Stall * 5 / 4) // the work
		}
		fmt.Fprint(w, string(body))
	})
	c := s.dial(t)
	answers := bufio.NewReader(c)
	for _, body := range []string{"1234", "5"} { // the connection is good for another request
		if _, err := fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(body)); err != nil {
			t.Fatal(err)
		}
		for _, b := range body {
			time.Sleep(patience.Stall * 2 / 5)
			if _, err := io.WriteString(c, string(b)); err != nil {
				t.Fatal(err)
			}
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		if err != nil || string(got) != body {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

// TestArriveBy: there is a limit for the whole of a body if one is set.
func TestArriveBy(t *testing.T) {
	t.Parallel()
	ended := make(chan bool, 1)
	s := serve(t, true, func(_ http.ResponseWriter, r *http.Request) {
		door.ArriveBy(r.Context(), time.Now().Add(2*quick.Stall))
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err == nil || !door.Stalled(r.Context())
	})
	c := s.dial(t)
	if _, err := io.WriteString(c, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), late)
	defer cancel()
	tick := time.NewTicker(quick.Stall / 6)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			_, _ = io.WriteString(c, "x") // fails once the server has given up
		case whole := <-ended:
			if whole {
				t.Error("the body came to its end")
			}
			return
		case <-ctx.Done():
			t.Fatal("the handler still reads")
		}
	}
}

// TestRoom: more connections than there is room for are closed, and a closed
// one makes room. Another client's and an exempt one's do not count.
func TestRoom(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	exempt, err := door.ParseNetworks([]string{"127.0.0.9"})
	if err != nil {
		t.Fatal(err)
	}
	l = door.Limit(l, door.Room{All: 5, Each: 2, Exempt: exempt})
	defer l.Close()
	accepted := make(chan net.Conn, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				close(accepted)
				return
			}
			accepted <- c
		}
	}()
	dial := func(from string) (net.Conn, error) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return c, err
	}
	in := func(from string) net.Conn {
		t.Helper()
		if _, err := dial(from); err != nil {
			t.Fatal(err)
		}
		select {
		case c := <-accepted:
			return c
		case <-time.After(late):
			t.Fatalf("no room for %s", from)
			return nil
		}
	}
	out := func(from string) {
		t.Helper()
		c, err := dial(from)
		if err != nil {
			return // the reset came before the dial was over
		}
		_ = c.SetReadDeadline(time.Now().Add(late))
		if n, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%s is not closed: %d, %v", from, n, err)
		}
	}
	first := in("127.0.0.1")
	in("127.0.0.1")
	out("127.0.0.1")
	first.Close()
	first.Close() // makes room once
	in("127.0.0.1")
	out("127.0.0.1")
	for range 3 {
		in("127.0.0.9")
	}
	out("127.0.0.2") // five are there
}

func TestBehind(t *testing.T) {
	proxies, err := door.ParseNetworks([]string{"10.0.0.0/8", "2001:db8::1"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ peer, forwarded, want string }{
		{"192.0.2.1:5", "", "192.0.2.1:5"},
		{"192.0.2.1:5", "203.0.113.9", "192.0.2.1:5"}, // a stranger's word
		{"10.0.0.1:5", "", "10.0.0.1:0"},
		{"10.0.0.1:5", "203.0.113.9", "203.0.113.9:0"},
		{"10.0.0.1:5", "6.6.6.6, 203.0.113.9", "203.0.113.9:0"},
		{"10.0.0.1:5", "6.6.6.6, 203.0.113.9,10.2.3.4", "203.0.113.9:0"},
		{"10.0.0.1:5", "6.6.6.6, nonsense", "10.0.0.1:0"},
		{"[2001:db8::1]:5", "2001:db8::7", "[2001:db8::7]:0"},
		{"[::ffff:10.0.0.1]:5", "203.0.113.9:1234", "203.0.113.9:0"},
	} {
		var got string
		h := door.Behind(proxies, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = r.RemoteAddr }))
		r := &http.Request{RemoteAddr: c.peer, Header: http.Header{}}
		if c.forwarded != "" {
			r.Header.Set("X-Forwarded-For", c.forwarded)
		}
		h.ServeHTTP(nil, r)
		if got != c.want {
			t.Errorf("%s for %q: got %s, want %s", c.peer, c.forwarded, got, c.want)
		}
	}
	for _, bad := range []string{"", "10.0.0.0/33", "localhost"} {
		if _, err := door.ParseNetworks([]string{bad}); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func TestClient(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:5": "192.0.2.1/32", "192.0.2.1": "192.0.2.1/32", "[::ffff:192.0.2.1]:5": "192.0.2.1/32",
		"[2001:db8:1:2:3:4:5:6]:7": "2001:db8:1:2::/64", "[fe80::1%eth0]:1": "fe80::/64", "pipe": "invalid Prefix",
	} {
		if got := door.Client(remote).String(); got != want {
			t.Errorf("%s: got %s, want %s", remote, got, want)
		}
	}
}

// TestBodyIsOver: who passes a body on may look once more whether it is over when the
// answer has begun already.
func TestBodyIsOver(t *testing.T) {
	again := make(chan error, 1)
	server := httptest.NewUnstartedServer(nil)
	server.Config = door.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		if err == nil {
			err = http.NewResponseController(w).Flush()
		}
		if err == nil {
			_, err = r.Body.Read(make([]byte, 1))
		}
		again <- err
	}), door.Limits{Head: time.Minute, Idle: time.Minute, Stall: time.Minute}, nil)
	server.Start()
	defer server.Close()
	for _, body := range []io.Reader{strings.NewReader("known length"), io.MultiReader(strings.NewReader("chunks"))} {
		res, err := http.Post(server.URL, "text/plain", body)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if err := <-again; !errors.Is(err, io.EOF) {
			t.Errorf("read once more: %v", err)
		}
	}
}
