// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontendtest

import (
	"context"
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

	mu   sync.Mutex
	jobs map[string]map[uint64]job // by session and epoch
}

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
		s.Store.PutClaim(claim.Claim{Session: sess.ID, Epoch: sess.Epoch, Alloc: "alloc-" + sess.ID, Node: "node", API: s.API, Preview: s.Preview})
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

// Explain implements frontend.Scheduler.
func (s *Scheduler) Explain(context.Context, string, uint64) string { return "it is a stand-in" }

// Ready implements frontend.Scheduler.
func (s *Scheduler) Ready(context.Context) error { return s.enter("Ready") }
