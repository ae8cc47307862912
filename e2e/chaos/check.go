// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// each does something for every session, some at a time.
func (r *run) each(list []*session, do func(s *session)) {
	var all sync.WaitGroup
	room := make(chan struct{}, 4)
	for _, s := range list {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			do(s)
		})
	}
	all.Wait()
}

// survivors wants every session to answer, and to have what it has to have, also after
// another sleep.
func (r *run) survivors() {
	over := time.Now()
	r.each(r.sessions(), func(s *session) {
		if !r.mustAnswer(s, over) {
			return
		}
		r.readAll(s)
		if !r.sleepNow(s) {
			return
		}
		r.readAll(s)
	})
}

// readAll reads all files of a session.
func (r *run) readAll(s *session) {
	files := s.take(mostFiles, false, func(int) int { return 0 })
	defer s.give(files)
	const chunk = 10
	n := 0
	for part := range slices.Chunk(files, chunk) {
		n++
		if n%2 == 0 {
			r.until(s, "files are read", func(front int) bool { return r.execute(s, front, nil, part, nil) })
			continue
		}
		for _, f := range part {
			r.until(s, "a file is read", func(front int) bool { return r.readBack(s, f, front) })
		}
	}
}

// until tries something until it is done. All parts are up, so it has to be soon.
func (r *run) until(s *session, what string, do func(front int) bool) bool {
	const within = 30 * time.Second
	for begin, n := time.Now(), 0; !do(n % len(r.apis)); n++ {
		s.mu.Lock()
		gone := s.gone != ""
		s.mu.Unlock()
		if gone {
			return false
		}
		if time.Since(begin) > within {
			r.tally.violate(s, "not within %v with all parts up: %s", within, what)
			return false
		}
		if !wait(r.ctx, 200*time.Millisecond) {
			return false
		}
	}
	return true
}

func (r *run) sleepNow(s *session) bool {
	return r.until(s, "it sleeps", func(front int) bool {
		return r.call(s, "sleep", front, client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: object{"state": deepSleep, "force": true}}).ok()
	})
}

// deleteAll deletes every session, also those of which nobody was told.
func (r *run) deleteAll() {
	r.each(r.sessions(), func(s *session) {
		r.until(s, "it is deleted", func(front int) bool { return r.remove(s, front) })
	})
	for begin := time.Now(); ; {
		ids, err := r.listed()
		switch {
		case err == nil && len(ids) == 0:
			r.hauntAll()
			return
		case time.Since(begin) > cleanWithin:
			r.tally.violate(nil, "sessions cannot be deleted: %v, %v", ids, err)
			return
		}
		for n, id := range ids {
			r.tally.count("orphans", "")
			r.call(nil, "delete orphan", n%len(r.apis), client.Call{Method: "DELETE", Path: "/sessions/" + id})
		}
		if !wait(r.ctx, 100*time.Millisecond) {
			return
		}
	}
}

// listed are the ids of the account's sessions at both front-ends.
func (r *run) listed() (ids []string, err error) {
	for front := range r.apis {
		a := r.call(nil, "list", front, client.Call{Method: "GET", Path: "/sessions", Query: url.Values{"limit": {"100"}}})
		var page struct {
			Sessions []struct{ SessionID string }
		}
		if !a.ok() {
			return nil, fmt.Errorf("list sessions: %s", a.outcome())
		}
		if err := json.Unmarshal(a.body, &page); err != nil {
			return nil, fmt.Errorf("decode list: %w", err)
		}
		for _, s := range page.Sessions {
			if !slices.Contains(ids, s.SessionID) {
				ids = append(ids, s.SessionID)
			}
		}
	}
	return ids, nil
}

// hauntAll asks for all that were deleted once more.
func (r *run) hauntAll() {
	if !wait(r.ctx, believed) {
		return
	}
	r.each(r.graves, func(s *session) {
		for front := range r.apis {
			for _, kind := range []string{"info", "read", "preview"} {
				r.haunt(s, front, kind)
			}
		}
	})
}
