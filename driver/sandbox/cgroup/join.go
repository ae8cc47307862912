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
// cgroup.procs takes a lock that every fork and exit of the host shares, and the
// first one after a pause waits for a grace period of RCU (AddInit has the
// figures). Two ways take no such lock: to be born in a cgroup of v2
// (CLONE_INTO_CGROUP), and on v1 to move only the calling thread, through
// `tasks` (7 to 30 µs a hierarchy). A process that execs is what its calling
// thread was, so the second will do for whoever writes and then calls execve.

// ProcsFiles opens what a process has to write "0" to, file by file, to be in
// the execution; the caller closes them. The writer needs no privilege over
// cgroups, since the kernel goes by who opened the file. It must write from the
// thread that calls execve afterwards: the files of v1 move that thread alone.
// On v2 and hybrid the first file is a cgroup.procs, whose price JoinFiles
// avoids.
func (e *Execution) ProcsFiles() ([]*os.File, error) {
	return e.open(func(h hierarchy, dir string) (*os.File, error) {
		if h.v2 {
			return cgroups.OpenFile(dir, cgroups.CgroupProcesses, os.O_WRONLY)
		}
		return openTasks(dir)
	})
}

// JoinFiles opens what a new process of the execution joins its cgroups by; the
// caller closes them. On v2 and hybrid the first is a directory, to be cloned
// into (SysProcAttr.CgroupFD); all others are as with ProcsFiles, and on v2
// there are none. The process that clones must be in the init cgroup, run as
// owner, a host uid, and be in a cgroup namespace that reaches the scope, such
// as the host's.
func (e *Execution) JoinFiles(owner int) ([]*os.File, error) {
	return e.open(func(h hierarchy, dir string) (*os.File, error) {
		if !h.v2 {
			return openTasks(dir)
		}
		// The kernel asks whether owner could have moved the process by hand: out
		// of the last directory that the ways there share, into this one.
		scope := e.group.dirs[e.group.lay.kill]
		for _, d := range []string{scope, dir} {
			if err := os.Chown(filepath.Join(d, cgroups.CgroupProcesses), owner, -1); err != nil {
				return nil, err
			}
		}
		return openDir(dir)
	})
}

func (e *Execution) open(open func(hierarchy, string) (*os.File, error)) ([]*os.File, error) {
	doors := e.doors()
	files := make([]*os.File, 0, len(doors))
	for i, h := range e.group.lay.hierarchies {
		f, err := open(h, doors[i])
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("open cgroup of execution %s: %w", e.id, err)
		}
		files = append(files, f)
	}
	return files, nil
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

func openTasks(dir string) (*os.File, error) {
	return cgroups.OpenFile(dir, "tasks", os.O_WRONLY)
}

func openDir(dir string) (*os.File, error) {
	return os.OpenFile(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
