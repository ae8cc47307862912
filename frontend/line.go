// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"slices"
	"sync"
)

// line is where creates wait: for a slot, or for their turn to start a job of their
// own, whichever comes first. Accounts take turns, however much each of them wants.
//
// It bounds how many jobs are started at a time. More would not be done sooner: what
// is under way shares the nodes' cores, and all of it would come late instead of some.
type line struct {
	// pick gives a slot that serves a shape, or nil. It is called with mu held.
	pick func(Shape) *Slot

	mu   sync.Mutex
	free int // starts that may begin now
	// waiting has the accounts with somebody in line, whose turn is first in front,
	// each with its own in order of arrival.
	waiting []*queue
}

// queue is the line of one account.
type queue struct {
	account string
	waiters []*waiter
}

// waiter is a create in line. turn gets its slot, or nil: its turn to start a job,
// which is to be given back.
type waiter struct {
	shape Shape
	turn  chan *Slot
}

func newLine(starts int, pick func(Shape) *Slot) *line {
	return &line{free: starts, pick: pick}
}

// wait returns a slot, or nil and what gives the turn to start a job back.
func (l *line) wait(ctx context.Context, account string, shape Shape) (slot *Slot, done func(), err error) {
	w := &waiter{shape: shape, turn: make(chan *Slot, 1)}
	l.join(account, w)
	l.serve()
	select {
	case slot = <-w.turn:
	case <-ctx.Done():
		if l.leave(account, w) {
			return nil, nil, context.Cause(ctx)
		}
		slot = <-w.turn // it came just now
	}
	if slot != nil {
		return slot, func() {}, nil
	}
	return nil, sync.OnceFunc(l.back), nil
}

func (l *line) join(account string, w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.waiting, func(q *queue) bool { return q.account == account })
	if i < 0 {
		i = len(l.waiting)
		l.waiting = append(l.waiting, &queue{account: account})
	}
	l.waiting[i].waiters = append(l.waiting[i].waiters, w)
}

// leave takes a waiter out of line. false: it has had its turn.
func (l *line) leave(account string, w *waiter) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, q := range l.waiting {
		if j := slices.Index(q.waiters, w); q.account == account && j >= 0 {
			l.remove(i, j)
			return true
		}
	}
	return false
}

// remove takes the waiter j of the queue i out of line. Called with mu held.
func (l *line) remove(i, j int) {
	q := l.waiting[i]
	q.waiters = slices.Delete(q.waiters, j, j+1)
	if len(q.waiters) == 0 {
		l.waiting = slices.Delete(l.waiting, i, i+1)
	}
}

// back gives the turn to start a job back.
func (l *line) back() {
	l.mu.Lock()
	l.free++
	l.mu.Unlock()
	l.serve()
}

// serve gives turns to those in line, as far as there are slots and starts.
func (l *line) serve() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.next() {
	}
}

// length is how many are in line.
func (l *line) length() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range l.waiting {
		n += len(q.waiters)
	}
	return n
}

// next gives one turn: to the first account whose turn it is that can be served, and
// of those that it has in line to the first that can. Called with mu held.
func (l *line) next() bool {
	none := map[Shape]bool{} // shapes without a slot
	for i, q := range l.waiting {
		for j, w := range q.waiters {
			var slot *Slot
			if !none[w.shape] {
				slot = l.pick(w.shape)
				none[w.shape] = slot == nil
			}
			if slot == nil && l.free == 0 {
				continue
			}
			if slot == nil {
				l.free--
			}
			w.turn <- slot
			l.waiting = append(slices.Delete(l.waiting, i, i+1), q) // the others first, next time
			l.remove(len(l.waiting)-1, j)
			return true
		}
	}
	return false
}
