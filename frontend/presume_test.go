// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
)

// TestPresume: who has used a session a moment ago does not wait for the store.
func TestPresume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		s := w.create(t, "a")
		w.Close()
		if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil {
			t.Fatal(err)
		}
		before := w.store.Gets
		p, err := w.Presume(t.Context(), "a", s.ID)
		if err != nil || p.Confirm(t.Context()) != nil || w.store.Gets != before {
			t.Errorf("%v, and read %d times", err, w.store.Gets-before)
		}

		w.forward(30 * time.Second)
		release := make(chan struct{})
		w.store.SetFail(func(method string) error {
			if method == "Get" {
				<-release
			}
			return nil
		})
		if p, err = w.Presume(t.Context(), "a", s.ID); err != nil {
			t.Fatal(err)
		}
		if r, err := p.Find(t.Context(), "a", s.ID); err != nil || r.Claim.API != "api:1" {
			t.Errorf("%+v, %v", r, err)
		}
		confirmed := make(chan error, 1)
		go func() { confirmed <- p.Confirm(t.Context()) }()
		synctest.Wait()
		select {
		case err := <-confirmed:
			t.Fatalf("confirmed before the store has answered: %v", err)
		default:
		}
		close(release)
		if err := <-confirmed; err != nil {
			t.Error(err)
		}
		if n := w.store.Gets - before; n != 1 {
			t.Errorf("read %d times", n)
		}
		// What was read is known from then on.
		if _, err := w.Resolve(t.Context(), "a", s.ID); err != nil || w.store.Gets-before != 1 {
			t.Errorf("%v, and read %d times", err, w.store.Gets-before)
		}
		_, err = w.Presume(t.Context(), "b", s.ID)
		wantCode(t, "another's", err, frontend.CodeSessionNotFound)
	})
}

// TestPresumeWrong: nobody is told of what came of a request to a session that was
// deleted, or woken elsewhere, through another front-end.
func TestPresumeWrong(t *testing.T) {
	presume := func(t *testing.T, w *world, id string) *frontend.Presumed {
		t.Helper()
		p, err := w.Presume(t.Context(), "a", id)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Find(t.Context(), "a", id); err != nil {
			t.Fatal(err)
		}
		return p
	}
	t.Run("deleted", func(t *testing.T) {
		w := newWorld(t)
		s := w.create(t, "a")
		w.Close()
		if err := w.another().Delete(t.Context(), "a", s.ID); err != nil {
			t.Fatal(err)
		}
		w.forward(time.Second)
		p := presume(t, w, s.ID)
		wantCode(t, "confirm", p.Confirm(t.Context()), frontend.CodeSessionNotFound)
		_, err := w.Presume(t.Context(), "a", s.ID)
		wantCode(t, "presume again", err, frontend.CodeSessionNotFound)
		_, err = p.Find(t.Context(), "a", s.ID) // as its node refuses it
		wantCode(t, "find again", err, frontend.CodeSessionNotFound)
	})
	t.Run("moved", func(t *testing.T) {
		w := newWorld(t)
		s := w.create(t, "a")
		w.Close()
		r, err := w.store.Get(t.Context(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.Epoch, r.Claim = 2, claim.Claim{Session: s.ID, Epoch: 2, API: "elsewhere:1"}
		if err := w.store.Update(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		w.forward(time.Second)
		p := presume(t, w, s.ID)
		if err := p.Confirm(t.Context()); !errors.Is(err, frontend.ErrPresumed) {
			t.Errorf("got %v", err)
		}
		if p = presume(t, w, s.ID); p.Claim.API != "elsewhere:1" || p.Confirm(t.Context()) != nil {
			t.Errorf("%+v", p.Session)
		}
		// Where the node has refused, what counts is the second answer.
		w.forward(time.Second)
		p = presume(t, w, s.ID)
		if again, err := p.Find(t.Context(), "a", s.ID); err != nil || again.Claim.API != "elsewhere:1" || p.Confirm(t.Context()) != nil {
			t.Errorf("%+v, %v", again, err)
		}
	})
	t.Run("not noted yet where it is", func(t *testing.T) {
		w := newWorld(t)
		s := w.create(t, "a")
		w.Close()
		r, err := w.store.Get(t.Context(), s.ID)
		if err != nil {
			t.Fatal(err)
		}
		r.State, r.Claim = frontend.StateStarting, claim.Claim{}
		if err := w.store.Update(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		w.forward(time.Second)
		if err := presume(t, w, s.ID).Confirm(t.Context()); err != nil {
			t.Errorf("it is where it was, but: %v", err)
		}
	})
	t.Run("the store is away", func(t *testing.T) {
		w := newWorld(t)
		s := w.create(t, "a")
		w.Close()
		w.store.SetFail(func(string) error { return frontend.ErrUnavailable })
		w.forward(time.Second)
		if err := presume(t, w, s.ID).Confirm(t.Context()); err != nil {
			t.Errorf("it cannot have been deleted, but: %v", err)
		}
		w.forward(time.Minute)
		if _, err := w.Presume(t.Context(), "a", s.ID); err == nil {
			t.Error("presumed after a minute")
		}
	})
}
