// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/frontend"
)

// errDown is what adapters say when their server does not answer. Its text is
// for the log.
var errDown = fmt.Errorf("dial tcp 10.0.0.7:8500: %w", frontend.ErrUnavailable)

func TestUnrouted(t *testing.T) {
	w := newWorld(t)
	for _, target := range []string{"/", "/nothing", "/sessions/", "/sessions/a/b", "//sessions", "/sessions/../healthz", "/execute/", "/executions", "/healthz/x", "/sessions%2Fcreate", "/.env"} {
		for _, key := range []string{paid, ""} {
			w.send(key, "GET", target, "").refused(404, "not_found")
		}
	}
	for _, c := range [][3]string{
		{"GET", "/execute", "POST"},
		{"PUT", "/execute", "POST"},
		{"POST", "/sessions", "GET"},
		{"POST", "/sessions/ses_a", "GET, DELETE"},
		{"PATCH", "/sessions/ses_a", "GET, DELETE"},
		{"DELETE", "/sessions/create", ""}, // as an id
		{"POST", "/healthz", "GET"},
		{"POST", "/files", "DELETE"},
		{"OPTIONS", "/files/list", "GET"},
	} {
		r := w.send(paid, c[0], c[1], "")
		if c[2] == "" {
			r.refused(404, "session_not_found")
			continue
		}
		r.refused(405, "method_not_allowed")
		if allow := r.Header().Get("Allow"); allow != c[2] {
			t.Errorf("%s %s: Allow is %q, want %q", c[0], c[1], allow, c[2])
		}
	}
}

func TestUnauthorized(t *testing.T) {
	w := newWorld(t)
	for _, header := range []string{"", "Bearer", "Bearer ", "Bearer btk_unknown_key_1", "Basic " + paid, paid, "Bearer " + paid + "x", "Bearer " + strings.ToUpper(paid)} {
		r := w.send("", "POST", "/sessions/create", "{", "Authorization", header)
		r.refused(401, "unauthorized")
		if r.Header().Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%q: %v", header, r.Header())
		}
	}
	w.send("", "GET", "/sessions", "", "Authorization", "bearer  "+paid).ok(nil)
}

func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	for i := range 5 {
		r := w.send(few, "GET", "/sessions", "")
		if i < 3 {
			r.ok(nil)
		} else {
			r.refused(429, "rate_limit_exceeded")
			if n, err := strconv.Atoi(r.Header().Get("Retry-After")); err != nil || n < 1 || n > 60 {
				t.Errorf("Retry-After: %q", r.Header().Get("Retry-After"))
			}
		}
		if got, want := r.Header().Get("X-RateLimit-Remaining"), fmt.Sprint(max(0, 2-i)); got != want {
			t.Errorf("request %d: %s remain, want %s", i, got, want)
		}
		if got := r.Header().Get("X-RateLimit-Limit"); got != "3" {
			t.Errorf("limit is %s", got)
		}
		reset, err := strconv.ParseInt(r.Header().Get("X-RateLimit-Reset"), 10, 64)
		if in := time.Until(time.Unix(reset, 0)); err != nil || in < 50*time.Second || in > 61*time.Second {
			t.Errorf("reset in %v, %v", in, err)
		}
	}
	w.send(paid, "GET", "/sessions", "").ok(nil) // another key's
	w.send(few, "GET", "/healthz", "").ok(nil)
}

// TestStrangers: who tries keys is slowed down, and nobody else.
func TestStrangers(t *testing.T) {
	w := newWorld(t)
	for i := range 120 {
		r := w.send("btk_guess_"+strconv.Itoa(i), "GET", "/sessions", "")
		if i < 100 {
			r.refused(401, "unauthorized")
		} else {
			r.refused(429, "rate_limit_exceeded")
		}
	}
	w.send(paid, "GET", "/sessions", "").ok(nil)
	w.send("", "GET", "/healthz", "").ok(nil)
	w.send("", "GET", "/nothing", "").refused(404, "not_found")
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	w.send("", "GET", "/healthz", "").ok(nil)
	w.send("", "GET", "/readyz", "").ok(nil)
	w.ReadyFor = 0
	w.store.SetFail(func(string) error { return errDown })
	w.send("", "GET", "/healthz", "").ok(nil)
	w.send("", "GET", "/readyz", "").refused(503, "service_unavailable")
	w.store.SetFail(nil)
	w.send("", "GET", "/readyz", "").ok(nil)
	w.Drain()
	w.send("", "GET", "/healthz", "").ok(nil)
	w.send("", "GET", "/readyz", "").refused(503, "service_unavailable")
}

