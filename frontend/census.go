// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"sync"
	"time"
)

// Census is how many sessions there were when the leader counted them.
type Census struct {
	// At is when; zero at a front-end that has not led yet.
	At time.Time
	// Took is how long the round of the reaper took.
	Took time.Duration
	// Sessions are by state and plan, as of the last pass over all; nil before.
	Sessions map[Kind]int
}

// Kind is what sessions are counted by.
type Kind struct {
	State State
	Plan  string
}

// census is the last Census.
type census struct {
	mu   sync.Mutex
	last Census
}

func (c *census) put(last Census) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = last
}

// Census is that of the last round of the reaper, if it was here.
func (s *Service) Census() Census {
	s.census.mu.Lock()
	defer s.census.mu.Unlock()
	return s.census.last
}

// Slots is how many slots are ready of each shape, as far as this front-end knows.
func (s *Service) Slots() map[Shape]int {
	slots, _, _ := s.pool.all(s.Now())
	ready := map[Shape]int{}
	for _, slot := range slots {
		if slot.Ready() {
			ready[slot.Shape]++
		}
	}
	return ready
}

// Waiting is how many creates wait for their turn.
func (s *Service) Waiting() int { return s.line.length() }
