// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
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
	if _, err := w.ResolveAwake(t.Context(), "acme", sess.ID); !errors.Is(err, frontend.ErrAsleep) {
		t.Errorf("a session that sleeps: %v", err)
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

// TestSleepOfWhatSleeps: the session went to sleep by itself, and nobody has noted
// it yet.
func TestSleepOfWhatSleeps(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	asked := 0
	w.node.sleep = func(sess *frontend.Session) error {
		if asked++; asked == 1 {
			return fmt.Errorf("test: %w", frontend.ErrAway) // for a moment
		}
		w.store.PutRest(rest(sess, true))
		return fmt.Errorf("test: %w", frontend.ErrAway)
	}
	got, err := w.Sleep(t.Context(), "acme", sess.ID, frontend.StateDeepSleep, false)
	if err != nil || got.State != frontend.StateDeepSleep || asked != 2 {
		t.Errorf("%+v, %v, asked %d times", got, err, asked)
	}
	w.Close()
	if w.scheduler.Starts != 1 {
		t.Errorf("%d jobs were started", w.scheduler.Starts)
	}
	// To be idle it has to be awake.
	w.node.sleep = func(sess *frontend.Session) error {
		if sess.Epoch != 2 {
			t.Errorf("epoch %d was told to be idle", sess.Epoch)
		}
		return nil
	}
	if _, err := w.Sleep(t.Context(), "acme", sess.ID, frontend.StateIdle, false); err != nil {
		t.Error(err)
	}
}

// TestSleepWithoutNode says so after a while.
func TestSleepWithoutNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sess := w.created(t)
		w.node.sleep = func(*frontend.Session) error { return fmt.Errorf("test: %w", frontend.ErrAway) }
		_, err := w.Sleep(t.Context(), "acme", sess.ID, frontend.StateDeepSleep, false)
		wantCode(t, "sleep", err, frontend.CodeServiceUnavailable)
	})
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

