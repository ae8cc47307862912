// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/relay"
)

// patience is when a test gives up waiting for what has to happen.
const patience = 30 * time.Second

var limits = door.Limits{Head: patience, Idle: patience, Stall: patience}

// app is a server that answers each request, as text, with text: as it is told.
type app struct {
	address string
	answer  func(conn net.Conn, request string) (more bool)

	mu       sync.Mutex
	requests []string
	conns    int
}

// newApp starts one. It reads heads, and bodies of known length.
func newApp(t testing.TB, answer func(conn net.Conn, request string) bool) *app {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = layer(t, l)
	a := &app{address: l.Addr().String(), answer: answer}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			a.mu.Lock()
			a.conns++
			a.mu.Unlock()
			all.Go(func() { a.serve(c) })
		}
	})
	return a
}

func (a *app) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		var text strings.Builder
		length := 0
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			text.WriteString(line)
			_, _ = fmt.Sscanf(strings.ToLower(line), "content-length: %d", &length)
			if line == "\r\n" {
				break
			}
		}
		if _, err := io.CopyN(&text, in, int64(length)); err != nil {
			return
		}
		a.mu.Lock()
		a.requests = append(a.requests, text.String())
		a.mu.Unlock()
		if !a.answer(c, text.String()) {
			return
		}
	}
}

func (a *app) seen() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests
}

// say is an app's answer to everything.
func say(text string) func(net.Conn, string) bool {
	return func(c net.Conn, _ string) bool {
		_, err := io.WriteString(c, text)
		return err == nil
	}
}

// hop is a relay before an app.
type hop struct {
	address string
	server  *relay.Server
	pool    *relay.Pool
	// general counts the requests that came to net/http, and failure is why the last did.
	general atomic.Int64
	failure atomic.Value
	ended   atomic.Int64 // trips that are over
	trip    func(*relay.Request, *relay.Trip) bool
}

func newHop(t testing.TB, to string, l door.Limits, trip func(*relay.Request, *relay.Trip) bool) *hop {
	t.Helper()
	h := &hop{trip: trip}
	h.pool = &relay.Pool{
		Each: 100, All: 1000, For: time.Minute,
		Dial: func(ctx context.Context, p relay.Place) (net.Conn, []byte, error) {
			c, err := dialer(t)(ctx, "tcp", p.ID)
			return c, []byte("X-Hop: yes\r\n"), err
		},
	}
	transport := &http.Transport{DisableCompression: true, DialContext: dialer(t)}
	proxy := &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: to}) },
	}
	srv := door.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.general.Add(1)
		if err := relay.Failure(r.Context()); err != nil {
			h.failure.Store(err.Error())
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		proxy.ServeHTTP(w, r)
	}), l, log.New(io.Discard, "", 0))
	h.server = relay.NewServer(srv, l, func(_ *relay.Conn, r *relay.Request, tr *relay.Trip) bool {
		tr.Pool, tr.Place, tr.Keep = h.pool, relay.Place{ID: to}, relay.Plain
		tr.Ended = func(int) { h.ended.Add(1) }
		return h.trip == nil || h.trip(r, tr)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.address = listener.Addr().String()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = h.server.Serve(layer(t, door.Limit(listener, door.Room{All: 1000}))) // until Close
	}()
	t.Cleanup(func() {
		h.server.Close()
		<-ended
		h.pool.Close()
		transport.CloseIdleConnections()
	})
	return h
}

// dial connects to the hop until the test ends.
func (h *hop) dial(t testing.TB) *client {
	t.Helper()
	c, err := dialer(t)(context.Background(), "tcp", h.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return &client{c, bufio.NewReader(c)}
}

type client struct {
	net.Conn
	in *bufio.Reader
}

// ask sends text and reads an answer.
func (c *client) ask(t testing.TB, text string) (int, string, http.Header) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return c.read(t, text)
}

