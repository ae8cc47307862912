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
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/metrics"
)

// rest brings the session to deep sleep as far as it is in the store, and the note
// in KV says so. letGo has to follow.
func (i *instance) rest(ctx context.Context, s *Session, way how) error {
	begin := time.Now()
	err := s.life.rest(ctx, way, func(ctx context.Context) error {
		s.awaitRecords(ctx)
		s.noteProcesses()
		err := s.keeper.save(ctx, true)
		if errors.Is(err, driver.ErrFenced) {
			s.log.Error("the session is over here, or lives elsewhere; what is here does not count any more")
			metrics.Fenced.Inc()
			return nil
		}
		return err
	})
	slept(way, begin, err)
	if err == nil {
		s.keeper.repo.Forget(s.ID)
	}
	return err
}

// letGo ends the sandbox of a session that is asleep.
func (i *instance) letGo() { i.endBySelf("asleep") }

// sleepTimeout bounds a sleep by itself: some gigabytes to a slow store.
const sleepTimeout = 10 * time.Minute

// sleepBySelf is the sleep of a session that has been idle for long enough. Who
// comes in the middle of it is served.
func (i *instance) sleepBySelf(s *Session) {
	if !i.sleepy.CompareAndSwap(false, true) {
		return // it waits for its turn
	}
	defer i.sleepy.Store(false)
	ctx, cancel := context.WithTimeoutCause(s.ctx, sleepTimeout, fmt.Errorf("not asleep in %s", sleepTimeout))
	defer cancel()
	done, err := s.keeper.turn(ctx)
	if err == nil {
		err = i.rest(ctx, s, bySelf)
		done()
	}
	switch {
	case err == nil:
		i.letGo()
	case errors.Is(err, errAwaited), errors.Is(err, errBusy), errors.Is(err, errAsleep), s.ctx.Err() != nil:
	default:
		s.log.Warn("could not put the session to sleep; trying again later", "error", err)
	}
}

// stopPause is between two tries to put a session to sleep that has to stop.
const stopPause = 500 * time.Millisecond

// stopSession is what a stop of the session's task does: a drain of the node, or
// the end of the job. The session goes to sleep if it still has a record; one that
// was deleted just ends. What cannot be stored in time is lost but for the last
// checkpoint.
func (i *instance) stopSession(ctx context.Context, timeout time.Duration) error {
	soft, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("not asleep in %s, when its task had to end", timeout))
	defer cancel()
	for {
		over, err := i.tryStop(soft)
		if over {
			return i.end(ctx, "stopped")
		}
		select {
		case <-time.After(stopPause):
			continue
		case <-i.box.Done():
			return nil
		case <-soft.Done():
		}
		i.agent.log.Error("a session ends without a snapshot of its last state", "session", i.task.Session.ID, "error", err)
		return i.end(ctx, "stopped")
	}
}

// tryStop says whether the sandbox may end.
func (i *instance) tryStop(ctx context.Context) (over bool, err error) {
	_, wanted, err := i.task.Rests.Wanted(ctx, i.task.Session.Epoch)
	if err != nil || !wanted {
		return err == nil, err
	}
	i.serving.Lock()
	s := i.session
	i.serving.Unlock()
	if s == nil {
		return false, errors.New("it is not served yet")
	}
	err = i.rest(ctx, s, forced)
	return err == nil || errors.Is(err, errAsleep), err
}

// interrupt ends the executions that somebody waits for, who get what there is, and
// the terminals.
func (s *Session) interrupt() {
	s.closeTerminals()
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

// lookTimeout bounds the look at what runs: how many processes there are is the
// session's to choose.
const lookTimeout = 2 * time.Second

// lookAround remembers what runs, for noteProcesses, while it still does: gVisor
// tells nothing of processes that stand still. And it ends what need not.
func (s *Session) lookAround() {
	s.runners.rest()
	ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
	defer cancel()
	list := s.processes(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ranLast = list
}

// seenProcesses is what runs, or what ran when it came to stand still.
func (s *Session) seenProcesses(ctx context.Context) []Process {
	if !s.life.resting() {
		return s.processes(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Process{}, s.ranLast...)
}

// noteProcesses keeps, in the session's history, what ran when it went to sleep.
func (s *Session) noteProcesses() {
	s.mu.Lock()
	list := s.ranLast
	s.mu.Unlock()
	b, err := json.Marshal(map[string]any{"at": timestamp(time.Now()), "processes": list})
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
func (s *Session) removeEntries() {
	entries, err := fs.ReadDir(s.files.root.FS(), ".")
	for _, e := range entries {
		if err == nil && wire.IsEntry(e.Name()) && e.Type().IsRegular() {
			err = s.files.root.Remove(e.Name())
		}
	}
	if err != nil {
		s.log.Warn("could not remove the modules of code that does not run any more", "error", err)
	}
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
		var err error
		switch req.State {
		case lifeIdle:
			err = s.life.idleNow()
		case lifeAsleep:
			way := asked
			if req.Force {
				way = forced
			}
			if err = i.rest(r.Context(), s, way); err == nil {
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
			return unsure("put the session to rest: %v", err)
		}
		writeJSON(w, http.StatusOK, map[string]string{"state": req.State})
		return nil
	}
}
