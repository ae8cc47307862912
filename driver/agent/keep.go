// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox/workspace"
	"github.com/buntime/buntime/driver/snapshot"
)

// keeper takes snapshots of a session's workspace and notes them.
type keeper struct {
	session *Session
	repo    *snapshot.Repository
	rests   driver.Rests
	every   time.Duration // between checkpoints; 0 is none

	mu      sync.Mutex // held while a snapshot is taken
	loaded  bool
	last    claim.Rest // as it was noted last, or of an earlier epoch
	version uint64     // of the rest of this epoch

	state   sync.Mutex // of what follows
	noted   snapshot.Pointer
	written uint64 // what the workspace had written then
	problem string // why the last try failed
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

// load finds what is kept already. Called with mu held.
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
	k.remember(rest.Snapshot, 0)
	return nil
}

func (k *keeper) remember(p snapshot.Pointer, written uint64) {
	k.state.Lock()
	defer k.state.Unlock()
	k.noted, k.written, k.problem = p, written, ""
}

// save takes a snapshot and notes it: the last one of this life if final, after
// which the sandbox may go.
func (k *keeper) save(ctx context.Context, final bool) error {
	err := k.trySave(ctx, final)
	if err != nil && !errors.Is(err, errAwaited) {
		k.state.Lock()
		k.problem = err.Error()
		k.state.Unlock()
	}
	return err
}

func (k *keeper) trySave(ctx context.Context, final bool) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.session
	if err := k.load(ctx); err != nil {
		return fmt.Errorf("find the last snapshot: %w", err)
	}
	key, err := k.rests.Key(ctx)
	if err != nil {
		return err
	}
	w := &counted{Workspace: s.box.Workspace()}
	files, err := s.files.count(ctx)
	if err != nil {
		return fmt.Errorf("count files: %w", err)
	}
	who := snapshot.Session{ID: s.ID, Key: key, Expires: s.Expires}
	pointer, _, err := k.repo.Snapshot(ctx, snapshot.Request{
		Session: who, Epoch: s.Epoch, Last: k.last.Snapshot, Image: w.Image(), Live: w,
	})
	if err != nil {
		return fmt.Errorf("store a snapshot: %w", err)
	}
	_, active, _, _ := s.life.look()
	rest := claim.Rest{
		Session: s.ID, Epoch: s.Epoch, Alloc: s.Alloc, Snapshot: pointer, Files: files, LastActive: active.UTC(), Asleep: final,
	}
	// From here on it may be noted, whoever gives up waiting.
	version, err := k.rests.Note(context.WithoutCancel(ctx), rest, k.version)
	if err != nil {
		k.loaded = false
		return err
	}
	k.last, k.version = rest, version
	k.remember(pointer, w.written)
	if err := k.repo.Prune(ctx, who, pointer); err != nil {
		s.log.Warn("could not remove what an earlier snapshot had; the next one will", "error", err)
	}
	return nil
}

// durability tells without touching anything but the workspace's counters.
func (k *keeper) durability() Durability {
	k.state.Lock()
	defer k.state.Unlock()
	d := Durability{Problem: k.problem, Dirty: true}
	if !k.noted.IsZero() {
		d.LastCheckpoint = timestamp(k.noted.Taken)
	}
	if n, err := k.session.box.Workspace().Written(); err == nil {
		d.Dirty = n != k.written && n != k.written+superblock
	}
	return d
}

// dirty says whether a checkpoint would hold anything new.
func (k *keeper) dirty() bool {
	if err := k.session.box.Workspace().Sync(); err != nil {
		return true
	}
	return k.durability().Dirty
}

// run takes checkpoints until the session ends on this node.
func (k *keeper) run(ctx context.Context) {
	if k.every == 0 {
		return
	}
	tick := time.NewTicker(k.every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !k.dirty() {
			continue
		}
		limited, cancel := context.WithTimeoutCause(ctx, checkpointTimeout, fmt.Errorf("the checkpoint was not stored in %s", checkpointTimeout))
		err := k.save(limited, false)
		cancel()
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, driver.ErrFenced):
			k.session.log.Error("the session lives elsewhere; what is here does not count any more")
			return
		default:
			k.session.log.Warn("no checkpoint", "error", err)
		}
	}
}

const (
	// checkpointTimeout bounds a checkpoint, sleepTimeout a sleep by itself: some
	// gigabytes to a slow store.
	checkpointTimeout = 5 * time.Minute
	sleepTimeout      = 10 * time.Minute
)

