// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package cgroup gives a sandbox its place in the cgroup tree, with v1, v2 and
// the hybrid of both (v1 controllers beside a cgroup2 mount that only kills and
// freezes) behind one API.
//
// Below the directory that Nomad made for the task, its scope:
//
//	<scope>/init                 the sandbox's init, outside the limits
//	<scope>/session              the limits; nothing runs directly in it
//	<scope>/session/<execution>  one for each execution
//
// On v1 only what an execution needs for itself is made for each of them: what
// kills it and what accounts its memory and CPU time. The quota and the number
// of processes are held one level up, in <scope>/session, which every process
// of an execution joins as well.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

const (
	initDir    = "init"
	sessionDir = "session"
	// parentDir is where groups live that have no directory of Nomad's.
	parentDir = "buntime"
)

// Scope is where a sandbox lives in the cgroup tree.
type Scope struct {
	// Path is the directory, from the top of each hierarchy:
	// "/nomad.slice/share.slice/<alloc>.<task>.scope" on v2,
	// "/nomad/<alloc>.<task>" on v1. It is made where it does not exist.
	Path string
	// Cpuset, on v1, is the absolute path of the cpuset cgroup that init starts
	// in. Other tasks may use it too; it is left as it is. May be empty.
	Cpuset string
}

// OwnScope is the scope of a sandbox to which Nomad gave none.
func OwnScope(name string) Scope {
	return Scope{Path: "/" + parentDir + "/" + name}
}

// Group is the cgroups of one sandbox. It keeps no state but paths, so that two
// processes may hold the same one, and its methods may be called from any
// goroutine.
type Group struct {
	lay   *layout
	scope Scope
	dirs  []string // the scope's directory in each hierarchy of lay
}

// New makes the cgroups of a sandbox and sets its limits. What an earlier
// sandbox left at the same place is an error that wraps fs.ErrExist.
func New(scope Scope, limits Limits) (*Group, error) {
	lay, err := mounted()
	if err != nil {
		return nil, err
	}
	return newGroup(lay, scope, limits)
}

func newGroup(lay *layout, scope Scope, limits Limits) (_ *Group, err error) {
	g := groupAt(lay, scope)
	if _, err := os.Stat(g.session(lay.kill)); err == nil {
		return nil, fmt.Errorf("create cgroups of %s: %w", scope.Path, fs.ErrExist)
	}
	defer func() {
		if err != nil {
			_ = g.remove()
		}
	}()
	for i := range g.dirs {
		for _, dir := range []string{g.init(i), g.session(i)} {
			if err := mkdirAll(dir); err != nil {
				return nil, fmt.Errorf("create cgroup: %w", err)
			}
		}
	}
	if err := g.configure(limits); err != nil {
		return nil, err
	}
	return g, nil
}

// configure sets up the directories of a new group.
func (g *Group) configure(limits Limits) error {
	for i, h := range g.lay.hierarchies {
		if !h.v2 || len(h.controllers) == 0 {
			continue
		}
		if err := h.enable(g.dirs[i]); err != nil {
			return err
		}
		// An execution needs no more than memory accounting of its own: its CPU
		// time is in cpu.stat without a controller, and each further controller
		// makes a new cgroup dearer.
		if err := enable(g.session(i), "memory"); err != nil {
			return err
		}
	}
	return g.SetLimits(limits)
}

// Open finds the cgroups of a sandbox that was made earlier, perhaps by another
// process. An error wraps fs.ErrNotExist when there are none.
func Open(scope Scope) (*Group, error) {
	lay, err := mounted()
	if err != nil {
		return nil, err
	}
	g := groupAt(lay, scope)
	for i := range lay.hierarchies {
		if _, err := os.Stat(g.session(i)); err != nil {
			return nil, fmt.Errorf("open cgroups of %s: %w", scope.Path, err)
		}
	}
	return g, nil
}

// Discard removes whatever there is of a sandbox's cgroups, also of one that was
// never complete, and ends what runs in them.
func Discard(ctx context.Context, scope Scope) error {
	lay, err := mounted()
	if err != nil {
		return err
	}
	return groupAt(lay, scope).Destroy(ctx)
}

func groupAt(lay *layout, scope Scope) *Group {
	g := &Group{lay: lay, scope: scope}
	for _, h := range lay.hierarchies {
		g.dirs = append(g.dirs, filepath.Join(h.mount, filepath.Clean("/"+scope.Path)))
	}
	return g
}

