// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Check is one of the things without which a front-end is of no use.
type Check struct {
	Name string
	// Wrong says what is wrong with it, for everybody; empty is nothing.
	Wrong string
	// Err is why, for the log.
	Err error
}

// nodesKnownFor is how long it is believed that there are nodes: their list is long.
const nodesKnownFor = time.Minute

// Ready says of each thing whether it is there. Nodes need not be up: sessions that sleep
// are there when none is, and no front-end could serve the others.
func (s *Service) Ready(ctx context.Context) []Check {
	checks := []Check{
		{Name: "consul", Wrong: "it does not answer, or takes no writes"},
		{Name: "nomad", Wrong: "it does not answer, or has no leader"},
		{Name: "nodes", Wrong: "Nomad knows no node with the driver"},
	}
	var all sync.WaitGroup
	for i, ask := range []func(context.Context) error{s.Store.Ready, s.Scheduler.Ready, s.nodesKnown} {
		all.Go(func() {
			if checks[i].Err = ask(ctx); checks[i].Err == nil {
				checks[i].Wrong = ""
			}
		})
	}
	all.Wait()
	return checks
}

// nodesSeen is when nodes were seen last.
type nodesSeen struct {
	mu sync.Mutex
	at time.Time
}

func (s *Service) nodesKnown(ctx context.Context) error {
	s.nodesSeen.mu.Lock()
	defer s.nodesSeen.mu.Unlock()
	if !s.nodesSeen.at.IsZero() && s.Now().Sub(s.nodesSeen.at) < nodesKnownFor {
		return nil
	}
	nodes, _, err := s.Scheduler.Nodes(ctx, 0)
	if err != nil {
		return err
	}
	if len(nodes) == 0 {
		return errors.New("list nodes: none has the driver")
	}
	s.nodesSeen.at = s.Now()
	return nil
}