// rest brings the session to deep sleep as far as it is in the store, and the note
// in KV says so. letGo has to follow.
func (i *instance) rest(ctx context.Context, s *Session, forced, yielding bool) error {
	err := s.life.rest(ctx, forced, yielding, func(ctx context.Context) error {
		s.noteProcesses(ctx)
		err := s.keeper.save(ctx, true)
		if errors.Is(err, driver.ErrFenced) {
			s.log.Error("the session lives elsewhere; what is here does not count any more")
			return nil
		}
		return err
	})
	if err == nil {
		s.keeper.repo.Forget(s.ID)
	}
	return err
}

// letGo ends the sandbox of a session that is asleep.
func (i *instance) letGo() {
	ctx, cancel := context.WithTimeoutCause(context.Background(), killTimeout, errors.New("the sandbox outlived SIGKILL"))
	defer cancel()
	if err := i.end(ctx, "asleep"); err != nil {
		i.agent.log.Error("could not end the sandbox of a session that is asleep", "session", i.task.Session.ID, "error", err)
	}
}

// sleepBySelf is the sleep of a session that has been idle for long enough. Who
// comes in the middle of it is served.
func (i *instance) sleepBySelf(s *Session) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, sleepTimeout, fmt.Errorf("not asleep in %s", sleepTimeout))
	defer cancel()
	err := i.rest(ctx, s, false, true)
	switch {
	case err == nil:
		i.letGo()
	case errors.Is(err, errAwaited), errors.Is(err, errBusy), errors.Is(err, errAsleep), s.ctx.Err() != nil:
	default:
		s.log.Warn("could not put the session to sleep; trying again later", "error", err)
	}
}

// stopSession is what a stop of the session's task does: a drain of the node, or
// the end of the job. The session goes to sleep if it still has a record; one that
// was deleted just ends. What cannot be stored in time is lost but for the last
// checkpoint.
func (i *instance) stopSession(ctx context.Context, timeout time.Duration) error {
	i.serving.Lock()
	s := i.session
	i.serving.Unlock()
	if s == nil {
		return i.end(ctx, "stopped while it was not served")
	}
	soft, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not asleep in %s, when its task had to end", timeout))
	defer cancel()
	if wanted, err := i.task.Rests.Wanted(soft, s.Epoch); err == nil && !wanted {
		return i.end(ctx, "stopped")
	}
	s.interrupt()
	if err := i.rest(soft, s, true, false); err != nil && !errors.Is(err, errAsleep) {
		s.log.Error("the session ends without a snapshot of its last state", "error", err)
	}
	return i.end(ctx, "stopped")
}

// interrupt ends the executions that somebody waits for, who get what there is.
func (s *Session) interrupt() {
	for _, e := range s.live() {
		select {
		case <-e.answered:
			continue
		default:
		}
		if e.endedBy(reasonInterrupted) {
			s.kill(e)
		}
	}
}

// noteProcesses keeps, in the session's history, what ran when it went to sleep.
func (s *Session) noteProcesses(ctx context.Context) {
	b, err := json.Marshal(map[string]any{"at": timestamp(time.Now()), "processes": s.processes(ctx)})
	if err == nil {
		_, err = s.files.write("path", ".buntime/sleeps/"+strconv.FormatUint(s.Epoch, 10)+".json", b)
	}
	if err != nil {
		s.log.Warn("could not note what ran when the session went to sleep", "error", err)
	}
}

// removeEntries removes the modules of code that ran when a snapshot was taken: they
// are there only as long as the code runs, and it does not any more. One in
// a directory below is left; it takes a name that nobody else has.
func (s *Session) removeEntries() error {
	entries, err := fs.ReadDir(s.files.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if wire.IsEntry(e.Name()) {
			if err := s.files.root.Remove(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// serveSleep answers POST /v1/sleep {"state", "force"}.
func (i *instance) serveSleep(s *Session) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var req struct {
			State string `json:"state"`
			Force bool   `json:"force"`
		}
		if err := readJSON(r, &req); err != nil {
			return err
		}
		if req.Force {
			s.interrupt()
		}
		var err error
		switch req.State {
		case lifeIdle:
			err = s.life.idleNow()
		case lifeAsleep:
			if err = i.rest(r.Context(), s, req.Force, false); err == nil {
				defer func() { go i.letGo() }() // after the answer: with the sandbox goes this listener
			}
		default:
			return invalid("state", "state %q is neither idle nor deep-sleep", req.State)
		}
		switch {
		case errors.Is(err, errBusy):
			return &Error{Status: http.StatusConflict, Code: "session_busy", Message: "the session is in use; set force to interrupt what runs"}
		case errors.Is(err, errAsleep):
			return errGone
		case err != nil:
			return unavailable("put the session to rest: %v", err)
		}
		writeJSON(w, http.StatusOK, map[string]string{"state": req.State})
		return nil
	}
}