func TestRequestIDs(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	a, b := w.send("", "GET", "/healthz", ""), w.send("", "GET", "/healthz", "")
	if x, y := a.Header().Get("X-Request-Id"), b.Header().Get("X-Request-Id"); x == y || len(x) != 24 {
		t.Errorf("ids %q and %q", x, y)
	}
	// One that a client has given goes all the way, and one that could be anything but a
	// name goes nowhere.
	for given, taken := range map[string]bool{
		"mine": true, "7f.A_b-9": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, "a b": false, "a\nlevel=ERROR": false, `a"`: false, "btk_0123456789": false, "ä": false,
	} {
		w.node.answers(says("{}"))
		r := w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`, "X-Request-Id", given)
		got := r.Header().Get("X-Request-Id")
		if (got == given) != taken || got == "" {
			t.Errorf("%q: the answer has %q", given, got)
		}
		if inside := w.node.last(t).header.Get("X-Request-Id"); inside != got {
			t.Errorf("%q: the node gets %q, the client %q", given, inside, got)
		}
	}
	r := httptest.NewRequest("GET", "/healthz", nil)
	r.Header["X-Request-Id"] = []string{"one", "two"}
	out := httptest.NewRecorder()
	w.ServeHTTP(out, r)
	if got := out.Header().Get("X-Request-Id"); got == "one" || got == "two" {
		t.Errorf("of two ids one was taken: %q", got)
	}
}

// TestRequestInLog: what is logged for a request says which.
func TestRequestInLog(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.node.Close()
	w.NodeWait = 0
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`, "X-Request-Id", "mine").refused(503, "service_unavailable")
	lines := 0
	for line := range strings.Lines(w.log.String()) {
		lines++
		if strings.Count(line, "request=mine") != 1 {
			t.Errorf("a line says not which request it is about, or twice: %s", line)
		}
	}
	if lines == 0 {
		t.Error("nothing was logged")
	}
}

// TestLargeBodies: a key's large bodies that are on their way at the same time
// are bounded, and what is too large for any is refused unread.
func TestLargeBodies(t *testing.T) {
	w := newWorld(t)
	id := w.create(free)
	body := func(size int) *http.Request {
		text := `{"sessionId":"` + id + `","path":"a","content":"` + strings.Repeat("x", size) + `"}`
		r := httptest.NewRequest("POST", "/files/write", strings.NewReader(text))
		r.Header.Set("Authorization", "Bearer "+free)
		r.Header.Set("Content-Type", "application/json")
		return r
	}
	const limit = 2*10<<20 + 8<<20 // the free plan's
	huge := body(1)
	huge.ContentLength = limit + 1
	huge.Body = io.NopCloser(unreadable{t})
	reply{w.serve(huge), t}.refused(413, "file_too_large")

	// Four of the largest size are let in, and wait in the node.
	in, out := make(chan bool), make(chan bool)
	w.node.answers(func(w http.ResponseWriter, _ *http.Request) {
		in <- true
		<-out
		io.WriteString(w, "{}")
	})
	var all sync.WaitGroup
	for range 4 {
		r := body(1)
		r.ContentLength = -1 // as large as may be
		all.Go(func() { w.serve(r) })
		<-in
	}
	reply{w.serve(body(2 << 20)), t}.refused(429, "rate_limit_exceeded")
	small := make(chan int)
	go func() { small <- w.serve(body(1 << 10)).Code }() // is not counted
	<-in
	other := make(chan int)
	go func() { other <- w.send(paid, "GET", "/sessions", "").Code }()
	if code := <-other; code != 200 {
		t.Errorf("another key: %d", code)
	}
	close(out)
	all.Wait()
	if code := <-small; code != 200 {
		t.Errorf("a small one: %d", code)
	}
	w.node.answers(says("{}"))
	reply{w.serve(body(2 << 20)), t}.ok(nil)
}

