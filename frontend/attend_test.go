// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/frontend"
)

// TestAttend: who waits for a node is told that it waits in vain once that is known,
// and only then.
func TestAttend(t *testing.T) {
	silent := func(context.Context, *frontend.Session) error { return context.DeadlineExceeded }
	for _, c := range []struct {
		name     string
		alive    func(context.Context, *frontend.Session) error
		lost     bool // for the scheduler
		kept     bool // there is a snapshot
		answered bool
		want     error
	}{
		{"a node that is silent and lost", silent, true, true, false, frontend.ErrSilent},
		{"one that may be back", silent, false, true, false, nil},
		{"one that has all that there is", silent, true, false, false, nil},
		{"one that says that it is there", func(context.Context, *frontend.Session) error { return nil }, true, true, false, nil},
		{"one that has begun to answer", silent, true, true, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				sess := w.created(t)
				w.node.alive = c.alive
				if c.kept {
					w.store.PutRest(rest(sess, false))
				}
				parent, cancel := context.WithCancel(t.Context())
				ctx, answered := w.Attend(parent, sess)
				if c.answered {
					answered()
				}
				begin := time.Now()
				time.Sleep(10 * time.Second)
				if c.lost { // only now does the scheduler find out
					w.scheduler.End(sess.ID, sess.Epoch)
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Second):
				}
				if got := context.Cause(ctx); !errors.Is(got, c.want) || (got == nil) != (c.want == nil) {
					t.Errorf("after %v: %v, want %v", time.Since(begin), got, c.want)
				}
				if c.want != nil {
					w.Forget(sess.ID)
					if awake, err := w.Resolve(t.Context(), "acme", sess.ID); err != nil || awake.Epoch != 2 {
						t.Errorf("the session lives on as %+v, %v", awake, err)
					}
				}
				cancel()
				w.Close()
				synctest.Wait()
			})
		})
	}
}
