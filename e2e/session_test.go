// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// limits are a session's, as the API shows them.
type limits struct {
	Memory  int     `json:"memory"`
	CPU     float64 `json:"cpu"`
	Timeout int     `json:"timeout"`
	Disk    int     `json:"disk"`
}

// created is the answer of POST /sessions/create.
type created struct {
	SessionID      string `json:"sessionId"`
	ExpiresAt      string `json:"expiresAt"`
	PreviewURL     string `json:"previewUrl"`
	CreatedAt      string `json:"createdAt"`
	ResourceLimits limits `json:"resourceLimits"`
}

// info is the answer of GET /sessions/{id}.
type info struct {
	SessionID       string                  `json:"sessionId"`
	CreatedAt       string                  `json:"createdAt"`
	ExpiresAt       string                  `json:"expiresAt"`
	LastActive      string                  `json:"lastActive"`
	State           string                  `json:"state"`
	FilesCount      int                     `json:"filesCount"`
	ActiveProcesses int                     `json:"activeProcesses"`
	Metadata        json.RawMessage         `json:"metadata"`
	PreviewURL      string                  `json:"previewUrl"`
	ResourceLimits  limits                  `json:"resourceLimits"`
	Usage           usage                   `json:"usage"`
	AwakeBecause    []string                `json:"awakeBecause"`
	NextTransition  struct{ To, At string } `json:"nextTransition"`
	Durability      struct {
		LastCheckpoint string
		Dirty, Lost    bool
		Problem        string
	} `json:"durability"`
}

type usage struct {
	Memory  int64   `json:"memory"`
	Disk    int64   `json:"disk"`
	CPUTime float64 `json:"cpuTime"`
}

// execution is the answer of POST /execute; State is there only when it is
// read by its id.
type execution struct {
	Stdout        string   `json:"stdout"`
	Stderr        string   `json:"stderr"`
	ExitCode      int      `json:"exitCode"`
	ExecutionTime float64  `json:"executionTime"`
	MemoryUsed    int64    `json:"memoryUsed"`
	CPUTime       float64  `json:"cpuTime"`
	TimedOut      bool     `json:"timedOut"`
	FilesWritten  []string `json:"filesWritten"`
	ExecutionID   string   `json:"executionId"`
	PID           int      `json:"pid"`
	Background    bool     `json:"background"`
	Reason        string   `json:"reason"`
	Truncated     struct {
		Stdout int64 `json:"stdout"`
		Stderr int64 `json:"stderr"`
	} `json:"truncated"`
	State string `json:"state"`
}

type process struct {
	PID         int     `json:"pid"`
	ExecutionID string  `json:"executionId"`
	Command     string  `json:"command"`
	StartedAt   string  `json:"startedAt"`
	Memory      int64   `json:"memory"`
	CPUTime     float64 `json:"cpuTime"`
	Ports       []int   `json:"ports"`
}

type file struct {
	Path     string `json:"path"`
	Size     int64  `json:"size"`
	Modified string `json:"modified"`
	Type     string `json:"type"`
}

type killed struct {
	Killed int   `json:"killed"`
	PIDs   []int `json:"pids"`
}

// session is a session of a test's own, with the means to use it. All methods
// fail the test when the answer is no success.
type session struct {
	t   *testing.T
	ctx context.Context
	api *client.Client
	id  string
	created
}

// newSession makes a session of the enterprise account with default limits; it lives
// until the test ends.
func newSession(t *testing.T) *session {
	t.Helper()
	return createSession(t, deadline(t, usual), enterprise(), nil)
}

// createSession makes a session from a request's body; nil sends none.
func createSession(t *testing.T, ctx context.Context, api *client.Client, body M) *session {
	t.Helper()
	call := client.Call{Method: "POST", Path: "/sessions/create"}
	if body != nil {
		call.JSON = body
	}
	c := decode[created](t, send(t, ctx, api, call))
	dropLater(t, api, c.SessionID)
	return &session{t: t, ctx: ctx, api: api, id: c.SessionID, created: c}
}

// dropLater deletes a session when the test is over, if it is still there.
func dropLater(t *testing.T, api *client.Client, id string) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		reply, err := api.Do(ctx, client.Call{Method: "DELETE", Path: "/sessions/" + id})
		if err != nil {
			t.Errorf("delete session of the test: %v", err)
			return
		}
		if reply.Status != http.StatusOK && reply.Status != http.StatusNotFound {
			t.Errorf("delete session of the test: status %d: %s", reply.Status, reply.Body)
		}
	})
}

// in is the same session for a sub-test.
func (s *session) in(t *testing.T) *session {
	c := *s
	c.t = t
	return &c
}

// get, post and del call an endpoint for this session with whatever outcome.
func (s *session) get(path string, query ...string) *client.Reply {
	s.t.Helper()
	return send(s.t, s.ctx, s.api, client.Call{Method: "GET", Path: path, Query: s.query(query)})
}

func (s *session) post(path string, body M) *client.Reply {
	s.t.Helper()
	return send(s.t, s.ctx, s.api, client.Call{Method: "POST", Path: path, JSON: s.body(body)})
}

func (s *session) del(path string, query ...string) *client.Reply {
	s.t.Helper()
	return send(s.t, s.ctx, s.api, client.Call{Method: "DELETE", Path: path, Query: s.query(query)})
}

func (s *session) body(body M) M {
	full := M{"sessionId": s.id}
	maps.Copy(full, body)
	return full
}

