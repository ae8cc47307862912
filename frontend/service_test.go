// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

// world is a Service on stand-ins.
type world struct {
	*frontend.Service
	store     *frontendtest.Store
	scheduler *frontendtest.Scheduler
	node      *nodeStub
	ahead     atomic.Int64 // of the clock, in ns
}

type nodeStub struct {
	info frontend.Info
	err  error
	// infos, if not nil, is asked instead of info and err.
	infos func(context.Context, *frontend.Session) (frontend.Info, error)
	// sleep is what a node does that is told to put a session to sleep.
	sleep func(*frontend.Session) error
	// alive, if not nil, is what a node says that is asked whether it is there.
	alive func(context.Context, *frontend.Session) error
	// end, if not nil, is what one does that is told that a session has ended.
	end func(context.Context, *frontend.Session) error
	// extend is what one does that is told to look when a session ends.
	extend func(*frontend.Session) error
	// prepared and begin, if not nil, are what one does that has a slot.
	prepared, begin func(context.Context, *frontend.Session) error
}

func (n *nodeStub) Prepared(ctx context.Context, sess *frontend.Session) error {
	if n.prepared != nil {
		return n.prepared(ctx, sess)
	}
	return nil
}

func (n *nodeStub) Begin(ctx context.Context, sess *frontend.Session) error {
	if n.begin != nil {
		return n.begin(ctx, sess)
	}
	return nil
}

func (n *nodeStub) Alive(ctx context.Context, sess *frontend.Session) error {
	if n.alive != nil {
		return n.alive(ctx, sess)
	}
	return n.err
}

func (n *nodeStub) End(ctx context.Context, sess *frontend.Session) error {
	if n.end != nil {
		return n.end(ctx, sess)
	}
	return nil
}

func (n *nodeStub) Extend(_ context.Context, sess *frontend.Session) error { return n.extend(sess) }

func (n *nodeStub) Sleep(_ context.Context, sess *frontend.Session, _ frontend.State, _ bool) error {
	return n.sleep(sess)
}

func (n *nodeStub) Info(ctx context.Context, sess *frontend.Session) (frontend.Info, error) {
	if n.infos != nil {
		return n.infos(ctx, sess)
	}
	return n.info, n.err
}

func newWorld(t *testing.T) *world {
	store := frontendtest.NewStore()
	w := &world{store: store, scheduler: &frontendtest.Scheduler{Store: store, API: "api:1", Preview: "preview:1"}, node: &nodeStub{}}
	w.Service = w.another()
	t.Cleanup(func() { w.Close() })
	return w
}

// another is one more front-end in the same world.
func (w *world) another() *frontend.Service {
	s := frontend.NewService(w.store, w.scheduler, w.node, slog.New(slog.DiscardHandler))
	s.Now = func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }
	return s
}

func (w *world) forward(d time.Duration) { w.ahead.Add(int64(d)) }

func key(t *testing.T, account, plan string) frontend.Key {
	t.Helper()
	p, err := frontend.FindPlan(plan)
	if err != nil {
		t.Fatal(err)
	}
	return frontend.Key{Account: account, Plan: plan, Allowed: p}
}

