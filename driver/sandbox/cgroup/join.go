// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// How a process gets into its cgroups decides what that costs. A write to a
// cgroup.procs takes a lock that every fork and exit on the host shares, and the
// first write after a pause waits for a grace period of RCU: 4 to 28 ms, median
// 12 (Linux 6.18, 2 cores), where each further one takes 10 µs. Two ways take no
// such lock: to be born in a cgroup of v2 (CLONE_INTO_CGROUP), and on v1 to move
// only the calling thread, through `tasks` (7 to 30 µs a hierarchy). A process
// that execs is what its calling thread was, so the second will do for whoever
// writes and then calls execve.

// JoinFiles opens what a new process of the execution joins its cgroups by; the
// caller closes them. On v2 and hybrid the first is a directory, to be cloned
// into (SysProcAttr.CgroupFD). All others, on v2 none, are files of v1: the
// process writes "0" to each, from the thread that calls execve afterwards.
//
// The process that clones must be in the init cgroup, run as owner, a host uid,
// and be in a cgroup namespace that reaches the scope, such as the host's. The
// writer needs no privilege: the kernel goes by who opened the files.
func (e *Execution) JoinFiles(owner int) (files []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			files, err = nil, fmt.Errorf("open cgroups of execution %s: %w", e.id, err)
		}
	}()
	doors := e.doors()
	for i, h := range e.group.lay.hierarchies {
		var f *os.File
		if h.v2 {
			f, err = delegate(e.group.dirs[i], doors[i], owner)
		} else {
			f, err = cgroups.OpenFile(doors[i], "tasks", os.O_WRONLY)
		}
		if err != nil {
			return files, err
		}
		files = append(files, f)
	}
	return files, nil
}

// delegate opens dir, a cgroup of v2 below scope, for owner to clone into. The
// kernel asks whether owner could have moved the process by hand: out of the last
// directory that the ways there share, which is scope, into this one.
func delegate(scope, dir string, owner int) (*os.File, error) {
	for _, d := range []string{scope, dir} {
		if err := os.Chown(filepath.Join(d, cgroups.CgroupProcesses), owner, -1); err != nil {
			return nil, err
		}
	}
	return openDir(dir)
}

// BeginInit lets the process that the caller clones next, with sys, begin its
// life where init belongs. On v1 it moves the calling thread there for the child
// to inherit, so the caller's goroutine has to be locked to its thread until it
// has called end, after the clone, which moves the thread back. Giving the thread
// up instead would not do: a program's first thread never ends.
func (g *Group) BeginInit(sys *syscall.SysProcAttr) (end func() error, err error) {
	var there, back []string
	var dir *os.File
	for i, h := range g.lay.hierarchies {
		if h.v2 {
			if dir, err = openDir(g.init(i)); err != nil {
				return nil, fmt.Errorf("open cgroup of init: %w", err)
			}
			sys.UseCgroupFD, sys.CgroupFD = true, int(dir.Fd())
			continue
		}
		there, back = append(there, g.init(i)), append(back, h.own)
	}
	if g.scope.Cpuset != "" {
		there, back = append(there, g.scope.Cpuset), append(back, g.lay.ownCpuset)
	}
	end = func() error {
		if dir != nil {
			dir.Close()
		}
		return enter(back)
	}
	if err := enter(there); err != nil {
		return nil, errors.Join(fmt.Errorf("move thread into cgroups of init: %w", err), end())
	}
	return end, nil
}

// enter moves the calling thread into cgroups of v1.
func enter(dirs []string) error {
	for _, dir := range dirs {
		if err := cgroups.WriteFile(dir, "tasks", "0"); err != nil {
			return err
		}
	}
	return nil
}

func openDir(dir string) (*os.File, error) {
	return os.OpenFile(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}