// TestReapLeavesWhatSaves: a node that was told to stop has its time, whatever Nomad
// calls its job.
func TestReapLeavesWhatSaves(t *testing.T) {
	w := newWorld(t)
	stored, bare := w.created(t), w.created(t)
	w.store.PutRest(rest(stored, false))
	for _, id := range []string{stored.ID, bare.ID} {
		w.scheduler.AddSaving(id)
	}
	w.forward(2 * time.Minute)
	for range 2 {
		if err := w.Reap(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := w.store.Rest(t.Context(), stored.ID, 1); err != nil || r.Sealed {
		t.Errorf("sealed while it saves: %+v, %v", r, err)
	}
	for _, sess := range []*frontend.Session{stored, bare} {
		if r, err := w.store.Get(t.Context(), sess.ID); err != nil || r.State != frontend.StateActive {
			t.Errorf("%+v, %v", r, err)
		}
		w.store.PutRest(rest(sess, true)) // it is done
		w.scheduler.End(sess.ID, 1)
	}
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, sess := range []*frontend.Session{stored, bare} {
		if _, info, err := w.Get(t.Context(), "acme", sess.ID); err != nil || info.State != frontend.StateDeepSleep || info.Durability.Lost {
			t.Errorf("%+v, %v", info, err)
		}
	}
}

// TestAsleepIsSealed: what survives of an epoch notes nothing more once the session
// is known to sleep.
func TestAsleepIsSealed(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	w.store.PutRest(rest(sess, true))
	if err := w.Moved(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	if r, err := w.store.Rest(t.Context(), sess.ID, 1); err != nil || !r.Sealed || !r.Asleep || r.Snapshot.IsZero() {
		t.Errorf("%+v, %v", r, err)
	}
	if _, info, err := w.Get(t.Context(), "acme", sess.ID); err != nil || info.Durability.Lost {
		t.Errorf("nothing was lost: %+v, %v", info, err)
	}
}

// TestReapHealsFirst: a session that runs, and of which only the record does not
// know yet, is not brought back to its last checkpoint.
func TestReapHealsFirst(t *testing.T) {
	w := newWorld(t)
	w.store.SetFail(func(method string) error {
		if method == "Update" { // the note of the claim
			return frontend.ErrUnavailable
		}
		return nil
	})
	sess := w.created(t)
	w.store.SetFail(nil)
	w.store.PutRest(rest(sess, false))
	if r, err := w.store.Get(t.Context(), sess.ID); err != nil || r.State != frontend.StateStarting {
		t.Fatalf("%+v, %v", r, err)
	}
	w.forward(2 * time.Minute)
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := w.store.Get(t.Context(), sess.ID); err != nil || r.State != frontend.StateActive || !r.Placed() {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := w.store.Rest(t.Context(), sess.ID, 1); err != nil || r.Sealed {
		t.Errorf("a session that lives was sealed: %+v, %v", r, err)
	}

	// One that nobody has noted either, but whose node is lost.
	w.store.SetFail(func(method string) error {
		if method == "Update" {
			return frontend.ErrUnavailable
		}
		return nil
	})
	gone := w.created(t)
	w.store.SetFail(nil)
	w.store.PutRest(rest(gone, false))
	w.scheduler.End(gone.ID, 1)
	w.forward(2 * time.Minute)
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := w.store.Get(t.Context(), gone.ID); err != nil || r.State != frontend.StateDeepSleep || !r.Lost {
		t.Errorf("%+v, %v", r, err)
	}
}

// asleepNow makes a session of a first life that has ended well.
func (w *world) asleepNow(t *testing.T) *frontend.Session {
	t.Helper()
	sess := w.created(t)
	w.store.PutRest(rest(sess, true))
	if err := w.Moved(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	w.Close()
	sess, err := w.store.Get(t.Context(), sess.ID)
	if err != nil || sess.State != frontend.StateDeepSleep || sess.Files != 3 {
		t.Fatalf("%+v, %v", sess, err)
	}
	return sess
}

// TestWakeLeftHalfway: a front-end has died between the record and the job of the
// next life. Those who come get the life after that as soon as it is clear.
func TestWakeLeftHalfway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		half := *w.asleepNow(t)
		half.Epoch, half.State, half.Since = 2, frontend.StateStarting, time.Now()
		if err := w.store.Update(t.Context(), &half); err != nil {
			t.Fatal(err)
		}
		w.Forget(half.ID)
		begin := time.Now()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				awake, err := w.Resolve(t.Context(), "acme", half.ID)
				if err != nil || awake.Epoch != 3 || awake.Files != 3 || awake.Lost {
					t.Errorf("%+v, %v", awake, err)
				}
			})
		}
		all.Wait()
		if took := time.Since(begin); took < 9*time.Second || took > 11*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// TestWakeUndoneElsewhere: who waits for a life that another front-end has given up
// begins the next.
func TestWakeUndoneElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sess := w.asleepNow(t)
		half := *sess
		half.Epoch, half.State, half.Since = 2, frontend.StateStarting, time.Now()
		if err := w.store.Update(t.Context(), &half); err != nil {
			t.Fatal(err)
		}
		w.Forget(sess.ID)
		time.AfterFunc(2500*time.Millisecond, func() {
			half.State, half.Since = frontend.StateDeepSleep, time.Now()
			if err := w.store.Update(t.Context(), &half); err != nil {
				t.Error(err)
			}
		})
		begin := time.Now()
		awake, err := w.Resolve(t.Context(), "acme", sess.ID)
		if err != nil || awake.Epoch != 3 {
			t.Errorf("%+v, %v", awake, err)
		}
		if took := time.Since(begin); took > 4*time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// conflictOnce makes the first update that begins a life conflict, by a change of the
// record that leaves it asleep.
type conflictOnce struct {
	*frontendtest.Store
	done bool
}

func (c *conflictOnce) Update(ctx context.Context, s *frontend.Session) error {
	if s.State == frontend.StateStarting && !c.done {
		c.done = true
		r, err := c.Get(ctx, s.ID)
		if err != nil {
			return err
		}
		r.LastActive = r.LastActive.Add(time.Second)
		if err := c.Store.Update(ctx, r); err != nil {
			return err
		}
	}
	return c.Store.Update(ctx, s)
}

// TestWakeConflict: the record has changed and the session still sleeps.
func TestWakeConflict(t *testing.T) {
	w := newWorld(t)
	sess := w.asleepNow(t)
	w.Store = &conflictOnce{Store: w.store}
	if awake, err := w.Resolve(t.Context(), "acme", sess.ID); err != nil || awake.Epoch != 2 || awake.Claim.Epoch != 2 {
		t.Errorf("%+v, %v", awake, err)
	}
}

// TestFailedWake: it sleeps as before, and nothing was lost.
func TestFailedWake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sess := w.asleepNow(t)
		w.scheduler.Idle = true
		_, err := w.Resolve(t.Context(), "acme", sess.ID)
		wantCode(t, "wake without room", err, frontend.CodeServiceUnavailable)
		w.Close()
		r, err := w.store.Get(t.Context(), sess.ID)
		if err != nil || r.State != frontend.StateDeepSleep || r.Files != 3 || r.Lost || r.Checkpoint.IsZero() {
			t.Errorf("%+v, %v", r, err)
		}
		if jobs, _ := w.scheduler.Jobs(t.Context()); len(jobs) != 0 {
			t.Errorf("jobs %v", jobs)
		}
		if r, err := w.store.Rest(t.Context(), sess.ID, 2); err != nil || !r.Sealed {
			t.Errorf("a late node may begin: %+v, %v", r, err)
		}
	})
}