func (w *world) create(t *testing.T, account string) *frontend.Session {
	t.Helper()
	s, err := w.Create(t.Context(), key(t, account, "paid"), frontend.CreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantCode fails the test unless err is an Error with the code.
func wantCode(t *testing.T, what string, err error, code frontend.Code) {
	t.Helper()
	e, ok := errors.AsType[*frontend.Error](err)
	if !ok || e.Code != code {
		t.Errorf("%s: got %v, want %s", what, err, code)
	}
}

// empty fails the test unless nothing of any session is left.
func (w *world) empty(t *testing.T) {
	t.Helper()
	records, err := w.store.All(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	claims, err := w.store.Traces(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := w.scheduler.Jobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(records)+len(claims)+len(jobs) > 0 {
		t.Errorf("left: %d records, claims %v, jobs %v", len(records), claims, jobs)
	}
}

func TestCreate(t *testing.T) {
	w := newWorld(t)
	s := w.create(t, "a")
	if !frontend.ValidID(s.ID) || len(s.ID) != 24 || !s.Placed() || s.Claim.API != "api:1" {
		t.Errorf("session: %+v", s)
	}
	if s.Expires.Sub(s.Created) != 24*time.Hour || string(s.Metadata) != "{}" {
		t.Errorf("session: %+v", s)
	}
	w.Close() // the record's last change
	r, err := w.store.Get(t.Context(), s.ID)
	if err != nil || r.State != frontend.StateActive || !r.Placed() {
		t.Errorf("record: %+v, %v", r, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	ttl := func(n int) frontend.CreateRequest { return frontend.CreateRequest{TTL: &n} }
	limits := func(l frontend.LimitsRequest) frontend.CreateRequest { return frontend.CreateRequest{Limits: &l} }
	for _, c := range []struct {
		plan    string
		request frontend.CreateRequest
		code    frontend.Code
		field   string
	}{
		{"free", ttl(299), "invalid_request", "ttl"},
		{"free", ttl(0), "invalid_request", "ttl"},
		{"free", ttl(-1), "invalid_request", "ttl"},
		{"free", ttl(300), "", ""},
		{"free", ttl(86400), "", ""},
		{"free", ttl(86401), "invalid_request", "ttl"},
		{"paid", ttl(604800), "", ""},
		{"paid", ttl(604801), "invalid_request", "ttl"},
		{"free", limits(frontend.LimitsRequest{}), "", ""},
		{"free", limits(frontend.LimitsRequest{Memory: new(1024), CPU: new(0.25), Timeout: new(30), Disk: new(1024)}), "", ""},
		{"free", limits(frontend.LimitsRequest{Memory: new(512)}), "forbidden", "resourceLimits.memory"},
		{"free", limits(frontend.LimitsRequest{CPU: new(0.5)}), "forbidden", "resourceLimits.cpu"},
		{"free", limits(frontend.LimitsRequest{Timeout: new(31)}), "forbidden", "resourceLimits.timeout"},
		{"free", limits(frontend.LimitsRequest{Disk: new(512)}), "forbidden", "resourceLimits.disk"},
		{"free", limits(frontend.LimitsRequest{Memory: new(0)}), "invalid_request", "resourceLimits.memory"},
		{"paid", limits(frontend.LimitsRequest{Memory: new(4096), CPU: new(1.0), Timeout: new(300), Disk: new(5120)}), "", ""},
		{"paid", limits(frontend.LimitsRequest{Memory: new(4097)}), "forbidden", "resourceLimits.memory"},
		{"paid", limits(frontend.LimitsRequest{CPU: new(1.01)}), "forbidden", "resourceLimits.cpu"},
		{"paid", limits(frontend.LimitsRequest{Timeout: new(301)}), "forbidden", "resourceLimits.timeout"},
		{"paid", limits(frontend.LimitsRequest{Disk: new(5121)}), "forbidden", "resourceLimits.disk"},
		{"paid", limits(frontend.LimitsRequest{Memory: new(-1)}), "invalid_request", "resourceLimits.memory"},
		{"paid", limits(frontend.LimitsRequest{CPU: new(0.0)}), "invalid_request", "resourceLimits.cpu"},
		{"paid", limits(frontend.LimitsRequest{Timeout: new(0)}), "invalid_request", "resourceLimits.timeout"},
		{"paid", frontend.CreateRequest{Metadata: make(json.RawMessage, 16385)}, "invalid_request", "metadata"},
	} {
		s, err := w.Create(t.Context(), key(t, fmt.Sprint(c), c.plan), c.request)
		if c.code == "" {
			if err != nil {
				t.Errorf("%+v: %v", c, err)
			} else if err := w.Delete(t.Context(), s.Account, s.ID); err != nil {
				t.Error(err)
			}
			continue
		}
		wantCode(t, fmt.Sprintf("%s %+v", c.plan, c.request), err, c.code)
		if e, ok := errors.AsType[*frontend.Error](err); ok && e.Details["field"] != c.field {
			t.Errorf("%+v: field %v, want %s", c.request, e.Details["field"], c.field)
		}
	}
	w.empty(t)
}

// TestSessionLimit: at the edge, of any number of creates at once exactly as
// many go through as there is room for, through however many front-ends.
func TestSessionLimit(t *testing.T) {
	w := newWorld(t)
	k := key(t, "a", "free")
	fronts := []*frontend.Service{w.Service, w.another(), w.another()}
	var good, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			if _, err := fronts[i%3].Create(t.Context(), k, frontend.CreateRequest{}); err != nil {
				wantCode(t, "create", err, frontend.CodeSessionLimit)
				refused.Add(1)
				return
			}
			good.Add(1)
		})
	}
	wg.Wait()
	for _, f := range fronts {
		f.Close()
	}
	if good.Load() != 10 || refused.Load() != 50 {
		t.Errorf("%d went through, %d were refused", good.Load(), refused.Load())
	}
	list, total, err := w.List(t.Context(), "a", frontend.ListRequest{Limit: 100})
	if err != nil || total != 10 || len(list) != 10 {
		t.Errorf("list: %d of %d, %v", len(list), total, err)
	}
	// One less, one more; then all of them expire, before any is reaped.
	if err := w.Delete(t.Context(), "a", list[0].ID); err != nil {
		t.Fatal(err)
	}
	for _, want := range []frontend.Code{"", frontend.CodeSessionLimit} {
		if _, err := w.Create(t.Context(), k, frontend.CreateRequest{}); want != "" {
			wantCode(t, "create", err, want)
		} else if err != nil {
			t.Error(err)
		}
	}
	w.forward(24 * time.Hour)
	if _, err := w.Create(t.Context(), k, frontend.CreateRequest{}); err != nil {
		t.Errorf("after all have expired: %v", err)
	}
}

// TestCreateFails: whatever step fails, nothing stays.
func TestCreateFails(t *testing.T) {
	down := fmt.Errorf("test: %w", frontend.ErrUnavailable)
	for _, step := range []string{"Create", "Account", "Start", "WaitClaim"} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			fail := func(method string) error {
				if method == step {
					return down
				}
				return nil
			}
			w.store.SetFail(fail)
			w.scheduler.Fail = fail
			_, err := w.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{})
			if !errors.Is(err, frontend.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			w.empty(t)
		})
	}
}

