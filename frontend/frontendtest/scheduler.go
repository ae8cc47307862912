// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"
	"slices"
	"sync"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
)

// Scheduler is a frontend.Scheduler whose jobs are claimed as soon as they
// start, as by a cluster of one node with room for all.
type Scheduler struct {
	Store *Store
	// API and Preview are where the node answers for all sessions.
	API, Preview string
	// Idle says not to claim.
	Idle bool
	// Fail, if not nil, is asked before each call, by method; its error is returned.
	Fail func(method string) error
	// Starts counts the jobs that were started.
	Starts int
	// Slots counts those of slots.
	Slots int
	// Version is that of its jobs.
	Version string
	// NoRoom is what Full says.
	NoRoom bool

	mu       sync.Mutex
	jobs     map[string]map[uint64]job // by session and epoch
	draining []string
	drains   uint64        // how often that has changed
	drained  chan struct{} // closed and replaced with every change; nil before anybody waits
}

// Node is the name of the only node.
const Node = "node"

type job struct{ dead, saving bool }

var _ frontend.Scheduler = (*Scheduler)(nil)

func (s *Scheduler) enter(method string) error {
	if s.Fail != nil {
		return s.Fail(method)
	}
	return nil
}

// Start implements frontend.Scheduler.
func (s *Scheduler) Start(_ context.Context, sess *frontend.Session) error {
	if err := s.enter("Start"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.jobs[sess.ID][sess.Epoch]; ok {
		return frontend.ErrExists
	}
	s.Starts++
	s.set(sess.ID, sess.Epoch, job{})
	if !s.Idle {
		s.Store.PutClaim(claim.Claim{Session: sess.ID, Epoch: sess.Epoch, Alloc: "alloc-" + sess.ID, Node: Node, API: s.API, Preview: s.Preview})
	}
	return nil
}

// set is called with mu held.
func (s *Scheduler) set(id string, epoch uint64, j job) {
	if s.jobs == nil {
		s.jobs = map[string]map[uint64]job{}
	}
	if s.jobs[id] == nil {
		s.jobs[id] = map[uint64]job{}
	}
	s.jobs[id][epoch] = j
}

// Stop implements frontend.Scheduler.
func (s *Scheduler) Stop(_ context.Context, id string, epoch uint64) error {
	if err := s.enter("Stop"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.jobs[id], epoch)
	return nil
}

// StopAll implements frontend.Scheduler.
func (s *Scheduler) StopAll(_ context.Context, id string) error {
	if err := s.enter("StopAll"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.jobs, id)
	return nil
}

// Add adds a job of a session's first epoch that nobody has started here.
func (s *Scheduler) Add(id string, dead bool) { s.add(id, job{dead: dead}) }

// AddSaving adds a job of a session's first epoch that was told to stop and whose
// node is still at it.
func (s *Scheduler) AddSaving(id string) { s.add(id, job{dead: true, saving: true}) }

func (s *Scheduler) add(id string, j job) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(id, 1, j)
}

// End ends the task of a session's epoch.
func (s *Scheduler) End(id string, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.set(id, epoch, job{dead: true})
}

// Jobs implements frontend.Scheduler.
func (s *Scheduler) Jobs(context.Context) ([]frontend.Job, error) {
	if err := s.enter("Jobs"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []frontend.Job
	for id, epochs := range s.jobs {
		for epoch, j := range epochs {
			out = append(out, frontend.Job{Session: id, Epoch: epoch, Dead: j.dead})
		}
	}
	return out, nil
}

// Lost implements frontend.Scheduler.
func (s *Scheduler) Lost(_ context.Context, id string, epoch uint64) (bool, error) {
	if err := s.enter("Lost"); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.jobs[id][epoch]
	if !ok {
		return false, frontend.ErrNotFound
	}
	return j.dead && !j.saving, nil
}

// Drain says which nodes drain from now on.
func (s *Scheduler) Drain(nodes ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.draining = nodes
	s.drains++
	if s.drained != nil {
		close(s.drained)
		s.drained = nil
	}
}

// Draining implements frontend.Scheduler.
func (s *Scheduler) Draining(ctx context.Context, since uint64) ([]string, uint64, error) {
	if err := s.enter("Draining"); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	if since != s.drains+1 {
		defer s.mu.Unlock()
		return s.draining, s.drains + 1, nil
	}
	if s.drained == nil {
		s.drained = make(chan struct{})
	}
	changed := s.drained
	s.mu.Unlock()
	select {
	case <-changed:
		return s.Draining(ctx, 0)
	case <-ctx.Done():
		return nil, 0, context.Cause(ctx)
	}
}

// Nodes implements frontend.Scheduler: the only node is up unless it drains.
func (s *Scheduler) Nodes(ctx context.Context, since uint64) ([]frontend.NodeState, uint64, error) {
	drains, next, err := s.Draining(ctx, since)
	up := !slices.Contains(drains, Node)
	return []frontend.NodeState{{ID: Node, Name: Node, Status: "ready", Draining: !up, Eligible: up, Healthy: true, Up: up, Takes: up}}, next, err
}

// Places implements frontend.Scheduler.
func (s *Scheduler) Places(ctx context.Context) ([]frontend.Place, error) {
	if err := s.enter("Places"); err != nil {
		return nil, err
	}
	jobs, err := s.On(ctx, Node)
	out := make([]frontend.Place, len(jobs))
	for i, j := range jobs {
		out[i] = frontend.Place{Session: j.Session, Epoch: j.Epoch, Node: Node, NodeName: Node}
	}
	return out, err
}

// Full implements frontend.Scheduler.
func (s *Scheduler) Full(context.Context, string, uint64) (bool, error) {
	if err := s.enter("Full"); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.NoRoom, nil
}

// On implements frontend.Scheduler: all that lives is on the only node.
func (s *Scheduler) On(ctx context.Context, node string) ([]frontend.Job, error) {
	if err := s.enter("On"); err != nil || node != Node {
		return nil, err
	}
	jobs, err := s.Jobs(ctx)
	return slices.DeleteFunc(jobs, func(j frontend.Job) bool { return j.Dead }), err
}

// Explain implements frontend.Scheduler.
func (s *Scheduler) Explain(context.Context, string, uint64) string { return "it is a stand-in" }

// Ready implements frontend.Scheduler.
func (s *Scheduler) Ready(context.Context) error { return s.enter("Ready") }
