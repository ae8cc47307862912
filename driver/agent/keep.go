// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/sandbox/workspace"
	"github.com/buntime/buntime/driver/snapshot"
)

// keeper takes snapshots of a session's workspace and notes them.
type keeper struct {
	session *Session
	repo    *snapshot.Repository
	rests   driver.Rests
	every   time.Duration // between checkpoints; 0 is none
	turns   chan struct{} // see Agent.saves

	// lock holds one token, for who takes a snapshot. What it guards:
	lock    chan struct{}
	loaded  bool
	last    claim.Rest // as it was noted last, or of an earlier epoch
	version uint64     // of the rest of this epoch

	mu      sync.Mutex // of what follows
	noted   snapshot.Pointer
	written uint64 // what the workspace had written then
	problem string // why the last try failed
	// uncertain: a note that the session is asleep may have been stored, or may be yet.
	uncertain bool
	// checkpoint ends the checkpoint that is under way, if one is.
	checkpoint context.CancelFunc
}

func newKeeper(s *Session, repo *snapshot.Repository, rests driver.Rests, every time.Duration) *keeper {
	k := &keeper{session: s, repo: repo, rests: rests, every: every, lock: make(chan struct{}, 1)}
	k.lock <- struct{}{}
	return k
}

// hold takes the lock. The returned function gives it back.
func (k *keeper) hold(ctx context.Context) (func(), error) {
	select {
	case <-k.lock:
		return func() { k.lock <- struct{}{} }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another snapshot of the session: %w", context.Cause(ctx))
	}
}

// turn waits until one of the node's snapshots that nobody waits for may be this
// session's. The returned function makes room for another.
func (k *keeper) turn(ctx context.Context) (func(), error) {
	select {
	case k.turns <- struct{}{}:
		return func() { <-k.turns }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for other snapshots of the node: %w", context.Cause(ctx))
	}
}

// superblock is what the file system writes when it is thawed.
const superblock = 4096

// counted is a workspace that tells what it had written at the moment that
// a snapshot of it shows: just before it is thawed.
type counted struct {
	*workspace.Workspace
	written uint64
}

func (c *counted) Thaw() (err error) {
	if c.written, err = c.Written(); err != nil {
		return errors.Join(err, c.Workspace.Thaw())
	}
	return c.Workspace.Thaw()
}

// Durability says what of a session would survive its node.
type Durability struct {
	// LastCheckpoint is the moment that the last snapshot shows, empty if there is
	// none.
	LastCheckpoint string `json:"lastCheckpoint,omitempty"`
	// Dirty: the workspace has changed since.
	Dirty bool `json:"dirty"`
	// Problem is why the last try to store a snapshot failed.
	Problem string `json:"problem,omitempty"`
}

// load finds what is kept already. Called with the lock held.
func (k *keeper) load(ctx context.Context) error {
	if k.loaded {
		return nil
	}
	s := k.session
	rest, version, err := k.rests.Load(ctx, s.Epoch)
	if err != nil {
		return err
	}
	if rest.Sealed {
		return driver.ErrFenced
	}
	if rest.Snapshot.IsZero() {
		if last, ok, err := k.rests.Last(ctx, s.Epoch); err != nil {
			return err
		} else if ok {
			rest = last
		}
	}
	k.last, k.version, k.loaded = rest, version, true
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.noted.IsZero() {
		k.noted = rest.Snapshot // written is not known: what there is counts as changed
	}
	return nil
}

// woken notes that the workspace is that of the last snapshot.
func (k *keeper) woken() {
	written, err := k.session.box.Workspace().Written()
	if err != nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.written = written
}

// begin finds, in the background, what there is to tell of durability.
func (k *keeper) begin(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(ctx, checkpointTimeout, errors.New("nothing found of earlier snapshots in time"))
	defer cancel()
	release, err := k.hold(ctx)
	if err != nil {
		return
	}
	defer release()
	if err := k.load(ctx); err != nil && ctx.Err() == nil {
		k.session.log.Warn("could not look for earlier snapshots yet", "error", err)
	}
}

// save takes a snapshot and notes it: the last one of this life if final, after
// which the sandbox may go.
func (k *keeper) save(ctx context.Context, final bool) error {
	if final {
		k.mu.Lock()
		if k.checkpoint != nil {
			k.checkpoint() // it holds the lock, for as long as the store takes
		}
		k.mu.Unlock()
	}
	kind := "checkpoint"
	if final {
		kind = "final"
	}
	begin := time.Now()
	err := k.trySave(ctx, final)
	if !errors.Is(err, errAwaited) && !errors.Is(err, context.Canceled) { // that somebody came is no news of the store
		metrics.Snapshot(kind).Since(begin, err)
	}
	if err != nil && !errors.Is(err, errAwaited) && !errors.Is(err, context.Canceled) {
		k.mu.Lock()
		k.problem = err.Error()
		k.mu.Unlock()
	}
	return err
}

// finalPruneTimeout bounds what a session that sleeps is kept for on the node.
const finalPruneTimeout = 5 * time.Second

