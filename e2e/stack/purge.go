// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"golang.org/x/sys/unix"

	nomad "github.com/hashicorp/nomad/api"
)

// purge ends all jobs and waits until nothing of their allocations is left on
// the clients that run. Nomad lists no allocations of jobs that are purged, so their ids
// are noted before.
func (s *Stack) purge(ctx context.Context) error {
	if err := s.noteAllocs(ctx); err != nil {
		return err
	}
	jobs, _, err := s.Nomad.Jobs().List((&nomad.QueryOptions{Namespace: nomad.AllNamespacesNamespace}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, job := range jobs {
		if _, _, err := s.Nomad.Jobs().Deregister(job.ID, true, (&nomad.WriteOptions{Namespace: job.Namespace}).WithContext(ctx)); err != nil {
			return fmt.Errorf("deregister job %s: %w", job.ID, err)
		}
	}
	for _, c := range s.Clients {
		if !c.Agent.answers() {
			continue
		}
		if err := c.Agent.process.until(ctx, c.empty); err != nil {
			return fmt.Errorf("wait for the end of all allocations: %w", err)
		}
	}
	return nil
}

// empty says whether the client has let go of all allocations.
func (c *Client) empty(ctx context.Context) error {
	if err := c.collect(ctx); err != nil {
		return err
	}
	entries, err := os.ReadDir(filepath.Join(c.stack.Dir, c.Name, allocsIn))
	if err == nil && len(entries) > 0 {
		err = fmt.Errorf("%s has %d directories of allocations", c.Name, len(entries))
	}
	return err
}

// noteAllocs remembers the allocations that there are, if Nomad runs.
func (s *Stack) noteAllocs(ctx context.Context) error {
	if !s.NomadServer.answers() {
		return nil
	}
	allocs, _, err := s.Nomad.Allocations().List((&nomad.QueryOptions{Namespace: nomad.AllNamespacesNamespace}).WithContext(ctx))
	if err != nil {
		return fmt.Errorf("list allocations: %w", err)
	}
	for _, alloc := range allocs {
		for _, c := range s.Clients {
			if c.Name == alloc.NodeName {
				c.allocs[alloc.ID] = true
			}
		}
	}
	return nil
}

// collect has the client, if it runs, let go of ended allocations: it keeps
// their directories, with mounts in them, for hours and beyond its own end.
func (c *Client) collect(ctx context.Context) error {
	if !c.Agent.answers() {
		return nil
	}
	if _, err := c.stack.get(ctx, c.url+"/v1/client/gc"); err != nil {
		return err
	}
	return c.finish()
}

// givenUp is what a client says of an allocation's directory that it does not try to
// remove again.
var givenUp = regexp.MustCompile(`failed to remove alloc dir "([^"]+)"`)

// finish removes the directories that the client has given up. A task's secrets are a
// file system with a socket of the client's in it, which is in use for a moment more where
// the client is starting another process just then. What a sandbox still uses stays.
func (c *Client) finish() error {
	log, err := os.ReadFile(c.Agent.process.log)
	if err != nil {
		return err
	}
	var errs []error
	for _, found := range givenUp.FindAllSubmatch(log, -1) {
		dir := string(found[1])
		if filepath.Dir(dir) != filepath.Join(c.stack.Dir, c.Name, allocsIn) {
			continue
		}
		secrets, err := filepath.Glob(filepath.Join(dir, "*", "secrets"))
		errs = append(errs, err)
		for _, mount := range secrets {
			if err := unix.Unmount(mount, unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: it is none
				errs = append(errs, fmt.Errorf("unmount %s, which the client has given up: %w", mount, err))
			}
		}
		mounted, err := (&debris{dirs: []string{dir}}).mounts()
		if err == nil && len(mounted) == 0 { // what is mounted is not to be emptied
			err = os.RemoveAll(dir)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// allocsIn is where in its directory a client has its allocations.
const allocsIn = "alloc"
