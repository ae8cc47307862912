// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/api"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/keys"
	"github.com/buntime/buntime/frontend/logging"
	"github.com/buntime/buntime/frontend/node"
)

const (
	paid   = "btk_paid_0123456789"
	other  = "btk_other_0123456789"
	free   = "btk_free_0123456789"
	few    = "btk_few_0123456789"   // requests a minute
	plain  = "btk_plain_0123456789" // the free plan as it is
	op     = "btk_op_0123456789"    // an operator's
	secret = "a secret of the cluster"
)

// world is the API on stand-ins: a store and a scheduler in memory, and a node
// agent that notes what it gets.
type world struct {
	*api.Server
	t         testing.TB
	sessions  *frontend.Service
	store     *frontendtest.Store
	scheduler *frontendtest.Scheduler
	node      *fakeNode
	log       *bytes.Buffer
	config    api.Config
}

// fakeNode answers as a node agent does to who has the right token.
type fakeNode struct {
	*httptest.Server
	mu     sync.Mutex
	answer http.HandlerFunc
	got    []request
}

type request struct {
	method, path, query, body string
	header                    http.Header
}

func (n *fakeNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/health" {
		return // asked at the end of each create
	}
	body, _ := io.ReadAll(r.Body)
	n.mu.Lock()
	answer := n.answer
	n.got = append(n.got, request{r.Method, r.URL.EscapedPath(), r.URL.RawQuery, string(body), r.Header})
	n.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer(w, r)
}

// answers sets what the node says from now on.
func (n *fakeNode) answers(h http.HandlerFunc) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answer, n.got = h, nil
}

func (n *fakeNode) requests() []request {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.got
}

func bodyOf(r *http.Request) string {
	body, _ := io.ReadAll(r.Body)
	return string(body)
}

// last is the last request that the node got.
func (n *fakeNode) last(t testing.TB) request {
	t.Helper()
	got := n.requests()
	if len(got) == 0 {
		t.Fatal("the node got no request")
	}
	return got[len(got)-1]
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, text)
	}
}

func newWorld(t testing.TB) *world {
	n := &fakeNode{answer: says("{}")}
	n.Server = httptest.NewServer(n)
	t.Cleanup(n.Close)
	store := frontendtest.NewStore()
	w := &world{
		t: t, store: store, node: n, log: new(bytes.Buffer),
		scheduler: &frontendtest.Scheduler{Store: store, API: strings.TrimPrefix(n.URL, "http://")},
	}
	log := slog.New(logging.Handler(slog.NewTextHandler(&syncWriter{w: w.log}, nil)))
	client := node.NewClient([]byte(secret))
	t.Cleanup(client.Close)
	w.sessions = frontend.NewService(store, w.scheduler, client, log)
	t.Cleanup(w.sessions.Close)
	keys, err := keys.NewFile([]keys.Config{
		{Hash: keys.Hash(paid), Account: "paid", Plan: "paid", Limits: frontend.Plan{Requests: 1 << 30}},
		{Hash: keys.Hash(other), Account: "other", Plan: "paid", Limits: frontend.Plan{Requests: 1 << 30}},
		{Hash: keys.Hash(free), Account: "free", Plan: "free", Limits: frontend.Plan{Requests: 1 << 30}},
		{Hash: keys.Hash(plain), Account: "plain", Plan: "free"},
		{Hash: keys.Hash(op), Account: "op", Plan: "free", Operator: true},
		{Hash: keys.Hash(few), Account: "few", Plan: "free", Limits: frontend.Plan{Requests: 3}},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.config = api.Config{
		Sessions: w.sessions, Node: client, Keys: keys, Log: log,
		BaseURL: "http://api.test", PreviewScheme: "https", PreviewDomain: "preview.test:8443", Secret: []byte(secret),
	}
	return w.again()
}

// again is one more front-end of the same system.
func (w *world) again() *world {
	w.t.Helper()
	n := *w
	var err error
	if n.Server, err = api.New(w.config); err != nil {
		w.t.Fatal(err)
	}
	return &n
}

type syncWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *syncWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// reply is an answer.
type reply struct {
	*httptest.ResponseRecorder
	t testing.TB
}

// send makes a request with a key ("" for none) and, if body is not "", JSON.
func (w *world) send(key, method, target, body string, header ...string) reply {
	w.t.Helper()
	var from io.Reader
	if body != "" {
		from = strings.NewReader(body)
	}
	r := httptest.NewRequest(method, target, from)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
		if header[i+1] == "" {
			r.Header.Del(header[i])
		}
	}
	out := httptest.NewRecorder()
	w.ServeHTTP(out, r)
	return reply{out, w.t}
}

// create makes a session and returns its id.
func (w *world) create(key string) string {
	w.t.Helper()
	var got struct{ SessionID string }
	w.send(key, "POST", "/sessions/create", "").ok(&got)
	return got.SessionID
}

// ok fails the test unless the answer is 200, and decodes it.
func (r reply) ok(v any) {
	r.t.Helper()
	if r.Code != http.StatusOK {
		r.t.Fatalf("status %d: %s", r.Code, r.Body)
	}
	if v == nil {
		return
	}
	if err := json.Unmarshal(r.Body.Bytes(), v); err != nil {
		r.t.Fatalf("%v: %s", err, r.Body)
	}
}

type failure struct {
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details"`
}

// refused fails the test unless the answer is an error of the contract's form,
// with status and code.
func (r reply) refused(status int, code string) failure {
	r.t.Helper()
	var got struct {
		Error failure `json:"error"`
	}
	d := json.NewDecoder(bytes.NewReader(r.Body.Bytes()))
	d.DisallowUnknownFields()
	if err := d.Decode(&got); err != nil {
		r.t.Errorf("no error of ours: %v: %d %s", err, r.Code, r.Body)
	}
	if r.Code != status || got.Error.Code != code || got.Error.Message == "" {
		r.t.Errorf("got %d %s, want %d %s", r.Code, r.Body, status, code)
	}
	if kind := r.Header().Get("Content-Type"); kind != "application/json" {
		r.t.Errorf("Content-Type is %q", kind)
	}
	for _, name := range []string{"X-Request-Id", "Server-Timing", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"} {
		if r.Header().Get(name) == "" {
			r.t.Errorf("no %s", name)
		}
	}
	return got.Error
}

// field fails the test unless the answer is 400 about the field.
func (r reply) field(name string) {
	r.t.Helper()
	if f := r.refused(http.StatusBadRequest, "invalid_request"); f.Details["field"] != name {
		r.t.Errorf("field is %v, want %s: %s", f.Details["field"], name, f.Message)
	}
}

// claimAt moves a session to another epoch at an address.
func (w *world) claimAt(id string, epoch uint64, address string) {
	w.t.Helper()
	s, err := w.store.Get(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	s.Epoch = epoch
	s.Claim = claim.Claim{Session: id, Epoch: epoch, API: address}
	if err := w.store.Update(w.t.Context(), s); err != nil {
		w.t.Fatal(err)
	}
}

// serve answers a request as it stands.
func (w *world) serve(r *http.Request) *httptest.ResponseRecorder {
	out := httptest.NewRecorder()
	w.ServeHTTP(out, r)
	return out
}
