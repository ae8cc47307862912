// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/buntime/buntime/frontend"
)

func TestExtend(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	told := 0
	w.node.extend = func(got *frontend.Session) error {
		if told++; told == 1 {
			return fmt.Errorf("test: %w", frontend.ErrAway) // for a moment
		}
		if stored, err := w.store.Get(t.Context(), sess.ID); err != nil || !stored.Expires.After(sess.Expires) {
			t.Errorf("the node is told before the record: %+v, %v", stored, err)
		}
		return nil
	}
	acme := key(t, "acme", "paid")
	w.forward(time.Hour)
	got, err := w.Extend(t.Context(), acme, sess.ID, 604800)
	if err != nil || told != 2 || got.Sub(sess.Created).Round(time.Minute) != 169*time.Hour {
		t.Fatalf("%v, %v, told %d times", got, err, told)
	}
	read, info, err := w.Get(t.Context(), "acme", sess.ID)
	if err != nil || !read.Expires.Equal(got) {
		t.Errorf("%+v %+v %v", read, info, err)
	}
	// It never comes earlier.
	if again, err := w.Extend(t.Context(), acme, sess.ID, 300); err != nil || !again.Equal(got) {
		t.Errorf("%v, %v", again, err)
	}
	// And what was to be its end passes.
	w.forward(25 * time.Hour)
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Resolve(t.Context(), "acme", sess.ID); err != nil {
		t.Error(err)
	}

	for _, ttl := range []int{299, 604801, -1} {
		_, err := w.Extend(t.Context(), acme, sess.ID, ttl)
		wantCode(t, fmt.Sprint("ttl ", ttl), err, frontend.CodeInvalidRequest)
	}
	_, err = w.Extend(t.Context(), key(t, "other", "paid"), sess.ID, 300)
	wantCode(t, "another's", err, frontend.CodeSessionNotFound)
	w.forward(200 * time.Hour)
	_, err = w.Extend(t.Context(), acme, sess.ID, 300)
	wantCode(t, "one that has expired", err, frontend.CodeSessionNotFound)
}

// TestExtendWakes: what sleeps has its end put off before it wakes.
func TestExtendWakes(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	w.store.PutRest(rest(sess, true))
	if err := w.Moved(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	w.node.extend = func(got *frontend.Session) error {
		if got.Epoch != 2 || !got.Expires.After(sess.Expires) {
			t.Errorf("woken as %+v", got)
		}
		return nil
	}
	if _, err := w.Extend(t.Context(), key(t, "acme", "paid"), sess.ID, 604800); err != nil {
		t.Error(err)
	}
}
