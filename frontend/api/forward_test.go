// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
)

// served is the API behind a real listener.
func served(t *testing.T, w *world) string {
	s := httptest.NewServer(w)
	t.Cleanup(s.Close)
	return s.URL
}

func open(t *testing.T, ctx context.Context, base, method, path, body string) *http.Response {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+paid)
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// TestTrailer: what a node says at the end of a stream comes with the time that the
// whole has taken; an answer whose length is known ends without.
func TestTrailer(t *testing.T) {
	w := newWorld(t)
	id, base := w.create(paid), served(t, w)
	ask := func(node http.HandlerFunc) *http.Response {
		w.node.answers(node)
		res := open(t, t.Context(), base, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`)
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		return res
	}
	res := ask(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Trailer", "Server-Timing")
		w.Header().Set("Server-Timing", "thaw;dur=3.00")
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		w.Header().Set("Server-Timing", "exec;dur=2.00")
	})
	if head := res.Header.Get("Server-Timing"); !regexp.MustCompile(`^auth;dur=.*total;dur=[0-9.]+, thaw;dur=3.00$`).MatchString(head) {
		t.Errorf("head %q", head)
	}
	if end := res.Trailer.Get("Server-Timing"); !regexp.MustCompile(`^total;dur=[0-9.]+, exec;dur=2.00$`).MatchString(end) {
		t.Errorf("trailer %q", end)
	}
	res = ask(says("{}"))
	if res.ContentLength != 2 || len(res.Trailer) > 0 {
		t.Errorf("length %d, trailer %v", res.ContentLength, res.Trailer)
	}
}

// TestStream: each event is with the client before the node makes the next.
func TestStream(t *testing.T) {
	w := newWorld(t)
	id, base := w.create(paid), served(t, w)
	next := make(chan bool)
	w.node.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		conn := http.NewResponseController(w)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
		for i := 0; <-next; i++ {
			fmt.Fprintf(w, "id: %d\nevent: stdout\ndata: {}\n\n", i)
			if err := conn.Flush(); err != nil {
				t.Error(err)
			}
		}
	})
	res := open(t, t.Context(), base, "POST", "/execute", `{"sessionId":"`+id+`","code":"1","stream":true}`)
	if res.StatusCode != 200 || res.Header.Get("Content-Type") != "text/event-stream" || res.Header.Get("Server-Timing") == "" {
		t.Errorf("head: %d %v", res.StatusCode, res.Header)
	}
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		next <- true
		for _, want := range []string{fmt.Sprintf("id: %d\n", i), "event: stdout\n", "data: {}\n", "\n"} {
			if got, err := lines.ReadString('\n'); err != nil || got != want {
				t.Fatalf("got %q, %v, want %q", got, err, want)
			}
		}
	}
	next <- false
	if rest, err := io.ReadAll(lines); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
}

// TestStreamBreaks: a stream ends with exactly one result or error.
func TestStreamBreaks(t *testing.T) {
	w := newWorld(t)
	id, base := w.create(paid), served(t, w)
	w.node.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "event: stdout\ndata: {}\n\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	res := open(t, t.Context(), base, "GET", "/executions/x/output?sessionId="+id, "")
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(body); !strings.HasPrefix(text, "event: stdout\ndata: {}\n\n") || !strings.Contains(text, "\n\nevent: error\ndata: {\"error\":{\"code\":\"service_unavailable\"") {
		t.Errorf("got %q", text)
	}
}

// TestBodyBreaks: half a file is not taken for a file.
func TestBodyBreaks(t *testing.T) {
	w := newWorld(t)
	id, base := w.create(paid), served(t, w)
	w.node.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		fmt.Fprint(w, "half") // chunked: only the end of the connection tells
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	r, err := http.NewRequest("GET", base+"/files/read?path=a&sessionId="+id, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+paid)
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return // not even the head has come through
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("got %q as the whole", body)
	}
}

// TestClientGone: the node hears of it.
func TestClientGone(t *testing.T) {
	w := newWorld(t)
	id, base := w.create(paid), served(t, w)
	started, ended := make(chan bool, 1), make(chan bool, 1)
	w.node.answers(func(_ http.ResponseWriter, r *http.Request) {
		started <- true
		<-r.Context().Done()
		ended <- true
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "POST", base+"/execute", strings.NewReader(`{"sessionId":"`+id+`","code":"1"}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+paid)
	r.Header.Set("Content-Type", "application/json")
	done := make(chan bool)
	go func() {
		defer close(done)
		if res, err := http.DefaultClient.Do(r); err == nil {
			res.Body.Close()
			t.Error("an answer")
		}
	}()
	<-started
	cancel()
	<-done
	<-ended
}

// elsewhere is a node that the session is not on.
func elsewhere(t *testing.T, status int) (string, *atomic.Int64) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(status)
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://"), &asked
}