func (c *client) read(t testing.TB, text string) (int, string, http.Header) {
	t.Helper()
	method, _, _ := strings.Cut(text, " ")
	res, err := http.ReadResponse(c.in, &http.Request{Method: method})
	if err == nil && res.StatusCode == http.StatusContinue {
		res, err = http.ReadResponse(c.in, &http.Request{Method: method})
	}
	if err != nil {
		t.Fatalf("answer to %q: %v", text, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return res.StatusCode, string(body) + "…" + err.Error(), res.Header
	}
	return res.StatusCode, string(body), res.Header
}

const get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// TestAnswers: what comes of an app's answers, and whether its connection is used again.
func TestAnswers(t *testing.T) {
	t.Parallel()
	const ok = "HTTP/1.1 200 OK\r\nDate: x\r\n"
	for name, c := range map[string]struct {
		answer string
		status int
		body   string
		conns  int // that two requests take
	}{
		"length":              {ok + "Content-Length: 5\r\n\r\nhello", 200, "hello", 1},
		"nothing":             {ok + "Content-Length: 0\r\n\r\n", 200, "", 1},
		"no date":             {"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 1},
		"no reason":           {"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 1},
		"kept":                {ok + "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 1},
		"closes":              {ok + "Connection: close\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 2},
		"chunks":              {ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n02;x=y\r\nlo\r\n0\r\n\r\n", 200, "hello", 1},
		"trailer":             {ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", 200, "hello", 2},
		"announced trailer":   {ok + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n", 200, "hello", 2},
		"no content":          {"HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n", 204, "", 1},
		"not modified":        {"HTTP/1.1 304 Not Modified\r\nDate: x\r\nContent-Length: 5\r\n\r\n", 304, "", 1},
		"hint":                {"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + ok + "Content-Length: 5\r\n\r\nhello", 103, "", 1},
		"too much":            {ok + "Content-Length: 5\r\n\r\nhello and more", 200, "hello", 2},
		"two answers":         {ok + "Content-Length: 5\r\n\r\nhello" + ok + "Content-Length: 8\r\n\r\npoisoned", 200, "hello", 2},
		"folded":              {ok + "X: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 2},
		"LF":                  {"HTTP/1.1 200 OK\nDate: x\nContent-Length: 5\n\nhello\r\n\r\n", 200, "hello", 2},
		"twice the same":      {ok + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 2},
		"underscore":          {ok + "Content-Length: 5\r\nTransfer_Encoding: chunked\r\n\r\nhello", 200, "hello", 1},
		"lengths that differ": {ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 502, "", 2},
		"bad chunk":           {ok + "Transfer-Encoding: chunked\r\n\r\nx\r\nhello\r\n0\r\n\r\n", 0, "", 2},
		"long chunk":          {ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n0\r\n\r\n", 0, "", 2},
		"switches":            {"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 502, "", 2},
		"nonsense":            {"nonsense\r\n\r\n", 502, "", 2},
		"CR":                  {ok + "X: a\rSet-Cookie: poisoned\r\nContent-Length: 0\r\n\r\n", 502, "", 2},
		"long head":           {ok + "X: " + strings.Repeat("x", 100<<10) + "\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 2},
		"endless head":        {ok + "X: " + strings.Repeat("x", 1<<20) + "\r\nContent-Length: 5\r\n\r\nhello", 502, "", 2},
		"many hints":          {strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 1000) + ok + "Content-Length: 0\r\n\r\n", 103, "", 2},
		"moved":               {ok + "X-Buntime-Moved: 1\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 1},
		"moved, not plain":    {ok + "x-buntime-moved: 1\r\nX: a\r\n b\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newApp(t, say(c.answer))
			h := newHop(t, a.address, limits, nil)
			for i := range int64(2) {
				for h.ended.Load() < i { // and has let go of the connection
					time.Sleep(time.Millisecond)
				}
				client := h.dial(t)
				if c.status == 0 { // it begins, and is cut off
					if _, err := io.WriteString(client, get); err != nil {
						t.Fatal(err)
					}
					text, _ := io.ReadAll(client)
					if strings.HasSuffix(string(text), "0\r\n\r\n") || strings.Contains(string(text), "502") {
						t.Errorf("got %q", text)
					}
					continue
				}
				status, body, header := client.ask(t, get)
				if status != c.status || body != c.body && c.body != "" {
					t.Errorf("got %d %q, want %d %q", status, body, c.status, c.body)
				}
				if status == 200 && (header.Get("Date") == "" || header.Get("Keep-Alive")+header.Get("Connection")+header.Get("X-Buntime-Moved") != "") {
					t.Errorf("header %v", header)
				}
				if strings.Contains(fmt.Sprint(header), "poisoned") {
					t.Errorf("header %v", header)
				}
			}
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.conns != c.conns {
				t.Errorf("two requests took %d connections, want %d", a.conns, c.conns)
			}
			if len(a.requests) != 2 {
				t.Errorf("the app got %d requests", len(a.requests))
			}
		})
	}
}

// TestUntilTheEnd: an answer without a length has that of the connection.
func TestUntilTheEnd(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"1.1": "HTTP/1.1 200 OK\r\nDate: x\r\n\r\nhello", "1.0": "HTTP/1.0 200 OK\r\n\r\nhello",
	} {
		a := newApp(t, func(c net.Conn, _ string) bool { _, _ = io.WriteString(c, text); return false })
		client := newHop(t, a.address, limits, nil).dial(t)
		for range 2 {
			if status, body, _ := client.ask(t, get); status != 200 || body != "hello" {
				t.Errorf("%s: %d %q", name, status, body)
			}
		}
	}
}

// TestCut: of an answer that ends too soon nobody gets the whole.
func TestCut(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"length": "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", "chunks": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"length, not plain": "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 50\r\n\r\nhello",
	} {
		a := newApp(t, func(c net.Conn, _ string) bool { _, _ = io.WriteString(c, text); return false })
		client := newHop(t, a.address, limits, nil).dial(t)
		if status, body, _ := client.ask(t, get); status != 200 || !strings.HasPrefix(body, "hello…") {
			t.Errorf("%s: %d %q", name, status, body)
		}
	}
}

// TestRequests: what of requests is passed, and what goes to net/http; and that the one
// leaves the connection to the other.
func TestRequests(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text    string
		general bool
		last    bool // the connection is over, or net/http's for good
	}{
		"plain":              {get, false, false},
		"fields":             {"GET /a?b=%20 HTTP/1.1\r\nHost: a\r\nx-a:b\r\nCookie: a=1; b=2\r\nConnection: keep-alive\r\n\r\n", false, false},
		"with a body":        {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", false, false},
		"HEAD":               {"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", false, false},
		"large body":         {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 100000), true, false},
		"key":                {"GET / HTTP/1.1\r\nHost: a\r\nX-Api-Key: BTK_x\r\n\r\n", true, false},
		"expects":            {"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody", true, false},
		"chunks":             {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true, true},
		"closes":             {"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", true, true},
		"1.0":                {"GET / HTTP/1.0\r\nHost: a\r\n\r\n", true, true},
		"underscored length": {"GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 4\r\n\r\n", true, false},
		"absolute":           {"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", true, true},
		"strange target":     {"GET /|\"a HTTP/1.1\r\nHost: a\r\n\r\n", true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := newApp(t, say("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n"))
			h := newHop(t, a.address, limits, nil)
			client := h.dial(t)
			client.ask(t, get)
			if status, body, _ := client.ask(t, c.text); status != 200 {
				t.Fatalf("%d %s", status, body)
			}
			if got := h.general.Load() == 1; got != c.general {
				t.Errorf("net/http got it: %v", got)
			}
			if c.last {
				return
			}
			before := h.general.Load()
			for range 3 {
				if status, _, _ := client.ask(t, get); status != 200 {
					t.Errorf("status %d after it", status)
				}
			}
			if h.general.Load() != before {
				t.Error("net/http got what came after it, too")
			}
			if n := len(a.seen()); n != 5 {
				t.Errorf("the app got %d requests", n)
			}
		})
	}
}

// TestPipelined: requests that come together are answered in turn, whoever answers, and in
// however many pieces they come.
func TestPipelined(t *testing.T) {
	t.Parallel()
	a := newApp(t, func(c net.Conn, request string) bool {
		_, target, _ := strings.Cut(request, " ")
		target, _, _ = strings.Cut(target, " ")
		_, err := fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: %d\r\n\r\n%s", len(target), target)
		return err == nil
	})
	h := newHop(t, a.address, limits, nil)
	var text strings.Builder
	const n = 60
	for i := range n {
		switch i % 5 {
		case 0, 1:
			fmt.Fprintf(&text, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		case 2:
			fmt.Fprintf(&text, "POST /%d HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nGET / HTTP", i)
		case 3:
			fmt.Fprintf(&text, "GET /%d HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n", i) // net/http's
		case 4:
			fmt.Fprintf(&text, "PUT /%d HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 10\r\n\r\nGET / HTTP", i) // the same
		}
	}
	for _, piece := range []int{text.Len(), 1, 7, 30, 1000} {
		client := h.dial(t)
		var sent sync.WaitGroup
		sent.Go(func() {
			for rest := text.String(); rest != ""; {
				n := min(piece, len(rest))
				if _, err := io.WriteString(client, rest[:n]); err != nil {
					t.Error(err)
					return
				}
				rest = rest[n:]
			}
		})
		for i := range n {
			status, body, _ := client.read(t, "GET")
			if status != 200 || body != fmt.Sprintf("/%d", i) {
				t.Fatalf("pieces of %d: answer %d is %d %q", piece, i, status, body)
			}
		}
		sent.Wait()
	}
}

// TestClosedMeanwhile: a connection that the app has closed is not used again, and a
// request that was sent over one is sent again only if that does no harm.
func TestClosedMeanwhile(t *testing.T) {
	t.Parallel()
	var once sync.Map
	a := newApp(t, func(c net.Conn, request string) bool {
		if _, again := once.LoadOrStore(c, true); again {
			return false // it took the request, and says nothing
		}
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 0\r\n\r\n")
		return err == nil
	})
	h := newHop(t, a.address, limits, nil)
	client := h.dial(t)
	for range 3 {
		if status, body, _ := client.ask(t, get); status != 200 {
			t.Errorf("%d %s", status, body)
		}
	}
	if n := len(a.seen()); n != 5 {
		t.Errorf("three GETs came as %d", n)
	}
	if status, _, _ := client.ask(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"); status != 502 {
		t.Errorf("POST: %d", status)
	}
	if n := len(a.seen()); n != 6 {
		t.Errorf("with a POST there are %d", n)
	}
}

// TestClientGone: the app hears of it, before its answer and in the middle of it.
func TestClientGone(t *testing.T) {
	t.Parallel()
	for _, begin := range []string{"", "HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"} {
		heard := make(chan error, 1)
		a := newApp(t, func(c net.Conn, _ string) bool {
			_, _ = io.WriteString(c, begin)
			_ = c.SetReadDeadline(time.Now().Add(patience))
			_, err := c.Read(make([]byte, 1))
			heard <- err
			return false
		})
		h := newHop(t, a.address, limits, nil)
		client := h.dial(t)
		if _, err := io.WriteString(client, get); err != nil {
			t.Fatal(err)
		}
		if begin != "" {
			if _, err := client.in.Peek(10); err != nil {
				t.Fatal(err)
			}
		}
		for len(a.seen()) == 0 {
			time.Sleep(time.Millisecond)
		}
		client.Close()
		if err := <-heard; errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("after %q: %v", begin, err)
		}
	}
}

// TestAttend: who answers too late is asked after; and what was sent is not sent again.
func TestAttend(t *testing.T) {
	t.Parallel()
	lost := errors.New("the node is lost")
	silent := make(chan struct{})
	a := newApp(t, func(net.Conn, string) bool { <-silent; return false })
	h := newHop(t, a.address, limits, func(_ *relay.Request, t *relay.Trip) bool {
		t.Attend = func(ctx context.Context) (context.Context, func()) {
			ctx, cancel := context.WithCancelCause(ctx)
			cancel(lost)
			return ctx, func() {}
		}
		return true
	})
	defer close(silent)
	client := h.dial(t)
	if status, body, _ := client.ask(t, get); status != 502 || !strings.Contains(body, lost.Error()) {
		t.Errorf("%d %s", status, body)
	}
	for deadline := time.Now().Add(patience); len(a.seen()) == 0 && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // it may come to read it later
	}
	if n := len(a.seen()); n != 1 {
		t.Errorf("the app got %d requests", n)
	}
	if h.ended.Load() != 1 {
		t.Errorf("%d trips have ended", h.ended.Load())
	}
}

// TestShutdown: a request under way comes to its end, and connections that wait are closed.
func TestShutdown(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}), make(chan struct{})
	a := newApp(t, func(c net.Conn, request string) bool {
		if strings.Contains(request, "/slow") {
			close(asked)
			<-answer
		}
		_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 5\r\n\r\nhello")
		return err == nil
	})
	h := newHop(t, a.address, limits, nil)
	idle, busy := h.dial(t), h.dial(t)
	idle.ask(t, get)
	busy.ask(t, get)
	if _, err := io.WriteString(busy, strings.Replace(get, "/", "/slow", 1)); err != nil {
		t.Fatal(err)
	}
	<-asked
	down := make(chan error, 1)
	go func() { down <- h.server.Shutdown(t.Context()) }()
	if n, err := idle.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection that waits is open: %d, %v", n, err)
	}
	select {
	case err := <-down:
		t.Errorf("down before the answer: %v", err)
	default:
	}
	close(answer)
	if status, body, _ := busy.read(t, get); status != 200 || body != "hello" {
		t.Errorf("%d %q", status, body)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
	if n, err := busy.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is open after it: %d, %v", n, err)
	}
}

// TestSlowReader: a client that takes nothing is let go.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	a := newApp(t, func(c net.Conn, _ string) bool {
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1000000000\r\n\r\n")
		for piece := make([]byte, 64<<10); ; {
			if _, err := c.Write(piece); err != nil {
				return false
			}
		}
	})
	h := newHop(t, a.address, door.Limits{Head: patience, Idle: patience, Stall: 300 * time.Millisecond}, nil)
	client := h.dial(t)
	if _, err := io.WriteString(client, get); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); h.ended.Load() == 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it is passed still")
		}
	}
}

// TestLargeAnswers pass whole, in chunks and not.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	body := strings.Repeat("0123456789abcdef", 300_000)
	for name, text := range map[string]string{
		"length": fmt.Sprintf("HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
		"chunks": func() string {
			var b strings.Builder
			b.WriteString("HTTP/1.1 200 OK\r\nDate: x\r\nTransfer-Encoding: chunked\r\n\r\n")
			for i, rest := 1, body; rest != ""; i = i%70000 + 777 {
				n := min(i, len(rest))
				fmt.Fprintf(&b, "%x\r\n%s\r\n", n, rest[:n])
				rest = rest[n:]
			}
			b.WriteString("0\r\n\r\n")
			return b.String()
		}(),
	} {
		a := newApp(t, say(text))
		h := newHop(t, a.address, limits, nil)
		client := h.dial(t)
		for range 3 {
			if status, got, _ := client.ask(t, get); status != 200 || got != body {
				t.Errorf("%s: %d, %d bytes", name, status, len(got))
			}
		}
		if h.general.Load() != 0 {
			t.Errorf("%s: it was net/http's", name)
		}
	}
}