// init and session are directories in the hierarchy of that number.
func (g *Group) init(i int) string    { return filepath.Join(g.dirs[i], initDir) }
func (g *Group) session(i int) string { return filepath.Join(g.dirs[i], sessionDir) }

// Views are the directories whose files tell the sandbox of its limits and its
// use, by their path below its /sys/fs/cgroup.
func (g *Group) Views() map[string]string {
	if g.lay.version == V2 {
		return map[string]string{"": g.session(0)}
	}
	views := make(map[string]string)
	for i, h := range g.lay.hierarchies {
		views[filepath.Base(h.mount)] = g.session(i)
		// Controllers that are mounted together are found by each name as well.
		for _, c := range h.controllers {
			views[c] = g.session(i)
		}
	}
	return views
}

// validID keeps execution ids apart from the kernel's own file names, which all
// have a dot or are these two words of v1.
var validID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// NewExecution makes the cgroups of an execution.
func (g *Group) NewExecution(id string) (*Execution, error) {
	e, err := g.execution(id)
	if err != nil {
		return nil, err
	}
	for n, dir := range e.dirs {
		if err := unix.Mkdir(dir, 0o755); err != nil {
			for _, made := range e.dirs[:n] {
				_ = unix.Rmdir(made)
			}
			return nil, fmt.Errorf("create cgroup %s: %w", dir, err)
		}
	}
	// An execution that lost one process to a lack of memory would be left half
	// alive: the kernel takes the whole of it.
	if err := e.EndTogether(true); err != nil {
		_ = e.rmdir()
		return nil, err
	}
	return e, nil
}

// EndTogether says whether the kernel, out of memory, ends all processes of the
// execution or one. On v1 it is always one.
func (e *Execution) EndTogether(all bool) error {
	if !e.group.lay.hierarchies[e.group.lay.memory].v2 {
		return nil
	}
	value := "0"
	if all {
		value = "1"
	}
	if err := cgroups.WriteFile(e.memory, "memory.oom.group", value); err != nil {
		return fmt.Errorf("set memory.oom.group of execution %s: %w", e.id, err)
	}
	return nil
}

// OpenExecution finds the cgroups of an execution that was made earlier. An
// error wraps fs.ErrNotExist when there are none.
func (g *Group) OpenExecution(id string) (*Execution, error) {
	e, err := g.execution(id)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(e.kill); err != nil {
		return nil, fmt.Errorf("open execution %s: %w", id, err)
	}
	return e, nil
}

func (g *Group) execution(id string) (*Execution, error) {
	if !validID.MatchString(id) || id == "tasks" || id == "notify_on_release" {
		return nil, fmt.Errorf("execution id %q cannot name a cgroup", id)
	}
	e := &Execution{id: id, group: g}
	for i, h := range g.lay.hierarchies {
		if h.perExecution {
			e.dirs = append(e.dirs, filepath.Join(g.session(i), id))
		}
	}
	e.kill = filepath.Join(g.session(g.lay.kill), id)
	e.memory = filepath.Join(g.session(g.lay.memory), id)
	e.cpu = filepath.Join(g.session(g.lay.cpuacct), id)
	return e, nil
}

// Executions lists the ids of the executions that have cgroups, sorted.
func (g *Group) Executions() ([]string, error) {
	ids, err := children(g.session(g.lay.kill))
	if err != nil {
		return nil, fmt.Errorf("list executions: %w", err)
	}
	return ids, nil
}

// children lists the cgroups directly below dir.
func children(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// mkdirAll is os.MkdirAll for a path whose parents another group may just be
// removing.
func mkdirAll(dir string) error {
	var err error
	for range 10 {
		if err = os.MkdirAll(dir, 0o755); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return err
}

// enable switches controllers on for the children of dir.
func enable(dir string, controllers ...string) error {
	have, err := cgroups.ReadFile(dir, "cgroup.subtree_control")
	if err != nil {
		return fmt.Errorf("read controllers of %s: %w", dir, err)
	}
	on := strings.Fields(have)
	var missing []string
	for _, c := range controllers {
		if !slices.Contains(on, c) {
			missing = append(missing, "+"+c)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := cgroups.WriteFile(dir, "cgroup.subtree_control", strings.Join(missing, " ")); err != nil {
		return fmt.Errorf("enable controllers in %s: %w", dir, err)
	}
	return nil
}