// unreadable is a body that nobody is to read.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body is read")
	return 0, io.EOF
}

// TestPacked: bodies that are packed are not unpacked.
func TestPacked(t *testing.T) {
	w := newWorld(t)
	for _, encoding := range []string{"gzip", "br", "identity, gzip"} {
		w.send(paid, "POST", "/sessions/create", "{}", "Content-Encoding", encoding).refused(415, "unsupported_media_type")
	}
	w.send(paid, "POST", "/sessions/create", "{}", "Content-Encoding", "identity").ok(nil)
}

// TestPanic: the client gets the envelope, the log the reason.
func TestPanic(t *testing.T) {
	w := newWorld(t)
	w.store.SetFail(func(string) error { panic("boom") })
	w.send(paid, "GET", "/sessions", "").refused(500, "internal_error")
	if !strings.Contains(w.log.String(), "boom") {
		t.Errorf("log: %s", w.log)
	}
}

func TestOpenAPI(t *testing.T) {
	w := newWorld(t)
	var doc struct {
		OpenAPI string
		Paths   map[string]map[string]struct {
			OperationID string
			RequestBody struct {
				Content map[string]struct {
					Schema struct {
						Ref string `json:"$ref"`
					}
				}
			}
			Responses map[string]any
		}
		Components struct {
			Schemas map[string]struct {
				Properties map[string]any
				Required   []string
			}
		}
	}
	w.send("", "GET", "/openapi.json", "").ok(&doc)
	if !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Errorf("version %s", doc.OpenAPI)
	}
	for path, methods := range map[string]string{
		"/sessions/create": "post", "/sessions": "get", "/sessions/{id}": "get delete", "/execute": "post", "/executions/{id}": "get",
		"/executions/{id}/output": "get", "/execution/kill": "post", "/processes": "get", "/files/list": "get", "/files/write": "post",
		"/files/read": "get", "/files": "delete",
	} {
		for method := range strings.FieldsSeq(methods) {
			op, ok := doc.Paths[path][method]
			if !ok || op.OperationID == "" || op.Responses["200"] == nil || op.Responses["400"] == nil {
				t.Errorf("%s %s: %+v", method, path, op)
			}
			if (method == "post") != (op.RequestBody.Content["application/json"].Schema.Ref != "") {
				t.Errorf("%s %s has the body %+v", method, path, op.RequestBody)
			}
		}
	}
	execute := doc.Components.Schemas["ExecuteRequest"]
	if len(execute.Properties) != 8 || fmt.Sprint(execute.Required) != "[sessionId]" {
		t.Errorf("ExecuteRequest: %+v", execute)
	}
	if failure := doc.Components.Schemas["Failure"]; failure.Properties["error"] == nil {
		t.Errorf("Failure: %+v", failure)
	}
}

// TestNoSecrets: nothing that a client or the log gets to see has a key or
// token in it.
func TestNoSecrets(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.node.answers(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Authorization", r.Header.Get("Authorization"))
		w.Header().Set("Set-Cookie", "a=b")
		w.WriteHeader(401)
	})
	w.NodeWait = 0
	r := w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`)
	r.refused(503, "service_unavailable")
	all, err := json.Marshal(r.Header())
	if err != nil {
		t.Fatal(err)
	}
	text := string(all) + r.Body.String() + w.log.String()
	for _, word := range []string{paid, secret, "Bearer", "Set-Cookie"} {
		if strings.Contains(text, word) {
			t.Errorf("%q is in %s", word, text)
		}
	}
}
