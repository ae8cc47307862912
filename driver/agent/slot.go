// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/sandbox"
)

// slot says whose a session's sandbox is. A sandbox that was started ahead is nobody's
// until a front-end has taken it, which it has when there is a record of the session;
// a word of the front-end's saves looking. Until then nobody is let in, no time counts
// but its own end's, and nothing is stored of it.
type slot struct {
	open atomic.Bool // whether state is vacant

	mu     sync.Mutex
	state  slotState
	expiry time.Time
}

type slotState int

const (
	slotTaken  slotState = iota // also what was never a slot
	slotVacant                  // nobody's
	slotClosed                  // nobody's, and too late to be taken
)

// slotNote is what a later process of the plugin has to know of a session that was
// a slot: the task's own configuration has nothing of it.
type slotNote struct {
	ExpiresAt time.Time `json:"expiresAt"`
}

const slotFile = "slot.json"

// init is for a session, as far as it is known on this machine.
func (t *slot) init(s *driver.Session, box *sandbox.Sandbox) {
	t.expiry = s.ExpiresAt
	if !s.Slot {
		return
	}
	var note slotNote
	if b, err := box.Kept(slotFile); err == nil && json.Unmarshal(b, &note) == nil && !note.ExpiresAt.IsZero() {
		t.expiry = note.ExpiresAt
		return
	}
	t.state = slotVacant
	t.open.Store(true)
}

// vacant says whether nobody has it.
func (t *slot) vacant() bool { return t.open.Load() }

// end is when it ends, as far as is known without the record.
func (t *slot) end() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.expiry
}

// close says whether it was nobody's; then nobody can have it any more.
func (t *slot) close() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == slotTaken {
		return false
	}
	t.state = slotClosed
	return true
}

// errVacant is the answer to who asks for a session that nobody has made.
var errVacant = notFound("session_not_found", "there is no such session")

// begin makes the slot a session that ends at expires. It may be told so again.
func (i *instance) begin(s *Session, expires time.Time) error {
	t := &i.slot
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state == slotTaken {
		return nil
	}
	if s.ctx.Err() != nil {
		return errGone
	}
	if err := i.take(expires); err != nil {
		return err
	}
	s.life.begins(expires)
	i.expiry.Reset(time.Until(expires))
	i.live(s, false)
	t.open.Store(false) // the last, as others look at it without the lock
	return nil
}

// take notes that somebody has the slot. Called with its lock held.
func (i *instance) take(expires time.Time) error {
	if i.slot.state == slotClosed {
		return errGone
	}
	note, err := json.Marshal(slotNote{ExpiresAt: expires})
	if err == nil {
		err = i.box.Keep(slotFile, note)
	}
	if err != nil {
		return fmt.Errorf("note that the session begins: %w", err)
	}
	i.slot.state, i.slot.expiry = slotTaken, expires
	return nil
}

// meetSlot says whether a recovered sandbox that was nobody's is still that.
func (i *instance) meetSlot(ctx context.Context) (vacant bool, err error) {
	expires, taken, err := i.task.Rests.Wanted(ctx, i.task.Session.Epoch)
	if err != nil {
		return false, fmt.Errorf("look whether the slot was taken: %w", err)
	}
	i.slot.mu.Lock()
	defer i.slot.mu.Unlock()
	if !taken {
		i.slot.state = slotClosed
		return true, nil
	}
	if err := i.take(expires); err != nil {
		return false, err
	}
	i.slot.open.Store(false)
	return false, nil
}

// admit lets who asks for the session in, if it is one.
func (i *instance) admit(ctx context.Context) error {
	if !i.slot.vacant() {
		return nil
	}
	taken, err := i.lookTaken(ctx)
	if err == nil && !taken {
		err = errVacant
	}
	return err
}

// lookTaken says whether the slot is a session, by its record.
func (i *instance) lookTaken(ctx context.Context) (bool, error) {
	expires, taken, err := i.task.Rests.Wanted(ctx, i.task.Session.Epoch)
	if err != nil {
		return false, unavailable("look whether the slot was taken: %v", err)
	}
	if !taken {
		return false, nil
	}
	i.serving.Lock()
	s := i.session
	i.serving.Unlock()
	if s == nil {
		return true, unavailable("the session is not served yet")
	}
	return true, i.begin(s, expires)
}

// takenAfterAll says, at a slot's end, whether somebody has it by its record.
func (i *instance) takenAfterAll() bool {
	ctx, cancel := context.WithTimeoutCause(context.Background(), expiryPatience, errors.New("no answer in time"))
	defer cancel()
	for {
		taken, err := i.lookTaken(ctx)
		if err == nil {
			return taken
		}
		select {
		case <-time.After(expiryPause):
		case <-i.closed:
			return true // to whoever is next
		case <-ctx.Done():
			return false
		}
	}
}

// taken is a handler behind admit.
func (i *instance) taken(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := i.admit(r.Context()); err != nil {
			writeError(w, err)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// vacateTimeout bounds what a slot that has ended does after that.
const vacateTimeout = 5 * time.Second

// vacate has no front-end try to take a slot that has ended.
func (i *instance) vacate() {
	ctx, cancel := context.WithTimeoutCause(context.Background(), vacateTimeout, fmt.Errorf("not done in %s", vacateTimeout))
	defer cancel()
	if err := i.task.Rests.Vacate(ctx); err != nil {
		i.agent.log.Warn("could not remove the record of a slot that has ended; a front-end will", "session", i.task.Session.ID, "error", err)
	}
}

// servePrepared answers GET /v1/prepared once code that comes starts at once.
func (i *instance) servePrepared(s *Session) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := s.runners.await(r.Context()); err != nil {
			return unavailable("%v", err)
		}
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	}
}

// serveBegin answers POST /v1/begin {"expiresAt"}: a front-end has taken the slot.
func (i *instance) serveBegin(s *Session) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		var req struct {
			ExpiresAt time.Time `json:"expiresAt"`
		}
		if err := readJSON(r, &req); err != nil {
			return err
		}
		if !req.ExpiresAt.After(time.Now()) {
			return invalid("expiresAt", "%s is over", req.ExpiresAt.Format(time.RFC3339))
		}
		if err := i.begin(s, req.ExpiresAt); err != nil {
			return err
		}
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	}
}
