// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// server answers one request after the other; the last answer again and again.
type server struct {
	*httptest.Server
	mu   sync.Mutex
	got  []*http.Request
	says []http.HandlerFunc
}

func newServer(t *testing.T, says ...http.HandlerFunc) (*server, *Client) {
	s := &server{says: says}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		s.mu.Lock()
		s.got = append(s.got, r)
		answer := s.says[min(len(s.got), len(s.says))-1]
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	c := New(s.URL+"/", "btk_test")
	c.RetryDelay = time.Millisecond
	return s, c
}

// requests are those that have come so far.
func (s *server) requests() []*http.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func says(status int, body string, header ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func cut(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

const (
	maybe = `{"error":{"code":"service_unavailable","message":"away","details":{"done":"unknown"}}}`
	none  = `{"error":{"code":"session_not_found","message":"there is no session"}}`
)

// TestRetries: what may be tried again is, with one key, and nothing else.
func TestRetries(t *testing.T) {
	execute := func(c *Client) error {
		_, err := c.Execute(t.Context(), ExecuteRequest{SessionID: "s", Code: "1"})
		return err
	}
	for _, test := range []struct {
		name string
		says []http.HandlerFunc
		do   func(*Client) error
		want int    // requests
		code string // of the error
	}{
		{"broken and busy", []http.HandlerFunc{cut, says(503, maybe), says(200, `{"stdout":"1"}`)}, execute, 3, ""},
		{"cut in the answer", []http.HandlerFunc{says(200, `{"st`, "Content-Length", "100"), says(200, `{}`)}, execute, 2, ""},
		{"too often", []http.HandlerFunc{says(503, maybe)}, execute, 3, "service_unavailable"},
		{"rate", []http.HandlerFunc{says(429, `{"error":{"code":"rate_limit_exceeded","message":"wait"}}`, "Retry-After", "1"), says(200, `{}`)}, execute, 2, ""},
		{"limit that waiting does not lift", []http.HandlerFunc{says(429, `{"error":{"code":"session_limit_exceeded","message":"full"}}`)}, execute, 1, "session_limit_exceeded"},
		{"bad input", []http.HandlerFunc{says(400, `{"error":{"code":"invalid_request","message":"no","details":{"field":"code"}}}`)}, execute, 1, "invalid_request"},
		{"no answer of the API's", []http.HandlerFunc{says(418, `tea`)}, execute, 1, CodeInvalidResponse},
		{"a redirect", []http.HandlerFunc{says(302, ``, "Location", "http://127.0.0.1:1/")}, execute, 1, CodeInvalidResponse},
		{"deleted after all", []http.HandlerFunc{cut, says(404, none)}, func(c *Client) error { return c.Delete(t.Context(), "s") }, 2, ""},
		{"never there", []http.HandlerFunc{says(404, none)}, func(c *Client) error { return c.Delete(t.Context(), "s") }, 1, "session_not_found"},
		{"an archive", []http.HandlerFunc{says(503, maybe)}, func(c *Client) error {
			_, err := c.Unpack(t.Context(), "s", "", strings.NewReader("x"))
			return err
		}, 1, "service_unavailable"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s, c := newServer(t, test.says...)
			err := test.do(c)
			if test.code == "" && err != nil || test.code != "" && !Is(err, test.code) {
				t.Errorf("%v", err)
			}
			if len(s.requests()) != test.want {
				t.Errorf("%d requests, want %d", len(s.requests()), test.want)
			}
			for _, r := range s.requests() {
				if r.Header.Get("Authorization") != "Bearer btk_test" || r.URL.Path == "/execute" && (r.Header.Get("Idempotency-Key") == "" || r.Header.Get("Idempotency-Key") != s.requests()[0].Header.Get("Idempotency-Key")) {
					t.Errorf("%v", r.Header)
				}
			}
		})
	}
}

// TestNobodyThere: a connection that is refused is tried again.
func TestNobodyThere(t *testing.T) {
	s, c := newServer(t, cut)
	s.Close()
	tries := 0
	c.OnRetry = func(error, int) { tries++ }
	_, err := c.Info(t.Context(), "s")
	if !Is(err, CodeConnection) || tries != 2 {
		t.Errorf("%d tries: %v", tries, err)
	}
}

// TestTimeout: a try ends, and so does a call whose context does.
func TestTimeout(t *testing.T) {
	hangs := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	s, c := newServer(t, hangs)
	c.Timeout, c.MaxRetries = time.Second, 1 // a busy machine may need a part of it to take the request
	if _, err := c.Info(t.Context(), "s"); !Is(err, CodeClientTimeout) || len(s.requests()) != 2 {
		t.Errorf("%d requests: %v", len(s.requests()), err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, errors.New("enough"))
	defer cancel()
	if _, err := c.Info(ctx, "s"); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("%v", err)
	}
}

// TestStream: over cut connections every byte comes once, whatever has an id.
func TestStream(t *testing.T) {
	event := func(name, id, data string) string {
		if id != "" {
			id = "id: " + id + "\n"
		}
		return fmt.Sprintf("event: %s\n%sdata: {\"data\":%q}\n\n", name, id, data)
	}
	part := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			w.Header().Set("X-Execution-Id", "exe_1")
			_, _ = io.WriteString(w, text)
			if !strings.Contains(text, "event: result") {
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		}
	}
	s, c := newServer(t,
		part(event("stdout", "2", "ab")+event("stderr", "", "x")+"event: stdout\ndata: {\"data\":\"broken o"),
		part(": alive\n\n"+event("stderr", "", "xy")+event("stdout", "", "cd")),
		part(event("stderr", "4", "xy")+event("stdout", "6", "cd")+"event: later\ndata: {}\n\n"+"event: result\ndata: {\"exitCode\":3}\n\n"),
	)
	streams, exit := map[string]string{}, -1
	for e, err := range c.ExecuteStream(t.Context(), ExecuteRequest{SessionID: "s", Code: "1"}) {
		if err != nil {
			t.Fatal(err)
		}
		streams[e.Stream] += e.Data
		if e.Result != nil {
			exit = e.Result.ExitCode
		}
		if e.ExecutionID != "exe_1" {
			t.Errorf("%+v", e)
		}
	}
	if streams["stdout"] != "abcd" || streams["stderr"] != "xy" || exit != 3 {
		t.Errorf("%v, exit code %d", streams, exit)
	}
	got := s.requests()
	if len(got) != 3 || got[1].Header.Get("Last-Event-ID") != "2" || got[2].Header.Get("Last-Event-ID") != "2" || got[1].URL.Query().Get("until") != "answer" {
		t.Errorf("%d requests", len(got))
	}

	_, c = newServer(t, part(event("stdout", "2", "ab")))
	c.MaxRetries = 0
	var last error
	for _, err := range c.ExecuteStream(t.Context(), ExecuteRequest{SessionID: "s", Code: "1"}) {
		last = err
	}
	if !Is(last, CodeConnection) {
		t.Errorf("%v", last)
	}
}

