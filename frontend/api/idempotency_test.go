// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/frontend"
)

const idempotencyKey = "Idempotency-Key"

// executions is a node that runs what it is sent, once for each id, and knows the
// answers.
type executions struct {
	mu   sync.Mutex
	runs []string // ids
	// lose breaks the connection after so many runs.
	lose int
}

func (e *executions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Method == http.MethodPost {
		id := stringBetween(bodyOf(r), `"executionId":"`, `"`)
		e.runs = append(e.runs, id)
		if e.lose > 0 {
			e.lose--
			panic(http.ErrAbortHandler)
		}
		fmt.Fprintf(w, `{"executionId":%q,"stdout":"run %d"}`, id, len(e.runs))
		return
	}
	for i, id := range e.runs {
		if strings.Contains(r.URL.Path, id) {
			if strings.HasSuffix(r.URL.Path, "/output") {
				w.Header().Set("Content-Type", "text/event-stream")
			}
			fmt.Fprintf(w, `{"executionId":%q,"stdout":"run %d"}`, id, i+1)
			return
		}
	}
	w.WriteHeader(http.StatusNotFound)
	fmt.Fprint(w, `{"error":{"code":"execution_not_found","message":"no"}}`)
}

func (e *executions) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.runs)
}

func stringBetween(s, before, after string) string {
	_, s, _ = strings.Cut(s, before)
	s, _, _ = strings.Cut(s, after)
	return s
}

// all sends the same request n times at once and returns the answers.
func (w *world) all(n int, key, target, body, name string) []reply {
	out := make([]reply, n)
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { out[i] = w.send(key, "POST", target, body, idempotencyKey, name) })
	}
	wg.Wait()
	return out
}

// TestRepeatedCreate: of equal requests at once one creates, and all get its answer;
// so does who comes later.
func TestRepeatedCreate(t *testing.T) {
	w := newWorld(t)
	body := `{"ttl":600,"metadata":{"a":1}}`
	var first string
	for _, r := range append(w.all(8, paid, "/sessions/create", body, "one"), w.send(paid, "POST", "/sessions/create", body, idempotencyKey, "one")) {
		r.ok(nil)
		if first == "" {
			first = r.Body.String()
		}
		if r.Body.String() != first || r.Header().Get(idempotencyKey) != "one" {
			t.Errorf("got %s, want %s; %v", r.Body, first, r.Header())
		}
	}
	if w.scheduler.Starts != 1 {
		t.Errorf("%d sessions were started", w.scheduler.Starts)
	}
	w.send(paid, "POST", "/sessions/create", `{"ttl":601}`, idempotencyKey, "one").refused(409, "idempotency_conflict")
	w.send(paid, "POST", "/execute", `{"sessionId":"`+stringBetween(first, `"sessionId":"`, `"`)+`","code":""}`, idempotencyKey, "one").refused(409, "idempotency_conflict")
	// Another account's key is another.
	if r := w.send(other, "POST", "/sessions/create", body, idempotencyKey, "one"); r.Code != 200 || r.Body.String() == first {
		t.Errorf("%d %s", r.Code, r.Body)
	}
	// Also when the session is gone, its create is not done again.
	w.send(paid, "DELETE", "/sessions/"+stringBetween(first, `"sessionId":"`, `"`), "").ok(nil)
	if r := w.send(paid, "POST", "/sessions/create", body, idempotencyKey, "one"); r.Body.String() != first {
		t.Errorf("after delete: %s", r.Body)
	}
}

