// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"context"
	"math/rand/v2"
	"time"
)

// worker uses sessions at random.
type worker struct {
	*run
	rand   *rand.Rand
	number int
}

// operation is one of the things that a worker does with a session.
type operation struct {
	name   string
	weight int
	do     func(w *worker, s *session)
}

var operations = []operation{
	{"execute", 30, (*worker).execute},
	{"write", 22, (*worker).write},
	{"read", 22, (*worker).read},
	{"info", 12, (*worker).info},
	{"preview", 6, (*worker).preview},
	{"sleep", 8, (*worker).sleep},
	{"list", 3, (*worker).list},
	{"delete", 1, (*worker).drop},
	{"ghost", 3, (*worker).ghost},
}

// work does one thing after the other until the context ends.
func (w *worker) work(ctx context.Context) {
	total := 0
	for _, o := range operations {
		total += o.weight
	}
	for {
		if s := w.pick(); s == nil {
			w.create()
		} else {
			n := w.rand.IntN(total)
			for _, o := range operations {
				if n -= o.weight; n < 0 {
					o.do(w, s)
					break
				}
			}
		}
		// Now and then all are left alone for long enough to rest.
		pause := time.Duration(w.rand.IntN(300)) * time.Millisecond
		if w.rand.IntN(40) == 0 {
			pause = sleepAfter
		}
		if !wait(ctx, pause) {
			return
		}
	}
}

// pick is a session, or nil if there are too few. Some are used more than others, so
// that these come to rest.
func (w *worker) pick() *session {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.alive) < w.Sessions {
		w.made++
		if w.made <= w.Sessions || w.rand.IntN(3) > 0 {
			return nil
		}
	}
	n := len(w.alive)
	if n == 0 {
		return nil
	}
	if w.rand.IntN(3) > 0 {
		n = (n + 1) / 2
	}
	return w.alive[w.rand.IntN(n)]
}

// any is one of the front-ends.
func (w *worker) any() int { return w.rand.IntN(len(w.apis)) }

func (r *run) byID() map[string]*session {
	r.mu.Lock()
	defer r.mu.Unlock()
	byID := make(map[string]*session, len(r.alive))
	for _, s := range r.alive {
		byID[s.id] = s
	}
	return byID
}

func (r *run) add(s *session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.alive = append(r.alive, s)
}

// bury takes a session off those that are alive, once.
func (r *run) bury(s *session, why string) {
	s.mu.Lock()
	was := s.gone
	if was == "" {
		s.gone = why
		s.noteLocked("gone: %s", why)
	}
	s.mu.Unlock()
	if was != "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for n, o := range r.alive {
		if o == s {
			r.alive = append(r.alive[:n:n], r.alive[n+1:]...)
		}
	}
	r.graves = append(r.graves, s)
}
