// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
)

func TestDelete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.create(t, "a")
		other := w.another()
		if _, err := other.Resolve(t.Context(), "a", s.ID); err != nil {
			t.Fatal(err)
		}
		if err := w.Delete(t.Context(), "a", s.ID); err != nil {
			t.Fatal(err)
		}
		_, err := w.Resolve(t.Context(), "a", s.ID)
		wantCode(t, "resolve at once", err, frontend.CodeSessionNotFound)
		wantCode(t, "delete again", w.Delete(t.Context(), "a", s.ID), frontend.CodeSessionNotFound)
		w.Close()
		w.empty(t)
		time.Sleep(time.Second)
		_, err = other.Resolve(t.Context(), "a", s.ID)
		wantCode(t, "resolve through another front-end a second later", err, frontend.CodeSessionNotFound)
	})
}

func TestDeleteOnce(t *testing.T) {
	w := newWorld(t)
	s := w.create(t, "a")
	var deleted atomic.Int64
	var wg sync.WaitGroup
	for range 20 {
		f := w.another()
		wg.Go(func() {
			if err := f.Delete(t.Context(), "a", s.ID); err == nil {
				deleted.Add(1)
			} else {
				wantCode(t, "delete", err, frontend.CodeSessionNotFound)
			}
		})
	}
	wg.Wait()
	if deleted.Load() != 1 {
		t.Errorf("%d deletes of one session went through", deleted.Load())
	}
	w.Close()
	w.empty(t)
}

// TestDeleteDuringRead: a reading that began before a delete does not bring
// the session back.
func TestDeleteDuringRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.create(t, "a")
		w.Close()
		time.Sleep(2 * time.Second) // out of the cache
		f := w.another()
		hold, read := make(chan struct{}), make(chan struct{})
		var held atomic.Bool
		slow := &slowStore{Store: w.store, after: func() {
			if held.CompareAndSwap(false, true) {
				close(read)
				<-hold
			}
		}}
		f.Store = slow
		go func() { _, _ = f.Resolve(t.Context(), "a", s.ID) }()
		<-read
		if err := f.Delete(t.Context(), "a", s.ID); err != nil {
			t.Fatal(err)
		}
		_, err := f.Resolve(t.Context(), "a", s.ID)
		wantCode(t, "resolve while the old reading is out", err, frontend.CodeSessionNotFound)
		close(hold)
		synctest.Wait()
		_, err = f.Resolve(t.Context(), "a", s.ID)
		wantCode(t, "resolve after it came back", err, frontend.CodeSessionNotFound)
	})
}

// slowStore returns from Get only after what is given.
type slowStore struct {
	*frontendtest.Store
	after func()
}

func (s *slowStore) Get(ctx context.Context, id string) (*frontend.Session, error) {
	r, err := s.Store.Get(ctx, id)
	s.after()
	return r, err
}

// TestDeleteWithoutScheduler: what cannot be ended now, the reaper ends.
func TestDeleteWithoutScheduler(t *testing.T) {
	w := newWorld(t)
	s := w.create(t, "a")
	w.scheduler.Fail = func(string) error { return frontend.ErrUnavailable }
	if err := w.Delete(t.Context(), "a", s.ID); err != nil {
		t.Fatal(err)
	}
	_, err := w.Resolve(t.Context(), "a", s.ID)
	wantCode(t, "resolve", err, frontend.CodeSessionNotFound)
	w.scheduler.Fail = nil
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.Close()
	w.empty(t)
}

// TestDeleteTellsTheNode: also where the record does not tell yet where the session is,
// but its claim does; not of a session that is nowhere.
func TestDeleteTellsTheNode(t *testing.T) {
	for name, c := range map[string]struct {
		state frontend.State
		claim bool // in the record
		told  int64
	}{
		"placed":  {frontend.StateActive, true, 1},
		"claimed": {frontend.StateStarting, false, 1},
		"asleep":  {frontend.StateDeepSleep, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := w.create(t, "a")
			if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil {
				t.Fatal(err)
			}
			w.Close() // what it notes in the background is noted
			record, err := w.store.Get(t.Context(), s.ID)
			if err != nil {
				t.Fatal(err)
			}
			record.State = c.state
			if !c.claim {
				record.Claim = claim.Claim{}
			}
			if err := w.store.Update(t.Context(), record); err != nil {
				t.Fatal(err)
			}
			var told atomic.Int64
			w.node.end = func(_ context.Context, sess *frontend.Session) error {
				told.Add(1)
				if sess.ID != s.ID || sess.Claim.API != "api:1" {
					t.Errorf("told of %+v", sess)
				}
				return nil
			}
			other := w.another()
			defer other.Close()
			if err := other.Delete(t.Context(), "a", s.ID); err != nil {
				t.Fatal(err)
			}
			if told.Load() != c.told {
				t.Errorf("its node was told %d times, want %d", told.Load(), c.told)
			}
		})
	}
}
