// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	// expiryPatience is how long a session whose time has come is kept while nobody
	// can say whether its end was put off.
	expiryPatience = 30 * time.Second
	expiryPause    = time.Second
)

// recordedEnd is when the session ends, as of its record, where front-ends put it
// off.
func (i *instance) recordedEnd(ctx context.Context) (time.Time, error) {
	expires, wanted, err := i.task.Rests.Wanted(ctx, i.task.Session.Epoch)
	if err != nil {
		return expires, fmt.Errorf("look when the session ends: %w", err)
	}
	if !wanted || expires.IsZero() {
		return i.slot.end(), nil
	}
	return expires, nil
}

// setEnd has the session end at another time. Called with serving held.
func (i *instance) setEnd(expires time.Time) {
	select {
	case <-i.closed:
		return
	default:
	}
	i.expiry.Reset(time.Until(expires))
	if i.session != nil {
		i.session.life.putOff(expires)
	}
}

// adopt is setEnd with what the record says.
func (i *instance) adopt(ctx context.Context) (time.Time, error) {
	expires, err := i.recordedEnd(ctx)
	if err != nil {
		return expires, err
	}
	i.serving.Lock()
	defer i.serving.Unlock()
	i.setEnd(expires)
	return expires, nil
}

// expire ends the session when its time has come, whether or not anybody asks
// for it.
func (i *instance) expire() {
	if i.slot.vacant() {
		if i.takenAfterAll() || !i.slot.close() {
			return
		}
	} else if i.putOff() {
		return
	}
	i.endBySelf("expired")
}

// putOff says whether the session's end was put off without this process having
// been told.
func (i *instance) putOff() bool {
	ctx, cancel := context.WithTimeoutCause(context.Background(), expiryPatience, errors.New("no answer in time"))
	defer cancel()
	for {
		expires, err := i.recordedEnd(ctx)
		if err == nil && !expires.After(time.Now()) {
			return false
		}
		if err == nil {
			i.serving.Lock()
			i.setEnd(expires)
			i.serving.Unlock()
			return true
		}
		select {
		case <-time.After(expiryPause):
		case <-i.closed:
			return true // to whoever is next
		case <-ctx.Done():
			i.agent.log.Warn("a session ends at the time that was known", "session", i.task.Session.ID, "error", err)
			return false
		}
	}
}

// extend sees to it that what is stored of the session lasts as long as it does.
func (k *keeper) extend(ctx context.Context, expires time.Time) error {
	release, err := k.hold(ctx)
	if err != nil {
		return err
	}
	err = k.load(ctx)
	stored := k.last.Snapshot
	release()
	if err != nil || stored.IsZero() || !stored.Expires.Before(expires) {
		return err
	}
	return k.save(ctx, false)
}

// serveExtend answers POST /v1/extend: the session's record has another end.
func (i *instance) serveExtend(s *Session) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		expires, err := i.adopt(r.Context())
		if err == nil {
			err = s.keeper.extend(r.Context(), expires)
		}
		if err != nil {
			return unsure("extend the session: %v", err)
		}
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	}
}

// serveEnd answers POST /v1/end: the session's record is gone. After the answer nobody is
// let in, and what runs ends, also where the machine's Nomad agent has not heard of it.
func (i *instance) serveEnd(s *Session) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		_, wanted, err := i.task.Rests.Wanted(r.Context(), i.task.Session.Epoch)
		switch {
		case err != nil:
			return unsure("look whether the session has ended: %v", err)
		case wanted:
			return &Error{Status: http.StatusConflict, Code: "session_busy", Message: "the session has a record, and goes on"}
		}
		s.life.leave()
		defer func() { go i.endBySelf("deleted") }() // after the answer: with the sandbox goes this listener
		writeJSON(w, http.StatusOK, struct{}{})
		return nil
	}
}
