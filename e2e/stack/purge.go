// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	nomad "github.com/hashicorp/nomad/api"
)

// purge ends all jobs and waits until nothing of their allocations is left on
// the client. Nomad lists no allocations of jobs that are purged, so their ids
// are noted before.
func (s *Stack) purge(ctx context.Context) error {
	if err := s.noteAllocs(ctx); err != nil {
		return err
	}
	jobs, _, err := s.Nomad.Jobs().List((&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, job := range jobs {
		if _, _, err := s.Nomad.Jobs().Deregister(job.ID, true, (&nomad.WriteOptions{}).WithContext(ctx)); err != nil {
			return fmt.Errorf("deregister job %s: %w", job.ID, err)
		}
	}
	return s.client.until(ctx, func(ctx context.Context) error {
		if err := s.collect(ctx); err != nil {
			return err
		}
		entries, err := os.ReadDir(filepath.Join(s.Dir, allocsIn))
		if err == nil && len(entries) > 0 {
			err = fmt.Errorf("the client has %d directories of allocations", len(entries))
		}
		return err
	})
}

// noteAllocs remembers the allocations that there are, if Nomad runs.
func (s *Stack) noteAllocs(ctx context.Context) error {
	if !s.server.alive() {
		return nil
	}
	allocs, _, err := s.Nomad.Allocations().List((&nomad.QueryOptions{}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list allocations: %w", err)
	}
	for _, alloc := range allocs {
		s.allocs[alloc.ID] = true
	}
	return nil
}

// collect has the client, if it runs, let go of ended allocations: it keeps
// their directories, with mounts in them, for hours and beyond its own end.
func (s *Stack) collect(ctx context.Context) error {
	if !s.client.alive() {
		return nil
	}
	_, err := get(ctx, s.clientAddr+"/v1/client/gc")
	return err
}

// allocsIn is where in a stack's directory the client has its allocations.
const allocsIn = "client/alloc"