// FuzzEvents: whatever a server sends is events or an error, and however it is cut into
// pieces it is the same ones.
func FuzzEvents(f *testing.F) {
	for _, seed := range []string{"event: stdout\nid: 1\ndata: {}\n\n", "data\n\n", ":\n\n\ndata:a\ndata: b\r\n\n", "id: \x00\ndata: x\n\n", "event: result\ndata: {"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		read := func(r io.Reader) (all []serverEvent) {
			for e, err := range serverEvents(r, func() {}) {
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, e)
			}
			return all
		}
		whole, pieces := read(strings.NewReader(text)), read(&dribble{text})
		if fmt.Sprint(whole) != fmt.Sprint(pieces) {
			t.Errorf("%q: %v and %v", text, whole, pieces)
		}
	})
}

// dribble reads byte by byte.
type dribble struct{ text string }

func (d *dribble) Read(p []byte) (int, error) {
	if d.text == "" {
		return 0, io.EOF
	}
	p[0], d.text = d.text[0], d.text[1:]
	return 1, nil
}

// FuzzPosition: of what connections repeat nothing comes twice and nothing is missing.
func FuzzPosition(f *testing.F) {
	f.Add("hallo", "wörld", uint8(3), uint8(2))
	f.Fuzz(func(t *testing.T, out, errs string, a, b uint8) {
		out, errs = strings.ToValidUTF8(out, "?"), strings.ToValidUTF8(errs, "?")
		p := position{id: "0"}
		got := map[string]string{}
		one, two := out[:int(a)%(len(out)+1)], errs[:int(b)%(len(errs)+1)]
		one, two = strings.ToValidUTF8(one, ""), strings.ToValidUTF8(two, "")
		got["stdout"] += p.take("stdout", one, "")
		got["stderr"] += p.take("stderr", two, "")
		p.again()
		got["stdout"] += p.take("stdout", out, "")
		got["stderr"] += p.take("stderr", errs, "9")
		if got["stdout"] != out || got["stderr"] != errs || p.id != "9" {
			t.Errorf("%q, want %q and %q; at %s", got, out, errs, p.id)
		}
	})
}