// TestCreateNotServed: a session whose sandbox does not come up after its node has
// claimed it is made anew, and nothing of it stays; one that takes its time is kept.
func TestCreateNotServed(t *testing.T) {
	away := fmt.Errorf("test: %w", frontend.ErrAway)
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, test := range map[string]struct {
		alive  func(ctx context.Context, asked int) error
		lost   bool          // what does not answer has ended
		gone   time.Duration // until the client goes away
		starts int
		fails  bool
	}{
		"once":         {func(_ context.Context, asked int) error { return []error{away, nil}[asked] }, true, 0, 2, false},
		"never":        {func(context.Context, int) error { return away }, true, 0, 3, true},
		"comes back":   {func(_ context.Context, asked int) error { return []error{away, away, nil}[asked] }, false, 0, 1, false},
		"slow":         {func(ctx context.Context, _ int) error { return hangs(ctx) }, false, 0, 1, false},
		"nobody waits": {func(ctx context.Context, _ int) error { return hangs(ctx) }, false, time.Second, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				var asked []string
				w.node.alive = func(ctx context.Context, sess *frontend.Session) error {
					asked = append(asked, sess.ID)
					if test.lost {
						w.scheduler.End(sess.ID, sess.Epoch)
					}
					return test.alive(ctx, len(asked)-1)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if test.gone > 0 {
					time.AfterFunc(test.gone, cancel)
				}
				k := key(t, "a", "paid")
				k.Allowed.Sessions = 1 // what is not there any more does not count
				sess, err := w.Create(ctx, k, frontend.CreateRequest{})
				if w.scheduler.Starts != test.starts {
					t.Errorf("%d starts", w.scheduler.Starts)
				}
				if (err != nil) != test.fails {
					t.Fatal(err)
				}
				if err == nil {
					if sess.ID != asked[len(asked)-1] {
						t.Errorf("made %s, asked for %v", sess.ID, asked)
					}
					if err := w.Delete(t.Context(), "a", sess.ID); err != nil {
						t.Error(err)
					}
				} else if test.gone == 0 {
					wantCode(t, "create", err, frontend.CodeServiceUnavailable)
				}
				synctest.Wait()
				w.empty(t)
			})
		})
	}
}

// TestNoNode: a session that no node takes is given up in time.
func TestNoNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.scheduler.Idle = true
		begin := time.Now()
		_, err := w.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{})
		wantCode(t, "create", err, frontend.CodeServiceUnavailable)
		if e, ok := errors.AsType[*frontend.Error](err); ok && e.RetryAfter == 0 {
			t.Error("no Retry-After")
		}
		if took := time.Since(begin); took != 9*time.Second {
			t.Errorf("it took %v", took)
		}
		w.empty(t)
	})
}

// TestClientGone: nobody would know the id of a session whose maker went away.
func TestClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.scheduler.Idle = true
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		if _, err := w.Create(ctx, key(t, "a", "paid"), frontend.CreateRequest{}); err == nil {
			t.Error("created")
		}
		w.empty(t)
	})
}