func (k *keeper) trySave(ctx context.Context, final bool) error {
	release, err := k.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	s := k.session
	// A session that has been deleted, or lives elsewhere, gets no key and no rest
	// again that nobody would remove.
	expires, wanted, err := k.rests.Wanted(ctx, s.Epoch)
	if err != nil {
		return fmt.Errorf("look for the session's record: %w", err)
	}
	if !wanted {
		return driver.ErrFenced
	}
	if err := k.load(ctx); err != nil {
		return fmt.Errorf("find the last snapshot: %w", err)
	}
	key, err := k.rests.Key(ctx)
	if err != nil {
		return err
	}
	// What has not come is no change.
	if err := s.box.Workspace().Complete(ctx); err != nil {
		return err
	}
	w := &counted{Workspace: s.box.Workspace()}
	files, err := s.files.count(ctx)
	if err != nil {
		return fmt.Errorf("count files: %w", err)
	}
	who := snapshot.Session{ID: s.ID, Key: key, Expires: expires}
	pointer, stats, err := k.repo.Snapshot(ctx, snapshot.Request{
		Session: who, Epoch: s.Epoch, Last: k.last.Snapshot, Image: w.Image(), Live: w,
	})
	metrics.Stored(stats.Read, stats.Changed, stats.Uploaded)
	if err != nil {
		return fmt.Errorf("store a snapshot: %w", err)
	}
	metrics.Pauses.Observe(stats.Paused.Seconds())
	_, active, _, _ := s.life.look()
	rest := claim.Rest{
		Session: s.ID, Epoch: s.Epoch, Alloc: s.Alloc, Snapshot: pointer, Files: files, LastActive: active.UTC(),
		Try: k.last.Try + 1, Asleep: final,
	}
	if err := k.note(ctx, rest); err != nil {
		return err
	}
	k.mu.Lock()
	k.noted, k.written, k.problem = pointer, w.written, ""
	k.mu.Unlock()
	if final {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, finalPruneTimeout)
		defer cancel()
	}
	if err := k.repo.Prune(ctx, who, pointer); err != nil {
		s.log.Warn("could not remove what an earlier snapshot had; the next one will", "error", err)
	}
	return nil
}

// note stores rest. Called with the lock held.
func (k *keeper) note(ctx context.Context, rest claim.Rest) error {
	// Whoever gives up waiting: from here on it may be stored.
	version, err := k.rests.Note(context.WithoutCancel(ctx), rest, k.version)
	if err != nil {
		k.loaded = false
		if rest.Asleep && !errors.Is(err, driver.ErrFenced) {
			k.mu.Lock()
			k.uncertain = true
			k.mu.Unlock()
		}
		return err
	}
	k.last, k.version = rest, version
	return nil
}

// retractTimeout bounds how long who comes to a session waits until it is sure that
// nobody takes it for asleep.
const retractTimeout = 5 * time.Second

// retract takes back a note that the session is asleep of which nobody knows
// whether it was stored: another note, over it, is what a late one fails at.
func (k *keeper) retract() error {
	k.mu.Lock()
	uncertain := k.uncertain
	k.mu.Unlock()
	if !uncertain {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(k.session.ctx, retractTimeout, fmt.Errorf("not done in %s", retractTimeout))
	defer cancel()
	release, err := k.hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := k.load(ctx); err != nil {
		return fmt.Errorf("find out whether the session is taken for asleep: %w", err)
	}
	rest := k.last
	rest.Session, rest.Epoch, rest.Alloc, rest.Asleep = k.session.ID, k.session.Epoch, k.session.Alloc, false
	rest.Try++
	if err := k.note(ctx, rest); err != nil {
		return fmt.Errorf("note that the session is awake: %w", err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uncertain = false
	return nil
}

// durability tells what would survive, after what was written so far has come to the
// image, where that matters.
func (k *keeper) durability() Durability {
	d := k.told()
	if !d.Dirty && k.session.box.Workspace().Sync() == nil {
		d = k.told()
	}
	return d
}

// told is durability as the workspace's counters have it.
func (k *keeper) told() Durability {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := Durability{Problem: k.problem, Dirty: true}
	if !k.noted.IsZero() {
		d.LastCheckpoint = timestamp(k.noted.Taken)
	}
	if n, err := k.session.box.Workspace().Written(); err == nil {
		d.Dirty = n != k.written && n != k.written+superblock
	}
	return d
}

// run takes checkpoints until the session ends on this node. fenced is called if it
// lives elsewhere.
func (k *keeper) run(ctx context.Context, fenced func()) {
	if k.every == 0 {
		return
	}
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	var clean time.Time
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		rested := k.session.life.restedSince()
		if k.session.life.gone() || !rested.IsZero() && rested.Equal(clean) {
			continue // a look has the file system written out
		}
		if !k.durability().Dirty {
			clean = rested
			continue
		}
		done, err := k.turn(ctx)
		if err != nil {
			return
		}
		if k.session.life.gone() {
			done()
			continue
		}
		limited, cancel := context.WithTimeoutCause(ctx, checkpointTimeout, fmt.Errorf("the checkpoint was not stored in %s", checkpointTimeout))
		k.mu.Lock()
		k.checkpoint = cancel
		k.mu.Unlock()
		err = k.save(limited, false)
		done()
		k.mu.Lock()
		k.checkpoint = nil
		k.mu.Unlock()
		ended := limited.Err() != nil
		cancel()
		switch {
		case err == nil || ended && ctx.Err() == nil && errors.Is(err, context.Canceled), ctx.Err() != nil:
		case errors.Is(err, driver.ErrFenced):
			k.session.log.Error("the session is over here, or lives elsewhere; what is here does not count any more")
			metrics.Fenced.Inc()
			fenced()
			return
		default:
			k.session.log.Warn("no checkpoint", "error", err)
		}
	}
}

// checkpointTimeout bounds a checkpoint: some gigabytes to a slow store.
const checkpointTimeout = 5 * time.Minute
