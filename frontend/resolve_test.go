// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

func TestResolve(t *testing.T) {
	w := newWorld(t)
	s := w.create(t, "a")
	w.Close()
	before := w.store.Gets
	for range 100 {
		if r, err := w.Resolve(t.Context(), "a", s.ID); err != nil || r.Claim.API != "api:1" {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	if n := w.store.Gets - before; n > 1 {
		t.Errorf("100 resolves read the record %d times", n)
	}
	for _, id := range []string{"", "ses", "ses_", "ses_A", "ses-" + s.ID[4:], s.ID + "x", "ses_ü", "ses_\x00", "ses_../x", frontend.NewID()} {
		_, err := w.Resolve(t.Context(), "a", id)
		wantCode(t, id, err, frontend.CodeSessionNotFound)
		_, err = w.ResolvePreview(t.Context(), id)
		wantCode(t, id, err, frontend.CodeSessionNotFound)
		wantCode(t, id, w.Delete(t.Context(), "a", id), frontend.CodeSessionNotFound)
	}
	_, err := w.Resolve(t.Context(), "b", s.ID)
	wantCode(t, "another's", err, frontend.CodeSessionNotFound)
	_, _, err = w.Get(t.Context(), "b", s.ID)
	wantCode(t, "get another's", err, frontend.CodeSessionNotFound)
	wantCode(t, "delete another's", w.Delete(t.Context(), "b", s.ID), frontend.CodeSessionNotFound)
	if _, err := w.ResolvePreview(t.Context(), s.ID); err != nil {
		t.Errorf("preview: %v", err)
	}
}

// TestResolveTogether: many who ask at once cost one reading.
func TestResolveTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.create(t, "a")
		other := w.another()
		before := w.store.Gets
		release := make(chan struct{})
		w.store.SetFail(func(method string) error {
			if method == "Get" {
				<-release
			}
			return nil
		})
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := other.Resolve(t.Context(), "a", s.ID); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if n := w.store.Gets - before; n != 1 {
			t.Errorf("read %d times", n)
		}
	})
}

// TestResolveStarting: a session whose maker died before it noted the claim.
func TestResolveStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := frontendtest.Session("a")
		if err := w.store.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(3*time.Second, func() {
			w.store.PutClaim(claim.Claim{Session: s.ID, Epoch: 1, API: "late:1"})
		})
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				r, err := w.Resolve(t.Context(), "a", s.ID)
				if err != nil || r.Claim.API != "late:1" || r.State != frontend.StateActive {
					t.Errorf("%+v, %v", r, err)
				}
			})
		}
		wg.Wait()
		w.Close()
		if r, err := w.store.Get(t.Context(), s.ID); err != nil || !r.Placed() {
			t.Errorf("record: %+v, %v", r, err)
		}
	})
}

func TestGet(t *testing.T) {
	w := newWorld(t)
	s := w.create(t, "a")
	active := s.Created.Add(time.Minute)
	w.node.info = frontend.Info{State: frontend.StateIdle, LastActive: active, FilesCount: 3}
	_, info, err := w.Get(t.Context(), "a", s.ID)
	if err != nil || info.FilesCount != 3 || info.State != frontend.StateIdle || !info.LastActive.Equal(active) {
		t.Errorf("%+v, %v", info, err)
	}
	w.node.err = errors.New("node is away")
	_, info, err = w.Get(t.Context(), "a", s.ID)
	if err != nil || info.State != frontend.StateActive || !info.LastActive.Equal(s.Created) {
		t.Errorf("without the node: %+v, %v", info, err)
	}
}

func TestExpiry(t *testing.T) {
	w := newWorld(t)
	s, err := w.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{TTL: new(300)})
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	w.forward(time.Until(s.Expires) - time.Second)
	if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil {
		t.Errorf("a second before: %v", err)
	}
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil {
		t.Errorf("after a reap: %v", err)
	}
	w.forward(time.Second)
	_, err = w.Resolve(t.Context(), "a", s.ID)
	wantCode(t, "resolve", err, frontend.CodeSessionNotFound)
	_, err = w.ResolvePreview(t.Context(), s.ID)
	wantCode(t, "preview", err, frontend.CodeSessionNotFound)
	_, _, err = w.Get(t.Context(), "a", s.ID)
	wantCode(t, "get", err, frontend.CodeSessionNotFound)
	wantCode(t, "delete", w.Delete(t.Context(), "a", s.ID), frontend.CodeSessionNotFound)
	if list, total, err := w.List(t.Context(), "a", frontend.ListRequest{Limit: 10}); err != nil || len(list)+total != 0 {
		t.Errorf("list: %d, %d, %v", len(list), total, err)
	}
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.empty(t)
}