// TestKeyStaysFree: a request of which nothing was done leaves its key free.
func TestKeyStaysFree(t *testing.T) {
	w := newWorld(t)
	w.send(paid, "POST", "/sessions/create", `{"ttl":1}`, idempotencyKey, "free").field("ttl")
	w.scheduler.Fail = func(string) error { return errDown }
	w.send(paid, "POST", "/sessions/create", "", idempotencyKey, "free").refused(503, "service_unavailable")
	w.scheduler.Fail = nil
	var made struct{ SessionID string }
	w.send(paid, "POST", "/sessions/create", `{"ttl":700}`, idempotencyKey, "free").ok(&made)

	id := made.SessionID
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`"}`, idempotencyKey, "e").field("code")
	w.send(paid, "POST", "/execute", `{"sessionId":"ses_unknown","code":""}`, idempotencyKey, "e").refused(404, "session_not_found")
	w.node.answers(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Buntime-Done", "no")
		rw.Header().Set("Content-Type", "application/json")
		rw.WriteHeader(503)
		fmt.Fprint(rw, `{"error":{"code":"service_unavailable","message":"no","details":{"done":"no"}}}`)
	})
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"0"}`, idempotencyKey, "e").refused(503, "service_unavailable")
	node := new(executions)
	w.node.answers(node.ServeHTTP)
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`, idempotencyKey, "e").ok(nil)
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"2"}`, idempotencyKey, "e").refused(409, "idempotency_conflict")
	if node.count() != 1 {
		t.Errorf("it ran %d times", node.count())
	}
}

// TestRepeatedExecute: of equal requests at once one runs, and all get its answer.
func TestRepeatedExecute(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	for _, body := range []string{`{"sessionId":"` + id + `","code":"1"}`, `{"sessionId":"` + id + `","code":"1","stream":true}`} {
		node := new(executions)
		w.node.answers(node.ServeHTTP)
		for _, r := range append(w.all(8, paid, "/execute", body, "key"+body[len(body)-5:]), w.send(paid, "POST", "/execute", body, idempotencyKey, "key"+body[len(body)-5:])) {
			r.ok(nil)
			if !strings.Contains(r.Body.String(), `"run 1"`) || r.Header().Get("X-Execution-Id") != node.runs[0] || r.Header().Get(idempotencyKey) == "" {
				t.Errorf("%s %v", r.Body, r.Header())
			}
		}
		if node.count() != 1 {
			t.Errorf("%s ran %d times", body, node.count())
		}
	}
}

// TestExecuteCutOff: after the connection to the node broke nobody knows, and a
// repeated request finds what came of it.
func TestExecuteCutOff(t *testing.T) {
	w := newWorld(t)
	body := `{"sessionId":"` + w.create(paid) + `","code":"1"}`
	node := &executions{lose: 1}
	w.node.answers(node.ServeHTTP)
	f := w.send(paid, "POST", "/execute", body, idempotencyKey, "cut").refused(503, "service_unavailable")
	if f.Details["done"] != "unknown" {
		t.Errorf("details %v", f.Details)
	}
	w.send(paid, "POST", "/execute", body, idempotencyKey, "cut").ok(nil)
	if node.count() != 1 {
		t.Errorf("it ran %d times", node.count())
	}
}

// TestFrontEndDies: what is left of a front-end that died over a request with a key.
func TestFrontEndDies(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	node := new(executions)
	w.node.answers(node.ServeHTTP)
	body := `{"sessionId":"` + id + `","code":"1"}`
	var clock struct {
		sync.Mutex
		ahead time.Duration
	}
	w.sessions.Now = func() time.Time {
		clock.Lock()
		defer clock.Unlock()
		return time.Now().Add(clock.ahead)
	}
	later := func(d time.Duration) {
		clock.Lock()
		defer clock.Unlock()
		clock.ahead += d
	}

	t.Run("before it was done with a create", func(t *testing.T) {
		// It cannot note the answer, nor undo anything.
		w.store.SetFail(func(method string) error {
			if method == "WaitClaim" || method == "Delete" || method == "DropReceipt" || method == "Get" {
				return errDown
			}
			return nil
		})
		w.send(paid, "POST", "/sessions/create", "", idempotencyKey, "dies").refused(503, "service_unavailable")
		w.store.SetFail(nil)
		later(time.Minute)
		var made struct{ SessionID string }
		w.send(paid, "POST", "/sessions/create", "", idempotencyKey, "dies").ok(&made)
		again := w.send(paid, "POST", "/sessions/create", "", idempotencyKey, "dies")
		if !strings.Contains(again.Body.String(), made.SessionID) {
			t.Errorf("got %s, want %s", again.Body, made.SessionID)
		}
		all, err := w.store.All(t.Context(), "")
		if err != nil || len(all) != 2 {
			t.Errorf("%d sessions, want the one of the test and one: %v", len(all), err)
		}
	})
	t.Run("before it has sent an execution", func(t *testing.T) {
		down := errors.New("stopped")
		w.store.SetFail(func(method string) error {
			if method == "DropReceipt" {
				return down
			}
			return nil
		})
		w.node.answers(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Buntime-Done", "no")
			rw.WriteHeader(503)
		})
		w.send(paid, "POST", "/execute", body, idempotencyKey, "unsent")
		w.store.SetFail(nil)
		w.node.answers(node.ServeHTTP)
		later(time.Minute)
		f := w.send(paid, "POST", "/execute", body, idempotencyKey, "unsent").refused(409, "idempotency_conflict")
		if f.Details["done"] != "unknown" || node.count() != 0 {
			t.Errorf("%v; it ran %d times", f, node.count())
		}
	})
	t.Run("and after a day the key is free", func(t *testing.T) {
		later(frontend.ReceiptsKept)
		w.send(paid, "POST", "/execute", body, idempotencyKey, "unsent").refused(404, "session_not_found")
		body := `{"sessionId":"` + w.create(paid) + `","code":"2"}`
		w.send(paid, "POST", "/execute", body, idempotencyKey, "unsent").ok(nil)
	})
}

// TestKeyForms: what is no key is refused.
func TestKeyForms(t *testing.T) {
	w := newWorld(t)
	for _, key := range []string{strings.Repeat("x", 256), "a b", "é", "\t"} {
		w.send(paid, "POST", "/sessions/create", "", idempotencyKey, key).field(idempotencyKey)
	}
	w.send(paid, "POST", "/sessions/create", "", idempotencyKey, strings.Repeat("x", 255)).ok(nil)
}

// TestCreateUnderWay: who repeats a create that takes its time is told to come again.
func TestCreateUnderWay(t *testing.T) {
	w := newWorld(t)
	w.scheduler.Idle = true
	send := func(ctx context.Context) reply {
		r := httptest.NewRequest("POST", "/sessions/create", nil).WithContext(ctx)
		r.Header.Set("Authorization", "Bearer "+paid)
		r.Header.Set(idempotencyKey, "slow")
		return reply{w.serve(r), t}
	}
	first, giveUp := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { send(first) })
	for w.store.Receipts() == 0 {
		time.Sleep(time.Millisecond)
	}
	second, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	r := send(second)
	f := r.refused(503, "service_unavailable")
	if r.Header().Get("Retry-After") == "" || f.Details["done"] != "unknown" {
		t.Errorf("%v %v", f, r.Header())
	}
	giveUp()
	all.Wait()
	if n := w.store.Receipts(); n != 0 {
		t.Errorf("%d receipts are left of a request that was given up", n)
	}
}
