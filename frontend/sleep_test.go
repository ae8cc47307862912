// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/frontend"
)

// rest is what a node notes of a session's life.
func rest(sess *frontend.Session, asleep bool) claim.Rest {
	return claim.Rest{
		Session: sess.ID, Epoch: sess.Epoch, Asleep: asleep, Files: 3,
		Snapshot: snapshot.Pointer{Epoch: sess.Epoch, Digest: "d", Taken: time.Now()},
	}
}

func (w *world) created(t *testing.T) *frontend.Session {
	t.Helper()
	sess, err := w.Create(t.Context(), key(t, "acme", "paid"), frontend.CreateRequest{})
	if err != nil {
		t.Fatal(err)
	}
	w.Close() // the claim is noted
	w.Forget(sess.ID)
	return sess
}

func TestSleepAndWake(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	w.node.sleep = func(sess *frontend.Session) error {
		w.store.PutRest(rest(sess, true))
		return nil
	}
	if _, err := w.Sleep(t.Context(), "acme", sess.ID, frontend.StateDeepSleep, false); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if jobs, err := w.scheduler.Jobs(t.Context()); err != nil || len(jobs) != 0 {
		t.Errorf("jobs of a sleeping session: %v, %v", jobs, err)
	}
	got, info, err := w.Get(t.Context(), "acme", sess.ID)
	if err != nil || info.State != frontend.StateDeepSleep || info.FilesCount != 3 || info.Durability == nil || info.Durability.LastCheckpoint == "" {
		t.Errorf("%+v %+v %v", got, info, err)
	}
	if asleep, err := w.Asleep(t.Context(), "acme", sess.ID); err != nil || !asleep {
		t.Errorf("asleep %t, %v", asleep, err)
	}

	// Whoever comes, at whichever front-end: one life more.
	others := []*frontend.Service{w.Service, w.another(), w.another()}
	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			awake, err := others[i%len(others)].Resolve(context.WithoutCancel(t.Context()), "acme", sess.ID)
			if err != nil || awake.Epoch != 2 || awake.Claim.Epoch != 2 {
				t.Errorf("%+v, %v", awake, err)
			}
		})
	}
	all.Wait()
	for _, s := range others {
		s.Close()
	}
}

// TestMoved lets a node put a session to sleep by itself.
func TestMoved(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	if err := w.Moved(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	if again, err := w.Resolve(t.Context(), "acme", sess.ID); err != nil || again.Epoch != 1 {
		t.Fatalf("a session whose node is silent for a moment: %+v, %v", again, err)
	}
	w.store.PutRest(rest(sess, true))
	if err := w.Moved(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	if again, err := w.Resolve(t.Context(), "acme", sess.ID); err != nil || again.Epoch != 2 {
		t.Fatalf("%+v, %v", again, err)
	}
}

// TestReapFallsBack: a session that has lost its node sleeps with its last
// checkpoint, and says so; one without any is over.
func TestReapFallsBack(t *testing.T) {
	w := newWorld(t)
	stored, bare := w.created(t), w.created(t)
	w.store.PutRest(rest(stored, false))
	for _, id := range []string{stored.ID, bare.ID} {
		w.scheduler.Add(id, true)
	}
	w.forward(2 * time.Minute)
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, info, err := w.Get(t.Context(), "acme", stored.ID)
	if err != nil || info.State != frontend.StateDeepSleep || !info.Durability.Lost {
		t.Errorf("%+v, %v", info, err)
	}
	r, err := w.store.Rest(t.Context(), stored.ID, 1)
	if err != nil || !r.Sealed {
		t.Errorf("the lost node may still write: %+v, %v", r, err)
	}
	if _, _, err := w.Get(t.Context(), "acme", bare.ID); err == nil {
		t.Error("a session of which nothing is left is still there")
	}
}

// objects is a frontend.Objects.
type objects struct {
	mu      sync.Mutex
	ids     []string
	removed []string
}

func (o *objects) Remove(_ context.Context, id string) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.removed = append(o.removed, id)
	return nil
}

func (o *objects) Sessions(context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, id := range o.ids {
			if !yield(id, nil) {
				return
			}
		}
	}
}

// TestObjectsGoWithTheSession: at its end, and when only they are left.
func TestObjectsGoWithTheSession(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	stray := frontend.NewID()
	o := &objects{ids: []string{sess.ID, stray, "somebody-elses"}}
	w.Objects = o
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(o.removed) != 1 || o.removed[0] != stray {
		t.Errorf("removed %v, want %s", o.removed, stray)
	}
	if err := w.Delete(t.Context(), "acme", sess.ID); err != nil {
		t.Fatal(err)
	}
	if len(o.removed) != 2 || o.removed[1] != sess.ID {
		t.Errorf("removed %v, want %s", o.removed, sess.ID)
	}
}