func TestList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var want []string
		for i := range 5 {
			time.Sleep(time.Second)
			s, err := w.Create(t.Context(), key(t, "a", "paid"), frontend.CreateRequest{
				Metadata: json.RawMessage(fmt.Sprintf(`{"n":%d,"name":"s%d","odd":%t,"a.b":null}`, i, i, i%2 == 1)),
			})
			if err != nil {
				t.Fatal(err)
			}
			want = slices.Insert(want, 0, s.ID)
		}
		w.create(t, "b")
		for _, c := range []struct {
			request frontend.ListRequest
			want    []string
			total   int
		}{
			{frontend.ListRequest{Limit: 10}, want, 5},
			{frontend.ListRequest{Limit: 2}, want[:2], 5},
			{frontend.ListRequest{Limit: 2, Offset: 4}, want[4:], 5},
			{frontend.ListRequest{Limit: 2, Offset: 5}, nil, 5},
			{frontend.ListRequest{Limit: 2, Offset: 1e9}, nil, 5},
			{frontend.ListRequest{Limit: 10, State: frontend.StateActive}, want, 5},
			{frontend.ListRequest{Limit: 10, State: frontend.StateIdle}, nil, 0},
			{frontend.ListRequest{Limit: 10, Metadata: map[string]string{"name": "s3"}}, want[1:2], 1},
			{frontend.ListRequest{Limit: 10, Metadata: map[string]string{"n": "3"}}, want[1:2], 1},
			{frontend.ListRequest{Limit: 1, Metadata: map[string]string{"odd": "false"}}, want[:1], 3},
			{frontend.ListRequest{Limit: 10, Metadata: map[string]string{"a.b": "null"}}, want, 5},
			{frontend.ListRequest{Limit: 10, Metadata: map[string]string{"none": ""}}, nil, 0},
			{frontend.ListRequest{Limit: 10, Metadata: map[string]string{"odd": "true", "n": "2"}}, nil, 0},
		} {
			list, total, err := w.List(t.Context(), "a", c.request)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, s := range list {
				got = append(got, s.ID)
			}
			if !slices.Equal(got, c.want) || total != c.total {
				t.Errorf("%+v: got %v of %d, want %v of %d", c.request, got, total, c.want, c.total)
			}
		}
	})
}

// TestListStates: the nodes know who is idle, and who has gone to sleep since; one
// that does not answer holds the list up for a second in all.
func TestListStates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var all []*frontend.Session
		for range 5 {
			time.Sleep(time.Second)
			all = append(all, w.create(t, "a"))
		}
		w.Close()
		idle, asleep, silent, noted := all[1].ID, all[2], all[3].ID, all[4]
		w.store.PutRest(rest(noted, true))
		if err := w.Moved(t.Context(), noted); err != nil {
			t.Fatal(err)
		}
		w.store.PutRest(rest(asleep, true))
		active := time.Now().Add(time.Hour).Truncate(time.Second)
		w.node.infos = func(ctx context.Context, sess *frontend.Session) (frontend.Info, error) {
			switch sess.ID {
			case idle:
				return frontend.Info{State: frontend.StateIdle, LastActive: active}, nil
			case asleep.ID:
				return frontend.Info{}, frontend.ErrAway
			case silent:
				<-ctx.Done()
				return frontend.Info{}, context.Cause(ctx)
			case noted.ID:
				t.Error("a session that sleeps was asked for")
			}
			return frontend.Info{State: frontend.StateActive}, nil
		}
		for _, c := range []struct {
			state frontend.State
			want  []string
		}{
			{frontend.StateIdle, []string{idle}},
			{frontend.StateActive, []string{silent, all[0].ID}},
			{frontend.StateDeepSleep, []string{noted.ID, asleep.ID}},
			{"", []string{noted.ID, silent, asleep.ID, idle, all[0].ID}},
		} {
			begin := time.Now()
			list, total, err := w.List(t.Context(), "a", frontend.ListRequest{Limit: 10, State: c.state})
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > time.Second {
				t.Errorf("%q took %v", c.state, took)
			}
			var got []string
			for _, s := range list {
				got = append(got, s.ID)
				if c.state != "" && s.State != c.state {
					t.Errorf("%s is %s", s.ID, s.State)
				}
				if s.ID == idle && (s.State != frontend.StateIdle || !s.LastActive.Equal(active)) {
					t.Errorf("%+v", s)
				}
			}
			if !slices.Equal(got, c.want) || total != len(c.want) {
				t.Errorf("%q: got %v of %d, want %v", c.state, got, total, c.want)
			}
		}
		if r, err := w.store.Get(t.Context(), idle); err != nil || r.State != frontend.StateActive {
			t.Errorf("the record was changed: %+v, %v", r, err)
		}
	})
}

// TestListNew: what nobody was told of is not listed, and what somebody may
// have been told of is.
func TestListNew(t *testing.T) {
	w := newWorld(t)
	half, whole, again := frontendtest.Session("a"), frontendtest.Session("a"), frontendtest.Session("a")
	again.Epoch = 2 // it wakes
	for _, s := range []*frontend.Session{half, whole, again} {
		if err := w.store.Create(t.Context(), s); err != nil {
			t.Fatal(err)
		}
	}
	w.store.PutClaim(claim.Claim{Session: whole.ID, Epoch: 1, API: "api:1"})
	list, total, err := w.List(t.Context(), "a", frontend.ListRequest{Limit: 10})
	if err != nil || total != 2 || len(list) != 2 || list[0].ID != again.ID || list[1].ID != whole.ID {
		t.Errorf("%d of %d: %+v, %v", len(list), total, list, err)
	}
}
