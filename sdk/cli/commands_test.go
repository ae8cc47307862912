// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// service answers as the API does, and says what was asked of it. Its one execution
// prints bytes that are no UTF-8, on a connection that breaks in the middle.
type service struct {
	*httptest.Server
	t   *testing.T
	mu  sync.Mutex
	got []string
	// refuses answers a path with an error of the API's.
	refuses map[string]string
	cuts    int
}

const (
	aSession = `{"sessionId":"ses_a","state":"idle","createdAt":"2026-01-01T00:00:00Z","expiresAt":"2126-01-01T00:00:00Z","lastActive":"2026-01-01T00:00:00Z",` +
		`"previewUrl":"http://ses-a.test","resourceLimits":{"memory":1024,"cpu":0.25,"timeout":30,"disk":1},"metadata":{"evil":"\u001b[31m\u202e"},` +
		`"usage":{"memory":5000000,"disk":1,"cpuTime":10},"activeProcesses":1,"filesCount":2,"awakeBecause":[]}`
	out = "a\xffb\xc3"
)

func newService(t *testing.T) *service {
	s := &service{t: t, refuses: map[string]string{}}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.got = append(s.got, r.Method+" "+r.URL.Path)
	refusal := s.refuses[r.Method+" "+r.URL.Path]
	cuts := s.cuts
	s.cuts--
	s.mu.Unlock()
	if r.Header.Get("Authorization") != "Bearer btk_test" {
		refusal = "401 unauthorized"
	}
	if status, code, ok := strings.Cut(refusal, " "); ok {
		var n int
		_, _ = fmt.Sscan(status, &n)
		w.WriteHeader(n)
		fmt.Fprintf(w, `{"error":{"code":%q,"message":"no \u001b[31m"}}`, code)
		return
	}
	w.Header().Set("X-RateLimit-Limit", "100")
	event := func(id int, stream string, data []byte) {
		fmt.Fprintf(w, "event: %s\nid: %d\ndata: {\"data\":\"x\",\"base64\":%q}\n\n", stream, id, base64.StdEncoding.EncodeToString(data))
	}
	switch {
	case r.URL.Path == "/sessions/create", r.Method == "GET" && r.URL.Path == "/sessions/ses_a":
		fmt.Fprint(w, aSession)
	case r.URL.Path == "/sessions":
		w.Header().Set("X-Total-Count", "1")
		fmt.Fprintf(w, `{"sessions":[%s]}`, aSession)
	case r.URL.Path == "/execute" && !strings.Contains(string(body), `"stream":true`):
		fmt.Fprint(w, `{"stdout":"","exitCode":0}`)
	case r.URL.Path == "/execute", strings.HasSuffix(r.URL.Path, "/output"):
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("X-Execution-Id", "exec_a")
		from := 0
		_, _ = fmt.Sscan(r.Header.Get("Last-Event-ID"), &from)
		for i := from; i < len(out); i++ {
			event(i+1, "stdout", []byte{out[i]})
			if cuts > 0 && i == from {
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
		}
		event(len(out)+3, "stderr", []byte("err"))
		fmt.Fprintf(w, "event: result\nid: %d\ndata: {\"exitCode\":7,\"executionId\":\"exec_a\"}\n\n", len(out)+3)
	case r.URL.Path == "/files/list":
		w.WriteHeader(404)
		fmt.Fprint(w, `{"error":{"code":"file_not_found","message":"none"}}`)
	default:
		fmt.Fprint(w, `{}`)
	}
}

func (s *service) run(in string, args ...string) (code int, stdout, stderr string) {
	s.t.Helper()
	return command(s.t, map[string]string{envURL: s.URL, envKey: "btk_test"}, in, args...)
}

func (s *service) asked(what string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(strings.Join(s.got, "\n")+"\n", what+"\n")
}

// TestOutput: over a broken connection every byte comes once, whatever byte it is, and
// the exit code is the code's.
func TestOutput(t *testing.T) {
	for _, args := range [][]string{{"run", "-"}, {"exec", "ses_a", "--code", "1"}} {
		s := newService(t)
		s.cuts = 4
		code, stdout, stderr := s.run("1", args...)
		if code != 7 || stdout != out || stderr != "err" {
			t.Errorf("%q: %d, %q, %q", args, code, stdout, stderr)
		}
		if !s.asked("GET /executions/exec_a/output") || s.asked("DELETE /sessions/ses_a") != (args[0] == "run") {
			t.Errorf("%q: %q", args, s.got)
		}
	}
	s := newService(t)
	if code, stdout, _ := s.run("", "logs", "-f", "ses_a", "exec_a"); code != 0 || stdout != out {
		t.Errorf("logs: %d, %q", code, stdout)
	}
	s.refuses["POST /execute"] = "507 memory_limit_exceeded"
	if code, _, stderr := s.run("1", "run", "-"); code != codeKilled || strings.Contains(stderr, "\x1b") {
		t.Errorf("want of memory: %d, %q", code, stderr)
	}
	s.refuses["POST /execute"] = "500 internal_error"
	if code, _, _ := s.run("1", "run", "-"); code != exitOwn || !s.asked("DELETE /sessions/ses_a") {
		t.Errorf("an error of the API: %d, %q", code, s.got)
	}
}

// closed is an output that nobody reads.
type closed struct{}

var errClosed = errors.New("nobody reads")

func (closed) Write([]byte) (int, error) { return 0, errClosed }

// TestOutputUnread: a run whose output cannot be written ends its session.
func TestOutputUnread(t *testing.T) {
	s := newService(t)
	env := map[string]string{envURL: s.URL, envKey: "btk_test"}
	var said strings.Builder
	code := Main([]string{"run", "-"}, Std{In: strings.NewReader("1"), Out: closed{}, Err: &said, Getenv: func(n string) string { return env[n] }})
	if code != exitOwn || !strings.Contains(said.String(), errClosed.Error()) || !s.asked("DELETE /sessions/ses_a") {
		t.Errorf("%d, %s, %q", code, said.String(), s.got)
	}
}

// TestAnswers: tables have no control characters, and JSON is the API's.
func TestAnswers(t *testing.T) {
	for line, want := range map[string]string{
		"sessions list": `idle .* evil=\x1b[31m\u202e`, "sessions info ses_a": `evil=\x1b`, "top": "5.0 MB", "sessions create --ttl 1h": "ses_a",
		"keys": "of 100 left", "open ses_a 3000": "http://3000-ses-a.test", "sessions extend ses_a 1h": "expires", "sessions sleep ses_a": "deep-sleep",
		"sessions delete ses_a": "ses_a",
	} {
		s := newService(t)
		code, stdout, stderr := s.run("", strings.Fields(line)...)
		last := want[strings.LastIndex(want, " ")+1:]
		if code != 0 || !strings.Contains(stdout, last) || strings.ContainsAny(stdout+stderr, "\x1b\u202e") {
			t.Errorf("%s: %d, %q, %q", line, code, stdout, stderr)
		}
		code, stdout, _ = s.run("", append(strings.Fields(line), "-o", "json")...)
		if code != 0 || !json.Valid([]byte(stdout)) || strings.ContainsAny(stdout, "\x1b\u202e") {
			t.Errorf("%s -o json: %d, %q", line, code, stdout)
		}
	}
}

// TestErrors say what can be done, and have codes that scripts can tell apart.
func TestErrors(t *testing.T) {
	s := newService(t)
	s.refuses["GET /sessions/ses_x"] = "404 session_not_found"
	for line, want := range map[string]string{
		"sessions info ses_x": "1 sessions list has", "cp ses_x: here": "1 sessions list has", "open ses_x": "1 sessions list has",
		"sessions info": "2 See buntime sessions info --help", "sessions extend ses_a soon": "2 no time", "cp a b": "2 SESSION:PATH", "open ses_a x": "2 no port",
		"exec ses_a": "125 say what to run", "exec": "125 arg", "run --env =x -": "125 no name", "shell ses_a": "125 wants a terminal",
		"--key btk_bad sessions list": "1 buntime login", "nonsense": "2 unknown command", "top --sort x": "2 no order", "sessions list --metadata x": "2 NAME=VALUE",
		"logs ses_a": "1 nothing was run", "cp - ses_a:": "2 name the file", "login ftp://x": "2 no http",
	} {
		code, stdout, stderr := s.run("btk_test", strings.Fields(line)...)
		status, text, _ := strings.Cut(want, " ")
		if fmt.Sprint(code) != status || !strings.Contains(stderr, text) || stdout != "" || strings.Contains(stderr, "\x1b") {
			t.Errorf("%s: %d, %q, %q", line, code, stdout, stderr)
		}
	}
}
