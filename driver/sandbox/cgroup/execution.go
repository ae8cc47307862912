// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// Execution is the cgroups of one execution: of all processes that came of it.
type Execution struct {
	id    string
	group *Group
	dirs  []string // one in each hierarchy that has executions

	kill, memory, cpu string // the directories of dirs that serve this
}

// ID is the id that the execution was made with.
func (e *Execution) ID() string { return e.id }

// Pids lists the processes, as the caller's PID namespace numbers them. A
// process that has ended but is not reaped is not among them.
func (e *Execution) Pids() ([]int, error) {
	pids, err := cgroups.GetPids(e.kill)
	if err != nil {
		return nil, fmt.Errorf("list processes of execution %s: %w", e.id, err)
	}
	return pids, nil
}

// Kill ends every process, also those forked meanwhile, and returns once there
// is none. It may be called of an execution that is gone. Where the freezer of
// v1 is what kills, a frozen session has to be thawed first: a frozen process
// dies only then.
func (e *Execution) Kill(ctx context.Context) error {
	if err := killAll(ctx, e.kill); err != nil {
		return fmt.Errorf("kill execution %s: %w", e.id, err)
	}
	return nil
}

// Remove removes the cgroups, for which there must be no process left in them;
// one that is just exiting is waited for. It may be called again.
func (e *Execution) Remove(ctx context.Context) error {
	err := until(ctx, "its last process to leave", func() (bool, error) {
		err := e.rmdir()
		return err == nil, ignore(err, unix.EBUSY)
	})
	if err != nil {
		return fmt.Errorf("remove execution %s: %w", e.id, err)
	}
	return nil
}

func (e *Execution) rmdir() error {
	var errs []error
	for _, dir := range e.dirs {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, &os.PathError{Op: "rmdir", Path: dir, Err: err})
		}
	}
	return errors.Join(errs...)
}

// doors are the directories that a process of the execution has to be in.
func (e *Execution) doors() []string {
	doors := make([]string, len(e.group.lay.hierarchies))
	for i, h := range e.group.lay.hierarchies {
		doors[i] = e.group.session(i)
		if h.perExecution {
			doors[i] = filepath.Join(doors[i], e.id)
		}
	}
	return doors
}