// query is the session's id and further names and values in turn.
func (s *session) query(pairs []string) url.Values {
	v := url.Values{"sessionId": {s.id}}
	for i := 0; i+1 < len(pairs); i += 2 {
		v.Set(pairs[i], pairs[i+1])
	}
	return v
}

// execute runs what the body says and wants a result.
func (s *session) execute(body M) execution {
	s.t.Helper()
	return decode[execution](s.t, s.post("/execute", body))
}

func (s *session) code(source string) execution {
	s.t.Helper()
	return s.execute(M{"code": source})
}

func (s *session) command(line string) execution {
	s.t.Helper()
	return s.execute(M{"command": line})
}

// print runs code that has to end well and say nothing on stderr, and returns
// its output.
func (s *session) print(source string) string {
	s.t.Helper()
	return s.well(s.code(source))
}

// shell is print for a command.
func (s *session) shell(line string) string {
	s.t.Helper()
	return s.well(s.command(line))
}

func (s *session) well(r execution) string {
	s.t.Helper()
	if r.ExitCode != 0 || r.Stderr != "" {
		s.t.Fatalf("execution ended with %d (%s), stdout %s, stderr %s", r.ExitCode, r.Reason, brief(r.Stdout), brief(r.Stderr))
	}
	return r.Stdout
}

// background runs code that has to stay as a server.
func (s *session) background(source string) execution {
	s.t.Helper()
	r := s.code(source)
	if !r.Background || r.ExitCode != 0 {
		s.t.Fatalf("want a background process, got exit code %d, background %v, reason %q, stderr %s",
			r.ExitCode, r.Background, r.Reason, brief(r.Stderr))
	}
	return r
}

// started is an execution whose answer is not there yet.
type started struct {
	s      *session
	answer chan answer
}

type answer struct {
	reply *client.Reply
	err   error
}

// begin sends an execute call without waiting for its answer.
func (s *session) begin(body M) *started {
	r := &started{s: s, answer: make(chan answer, 1)}
	ctx, call := s.ctx, client.Call{Method: "POST", Path: "/execute", JSON: s.body(body)}
	go func() {
		reply, err := s.api.Do(ctx, call)
		r.answer <- answer{reply, err}
	}()
	return r
}

// reply waits for the answer.
func (r *started) reply() *client.Reply {
	r.s.t.Helper()
	a := <-r.answer
	if a.err != nil {
		r.s.t.Fatalf("execute: %v (%v)", a.err, context.Cause(r.s.ctx))
	}
	return a.reply
}

func (r *started) result() execution {
	r.s.t.Helper()
	return decode[execution](r.s.t, r.reply())
}

func (s *session) info() info {
	s.t.Helper()
	return decode[info](s.t, s.toldReply())
}

// toldReply is infoReply once the session's node has told of it, if it is on one: where
// that has not answered for a second, as on a busy machine, it is of the record alone,
// which knows of no usage.
func (s *session) toldReply() *client.Reply {
	s.t.Helper()
	var reply *client.Reply
	eventually(s.t, s.ctx, "its node tells of "+s.id, usual, func() (bool, string) {
		reply = s.infoReply()
		i := decode[info](s.t, reply)
		return i.State == "deep-sleep" || i.Usage.Memory > 0, brief(i)
	})
	return reply
}

func (s *session) infoReply() *client.Reply {
	s.t.Helper()
	return send(s.t, s.ctx, s.api, client.Call{Method: "GET", Path: "/sessions/" + s.id})
}

func (s *session) processes() []process {
	s.t.Helper()
	return decode[struct {
		Processes []process `json:"processes"`
	}](s.t, s.get("/processes")).Processes
}

func (s *session) kill(body M) killed {
	s.t.Helper()
	return decode[killed](s.t, s.post("/execution/kill", body))
}

func (s *session) write(path, content string) {
	s.t.Helper()
	status(s.t, s.post("/files/write", M{"path": path, "content": content}), http.StatusOK)
}

func (s *session) read(path string) string {
	s.t.Helper()
	reply := s.get("/files/read", "path", path)
	status(s.t, reply, http.StatusOK)
	return string(reply.Body)
}

func (s *session) list(query ...string) []file {
	s.t.Helper()
	return decode[struct {
		Files []file `json:"files"`
	}](s.t, s.get("/files/list", query...)).Files
}

// names are the paths of a listing.
func names(files []file) []string {
	paths := make([]string, 0, len(files))
	for _, f := range files {
		paths = append(paths, f.Path)
	}
	return paths
}

// waitFor waits until code in the session has made a file.
func (s *session) waitFor(path string) {
	s.t.Helper()
	eventually(s.t, s.ctx, "file "+path, 20*time.Second, func() (bool, string) {
		reply := s.get("/files/read", "path", path)
		return reply.Status == http.StatusOK, string(reply.Body)
	})
}

// host is the session's label in the preview domain.
func (s *session) host() string { return strings.Replace(s.id, "_", "-", 1) }

// untilFile is code that waits for a file in the working directory. The Bun in
// a session has no event for it that a write by rename could not miss.
func untilFile(path string) string {
	return `while (!(await Bun.file(` + quote(path) + `).exists())) await Bun.sleep(10);`
}

// quote is a text as a literal of JavaScript.
func quote(text string) string {
	literal, err := json.Marshal(text)
	if err != nil {
		panic(err)
	}
	return string(literal)
}
