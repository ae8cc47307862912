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

	mu   sync.Mutex
	jobs map[string]bool // by session: dead
}

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
	if _, ok := s.jobs[sess.ID]; ok {
		return frontend.ErrExists
	}
	if s.jobs == nil {
		s.jobs = map[string]bool{}
	}
	s.jobs[sess.ID] = false
	if !s.Idle {
		s.Store.PutClaim(claim.Claim{Session: sess.ID, Epoch: sess.Epoch, Alloc: "alloc-" + sess.ID, Node: "node", API: s.API, Preview: s.Preview})
	}
	return nil
}

// Stop implements frontend.Scheduler.
func (s *Scheduler) Stop(_ context.Context, id string) error {
	if err := s.enter("Stop"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.jobs, id)
	return nil
}

// Add adds a job that nobody has started here.
func (s *Scheduler) Add(id string, dead bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.jobs == nil {
		s.jobs = map[string]bool{}
	}
	s.jobs[id] = dead
}

// Jobs implements frontend.Scheduler.
func (s *Scheduler) Jobs(context.Context) ([]frontend.Job, error) {
	if err := s.enter("Jobs"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []frontend.Job
	for id, dead := range s.jobs {
		out = append(out, frontend.Job{Session: id, Dead: dead})
	}
	return out, nil
}

// Lost implements frontend.Scheduler.
func (s *Scheduler) Lost(_ context.Context, id string) (bool, error) {
	if err := s.enter("Lost"); err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	dead, ok := s.jobs[id]
	return dead || !ok, nil
}

// Explain implements frontend.Scheduler.
func (s *Scheduler) Explain(context.Context, string) string { return "it is a stand-in" }

// Ready implements frontend.Scheduler.
func (s *Scheduler) Ready(context.Context) error { return s.enter("Ready") }