// TestFailedStart: a node has taken a session and could not begin. That is known at
// once, and nothing was lost that was not before.
func TestFailedStart(t *testing.T) {
	for _, lost := range []bool{false, true} {
		w := newWorld(t)
		sess := w.created(t)
		w.store.PutRest(rest(sess, !lost))
		w.scheduler.End(sess.ID, 1)
		if err := w.Moved(t.Context(), sess); err != nil {
			t.Fatal(err)
		}
		awake, err := w.Resolve(t.Context(), "acme", sess.ID)
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		w.store.PutRest(claim.Rest{Session: sess.ID, Epoch: awake.Epoch, Asleep: true})
		if err := w.Moved(t.Context(), awake); err != nil {
			t.Fatal(err)
		}
		r, err := w.store.Get(t.Context(), sess.ID)
		if err != nil || r.State != frontend.StateDeepSleep || r.Lost != lost || r.Files != 3 || r.Failures != 1 {
			t.Errorf("lost before %t: %+v, %v", lost, r, err)
		}
	}
}

// TestStopOfTheLifeBefore: it may come as late as it likes.
func TestStopOfTheLifeBefore(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	w.store.PutRest(rest(sess, true))
	late := make(chan struct{})
	w.Scheduler = &lateStop{Scheduler: w.scheduler, late: late}
	if err := w.Moved(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	other := w.another()
	if awake, err := other.Resolve(t.Context(), "acme", sess.ID); err != nil || awake.Epoch != 2 {
		t.Fatalf("%+v, %v", awake, err)
	}
	other.Close()
	close(late)
	w.Close()
	jobs, err := w.scheduler.Jobs(t.Context())
	if err != nil || len(jobs) != 1 || jobs[0].Epoch != 2 {
		t.Errorf("jobs %v, %v", jobs, err)
	}
	// One that was never stopped, the reaper stops.
	w.scheduler.Add(sess.ID, false)
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	if jobs, err := w.scheduler.Jobs(t.Context()); err != nil || len(jobs) != 1 || jobs[0].Epoch != 2 {
		t.Errorf("jobs after a reap %v, %v", jobs, err)
	}
}

// TestNoteOfADeletedSession: a checkpoint that was under way when the session was
// deleted is noted after that.
func TestNoteOfADeletedSession(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	if err := w.Delete(t.Context(), "acme", sess.ID); err != nil {
		t.Fatal(err)
	}
	w.store.PutRest(rest(sess, false))
	o := &objects{}
	w.Objects = o
	if err := w.Reap(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.empty(t)
	if len(o.removed) != 1 || o.removed[0] != sess.ID {
		t.Errorf("removed objects of %v, want %s", o.removed, sess.ID)
	}
}

// TestOldLivesGo: of a session that sleeps and wakes often, no more is kept than of
// another.
func TestOldLivesGo(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	for range 5 {
		w.store.PutRest(rest(sess, true))
		if err := w.Moved(t.Context(), sess); err != nil {
			t.Fatal(err)
		}
		var err error
		if sess, err = w.Resolve(t.Context(), "acme", sess.ID); err != nil {
			t.Fatal(err)
		}
		w.Close()
	}
	for epoch := uint64(1); epoch <= 6; epoch++ {
		_, err := w.store.Claim(t.Context(), sess.ID, epoch)
		if errors.Is(err, frontend.ErrNotFound) != (epoch < 5) {
			t.Errorf("claim of epoch %d: %v", epoch, err)
		}
		// The last but one before is kept too: the last may have come to nothing.
		_, err = w.store.Rest(t.Context(), sess.ID, epoch)
		if errors.Is(err, frontend.ErrNotFound) != (epoch < 4 || epoch == 6) {
			t.Errorf("rest of epoch %d: %v", epoch, err)
		}
	}
}

// TestLostStaysTrue for the life that begins without what was lost, and no longer.
func TestLostStaysTrue(t *testing.T) {
	w := newWorld(t)
	sess := w.created(t)
	w.store.PutRest(rest(sess, false))
	w.scheduler.End(sess.ID, 1)
	if err := w.Moved(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	told := &frontend.Durability{Dirty: true}
	look := func(state frontend.State, lost bool) {
		t.Helper()
		_, info, err := w.Get(t.Context(), "acme", sess.ID)
		if err != nil || info.State != state || info.Durability == nil || info.Durability.Lost != lost || info.Durability.LastCheckpoint == "" {
			t.Errorf("%+v %+v, %v, want lost %t", info, info.Durability, err, lost)
		}
		// Of a session that is awake somebody has to know that it is not.
		if info.Durability != nil && info.Durability.Dirty == (state == frontend.StateDeepSleep) {
			t.Errorf("%s, dirty: %t", state, info.Durability.Dirty)
		}
		if told.Lost || told.LastCheckpoint != "" {
			t.Error("what the node told was changed")
		}
	}
	look(frontend.StateDeepSleep, true)
	awake, err := w.Resolve(t.Context(), "acme", sess.ID)
	if err != nil {
		t.Fatal(err)
	}
	w.node.info = frontend.Info{State: frontend.StateActive, Durability: told}
	look(frontend.StateActive, true)
	w.node.err = errors.New("no answer")
	look(frontend.StateActive, true)
	w.Close()
	w.store.PutRest(rest(awake, true))
	if err := w.Moved(t.Context(), awake); err != nil {
		t.Fatal(err)
	}
	look(frontend.StateDeepSleep, false)

	// A life with nothing noted before its node was lost: that is lost, and what was
	// known before it is still there.
	if awake, err = w.Resolve(t.Context(), "acme", sess.ID); err != nil {
		t.Fatal(err)
	}
	w.Close()
	w.scheduler.End(sess.ID, awake.Epoch)
	if err := w.Moved(t.Context(), awake); err != nil {
		t.Fatal(err)
	}
	look(frontend.StateDeepSleep, true)
	if r, err := w.store.Get(t.Context(), sess.ID); err != nil || r.Files != 3 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestWakesArePaced: with the object store down, every life ends before it has begun.
// That is tried seldom, by all front-ends together, and told.
func TestWakesArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		sess := w.asleepNow(t)
		fronts := []*frontend.Service{w.Service, w.another()}
		const minutes = 5
		refused := 0
		for range minutes * 60 {
			for _, s := range fronts {
				s.Forget(sess.ID)
				awake, err := s.Resolve(t.Context(), "acme", sess.ID)
				if err != nil {
					e, ok := errors.AsType[*frontend.Error](err)
					if !ok || e.Code != frontend.CodeServiceUnavailable || e.RetryAfter <= 0 || e.RetryAfter > 30*time.Second {
						t.Errorf("%v", err)
					}
					refused++
					continue
				}
				s.Close()
				w.scheduler.End(sess.ID, awake.Epoch)
				if err := s.Moved(t.Context(), awake); err != nil {
					t.Error(err)
				}
				s.Close()
			}
			time.Sleep(time.Second)
		}
		if most := 2 + 6 + minutes*2; w.scheduler.Starts > most || refused == 0 {
			t.Errorf("%d jobs were started in %d minutes, want at most %d; %d requests were refused", w.scheduler.Starts, minutes, most, refused)
		}
		// It works again, and is forgotten.
		time.Sleep(30 * time.Second)
		w.Forget(sess.ID)
		awake, err := w.Resolve(t.Context(), "acme", sess.ID)
		if err != nil {
			t.Fatal(err)
		}
		w.Close()
		w.store.PutRest(rest(awake, true))
		if err := w.Moved(t.Context(), awake); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := w.Resolve(t.Context(), "acme", sess.ID); err != nil || time.Since(begin) > 0 {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
	})
}

type lateStop struct {
	*frontendtest.Scheduler
	late chan struct{}
}

func (l *lateStop) Stop(ctx context.Context, id string, epoch uint64) error {
	<-l.late
	return l.Scheduler.Stop(ctx, id, epoch)
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

func (o *objects) Sessions(_ context.Context, beginning string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for _, id := range o.ids {
			if strings.HasPrefix(id, beginning) && !yield(id, nil) {
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
