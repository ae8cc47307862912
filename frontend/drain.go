// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// The scheduler leaves a session on a draining node until the drain's deadline, when
// it stops all that are left at once and each has the same few seconds to be saved.
// So they are put to sleep before, as soon as nobody uses them, and wake elsewhere.
// What is in use at the deadline is the scheduler's to stop.

const (
	// leavers is how many sessions of a node go to sleep at a time. One that does
	// needs a core for some 100 ms and then waits for the object store; with more at
	// a time the sessions that are still in use would feel it, and each that is put
	// to sleep is away from its users for longer.
	leavers = 8
	// leaveTimeout is how long one may take: gigabytes go to the store at worst.
	leaveTimeout = 2 * time.Minute
	// busyPause is between two tries with a session that is in use, troublePause with
	// one that cannot be saved or whose node is away, and with a scheduler that does
	// not answer.
	busyPause    = time.Second
	troublePause = 10 * time.Second
	// lookForMore is how often a draining node is looked at for sessions that were
	// not seen there before. There are none, unless the look came too early.
	lookForMore = 30 * time.Second
)

// emptyDraining puts the sessions on draining nodes to deep sleep, until the context
// ends. Two front-ends may do it at a time: a node puts a session to sleep once.
func (s *Service) emptyDraining(ctx context.Context) {
	emptied := map[string]context.CancelFunc{} // by node
	var work sync.WaitGroup
	defer work.Wait() // which the context ends
	var since uint64
	for ctx.Err() == nil {
		nodes, next, err := s.Scheduler.Draining(ctx, since)
		if err != nil {
			if ctx.Err() == nil {
				s.Log.Warn("look for nodes that drain; trying again", "in", troublePause, "err", err)
			}
			since = 0
			pause(ctx, troublePause)
			continue
		}
		since = next
		for node, cancel := range emptied {
			if !slices.Contains(nodes, node) { // it is empty, or is to be used again
				cancel()
				delete(emptied, node)
			}
		}
		for _, node := range nodes {
			if emptied[node] == nil {
				ctx, cancel := context.WithCancel(ctx)
				emptied[node] = cancel
				work.Go(func() { s.empty(ctx, node) })
			}
		}
	}
	for _, cancel := range emptied {
		cancel()
	}
}

// pause waits. false: the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// empty puts the sessions on a node to deep sleep until the context ends.
func (s *Service) empty(ctx context.Context, node string) {
	s.Log.Info("node drains; its sessions go to sleep", "node", node)
	seen := map[life]bool{}
	room := make(chan struct{}, leavers)
	var work sync.WaitGroup
	defer work.Wait() // which the context ends
	for {
		jobs, err := s.Scheduler.On(ctx, node)
		wait := lookForMore
		if err != nil && ctx.Err() == nil {
			s.Log.Warn("look for sessions on draining node; trying again", "node", node, "err", err)
			wait = troublePause
		}
		for _, job := range jobs {
			l := life{job.Session, job.Epoch}
			if !seen[l] {
				seen[l] = true
				work.Go(func() { s.leave(ctx, l, room) })
			}
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// leave tries to put a session to deep sleep until it is, its life is over in
// another way, or the context ends.
func (s *Service) leave(ctx context.Context, l life, room chan struct{}) {
	told := false // once is enough: they may be many
	for {
		select {
		case <-ctx.Done():
			return
		case room <- struct{}{}:
		}
		over, err := s.tryLeave(ctx, l)
		<-room
		if over || ctx.Err() != nil {
			return
		}
		wait := busyPause
		if e, ok := errors.AsType[*Error](err); err != nil && (!ok || e.Code != CodeSessionBusy) {
			wait = troublePause
			if !told && !errors.Is(err, ErrAway) {
				s.Log.Warn("put session on draining node to sleep; trying again", "session", l.session, "err", err)
			}
			told = true
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// tryLeave tells the session's node once to put it to sleep. It is over when the
// session does not live there any more.
func (s *Service) tryLeave(ctx context.Context, l life) (over bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, leaveTimeout, fmt.Errorf("not asleep in %v", leaveTimeout))
	defer cancel()
	sess, err := s.lookup(ctx, l.session)
	if e, ok := errors.AsType[*Error](err); ok && e.Code == CodeSessionNotFound {
		return true, nil // its job is the reaper's
	}
	switch {
	case err != nil:
		return false, err
	case sess.over(l.epoch):
		return true, nil
	case sess.Epoch != l.epoch: // read before its life began
		s.Forget(l.session)
		return false, nil
	case !sess.Placed(): // starting, or nobody has noted its claim
		s.Forget(l.session)
		if err := s.heal(ctx, sess); !errors.Is(err, ErrNotFound) {
			return false, err
		}
		return false, nil
	}
	asleep, err := s.rest(ctx, sess, StateDeepSleep, false)
	return err == nil && asleep.over(l.epoch), err
}