func closedPort(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// TestMoved: what was resolved a moment ago is not true any more.
func TestMoved(t *testing.T) {
	for name, status := range map[string]int{"refused": 0, "another session": 401, "gone": 410} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			id := w.create(paid)
			w.sessions.Close()
			s, err := w.store.Get(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			right := s.Claim.API
			old := closedPort(t)
			if status > 0 {
				old, _ = elsewhere(t, status)
			}
			w.claimAt(id, 2, old)
			w.sessions.Forget(id)
			if _, err := w.sessions.Resolve(t.Context(), "paid", id); err != nil { // into the cache
				t.Fatal(err)
			}
			w.claimAt(id, 3, right)
			w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`).ok(nil)
			if n := len(w.node.requests()); n != 1 {
				t.Errorf("the node got %d requests", n)
			}
		})
	}
}

// TestComesBack: a node agent that is being restarted is waited for.
func TestComesBack(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.sessions.Close()
	address := closedPort(t)
	w.claimAt(id, 2, address)
	w.sessions.Forget(id)
	back := make(chan *http.Server, 1)
	time.AfterFunc(300*time.Millisecond, func() {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			back <- nil
			return
		}
		s := &http.Server{Handler: w.node}
		go func() { _ = s.Serve(l) }() // until it is closed below
		back <- s
	})
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`).ok(nil)
	if s := <-back; s != nil {
		s.Close()
	}
}

// TestDoesNotComeBack: not for ever; and a session that is deleted meanwhile
// is not found.
func TestDoesNotComeBack(t *testing.T) {
	w := newWorld(t)
	w.NodeWait = 300 * time.Millisecond
	id := w.create(paid)
	w.sessions.Close()
	w.claimAt(id, 2, closedPort(t))
	w.sessions.Forget(id)
	r := w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`)
	r.refused(503, "service_unavailable")
	if r.Header().Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.NodeWait = time.Minute
	time.AfterFunc(100*time.Millisecond, func() {
		if err := w.sessions.Delete(context.Background(), "paid", id); err != nil {
			t.Error(err)
		}
	})
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`).refused(404, "session_not_found")
}

// TestNeverTwice: what may have run is not sent again.
func TestNeverTwice(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.node.answers(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	for _, c := range [][2]string{
		{"/execute", `{"sessionId":"` + id + `","code":"1"}`},
		{"/execution/kill", `{"sessionId":"` + id + `"}`},
		{"/files/write", `{"sessionId":"` + id + `","path":"a","content":""}`},
	} {
		w.node.answers(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		w.send(paid, "POST", c[0], c[1]).refused(503, "service_unavailable")
		if n := len(w.node.requests()); n != 1 {
			t.Errorf("%s: the node got %d requests", c[0], n)
		}
	}
	// Reading again does no harm.
	var n atomic.Int64
	w.node.answers(func(w http.ResponseWriter, _ *http.Request) {
		if n.Add(1) < 3 {
			panic(http.ErrAbortHandler)
		}
		fmt.Fprint(w, "{}")
	})
	w.send(paid, "GET", "/files/list?sessionId="+id, "").ok(nil)
}

// lateNode never answers, but ends with its context.
type lateNode struct{}

func (lateNode) Do(ctx context.Context, _ *frontend.Session, _ node.Request) (*http.Response, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// TestDeadline: an execution has its own time and some more.
func TestDeadline(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 16 s")
	}
	t.Parallel()
	w := newWorld(t)
	id := w.create(paid)
	w.Node = lateNode{}
	begin := time.Now()
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1","timeout":1}`).refused(408, "execution_timeout")
	if took := time.Since(begin); took < 16*time.Second || took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestDeadlineOfSession(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 10 s")
	}
	t.Parallel()
	w := newWorld(t)
	id := w.create(paid)
	w.Node = lateNode{}
	w.send(paid, "GET", "/processes?sessionId="+id, "").refused(408, "request_timeout")
}

// TestSlowStore: a store that hangs is no reason for the client to hang.
func TestSlowStore(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	t.Parallel()
	w := newWorld(t)
	id := w.create(paid)
	w.sessions.Close()
	w.sessions.Forget(id)
	w.sessions.Store = hanging{w.sessions.Store}
	begin := time.Now()
	w.send(paid, "GET", "/sessions/"+id, "").refused(503, "service_unavailable")
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("it took %v", took)
	}
}

type hanging struct{ frontend.Store }

func (hanging) Get(ctx context.Context, _ string) (*frontend.Session, error) {
	<-ctx.Done()
	return nil, errors.Join(frontend.ErrUnavailable, context.Cause(ctx))
}

// TestKillOfWhatSleeps: also if nobody has noted yet that it went to sleep. It is
// not woken for that.
func TestKillOfWhatSleeps(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.node.answers(func(out http.ResponseWriter, _ *http.Request) {
		w.store.PutRest(claim.Rest{Session: id, Epoch: 1, Asleep: true, Snapshot: snapshot.Pointer{Epoch: 1, Digest: "d"}})
		out.WriteHeader(http.StatusGone)
	})
	for range 2 {
		r := w.send(paid, "POST", "/execution/kill", `{"sessionId":"`+id+`"}`)
		if r.Code != 200 || r.Body.String() != `{"killed":0,"pids":[]}` {
			t.Errorf("%d %s", r.Code, r.Body)
		}
	}
	w.sessions.Close()
	if w.scheduler.Starts != 1 {
		t.Errorf("%d jobs were started", w.scheduler.Starts)
	}
}
