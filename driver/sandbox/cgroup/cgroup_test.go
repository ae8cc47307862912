// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

func TestDetect(t *testing.T) {
	layouts(t)
	info, err := Detect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", info)
	if info.Version == "" || !info.MemoryPeak {
		t.Errorf("got %+v", info)
	}
}

func TestGroupLife(t *testing.T) {
	eachLayout(t, Limits{Memory: 64 << 20}, func(t *testing.T, g *Group) {
		if _, err := newGroup(g.lay, g.scope, Limits{}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("second New: got %v", err)
		}
		for _, id := range []string{"b", "a"} {
			newExecution(t, g, id)
		}
		for _, id := range []string{"", ".", "..", "a/b", "cgroup.procs", "tasks"} {
			if _, err := g.NewExecution(id); err == nil {
				t.Errorf("NewExecution(%q) succeeded", id)
			}
		}
		// Another process would find the same by the same name.
		again := groupAt(g.lay, g.scope)
		if ids, err := again.Executions(); err != nil || !slices.Equal(ids, []string{"a", "b"}) {
			t.Errorf("Executions: %v, %v", ids, err)
		}
		e, err := again.OpenExecution("a")
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := e.Remove(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if _, err := again.OpenExecution("a"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("OpenExecution of a removed one: %v", err)
		}
		for range 2 {
			if err := again.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
		}
		for _, dir := range g.dirs {
			if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s is left: %v", dir, err)
			}
		}
	})
}

func TestOpen(t *testing.T) {
	g := newTestGroup(t, Limits{})
	if _, err := Open(g.scope); err != nil {
		t.Error(err)
	}
	if _, err := Open(OwnScope("none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
}

// TestReopen is a restart of the plugin while an execution lives.
func TestReopen(t *testing.T) {
	eachLayout(t, Limits{}, func(t *testing.T, g *Group) {
		p := start(t, newExecution(t, g, "a"), "sleep")
		e, err := groupAt(g.lay, g.scope).OpenExecution("a")
		if err != nil {
			t.Fatal(err)
		}
		if pids, err := e.Pids(); err != nil || !slices.Equal(pids, []int{p.Process.Pid}) {
			t.Errorf("Pids: %v, %v", pids, err)
		}
		if err := e.Kill(t.Context()); err != nil {
			t.Error(err)
		}
		if pids, err := e.Pids(); err != nil || len(pids) > 0 {
			t.Errorf("Pids after Kill: %v, %v", pids, err)
		}
	})
}

// TestJoin has a sandbox's init, root of a user namespace that owns nothing of
// the cgroup tree, start a process in an execution.
func TestJoin(t *testing.T) {
	const base = 0x1000_0000
	eachLayout(t, Limits{}, func(t *testing.T, g *Group) {
		e := newExecution(t, g, "a")
		files, err := e.JoinFiles(base)
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll(files)
		init := startInit(t, g, base, files)
		in := membership(t, init.Process.Pid)
		for i, h := range g.lay.hierarchies {
			if got := in[h.mount]; got != g.init(i) {
				t.Errorf("init is in %s, not in %s", got, g.init(i))
			}
		}
		pids, err := e.Pids()
		if err != nil || len(pids) != 1 {
			t.Fatalf("Pids: %v, %v", pids, err)
		}
		in = membership(t, pids[0])
		for i, door := range e.doors() {
			if got := in[g.lay.hierarchies[i].mount]; got != door {
				t.Errorf("process is in %s, not in %s", got, door)
			}
		}
		if err := g.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
		if err := init.Wait(); err == nil {
			t.Error("init survived Destroy")
		}
	})
}

// TestCpuset has init start in the cpuset cgroup that Nomad chose on v1, which
// outlives the sandbox.
func TestCpuset(t *testing.T) {
	const mount = "/sys/fs/cgroup/cpuset"
	if _, err := os.Stat(mount); err != nil {
		t.Skip("needs a cpuset controller of v1")
	}
	dir := filepath.Join(mount, fmt.Sprintf("cgroup-test-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		err := until(context.Background(), "cpuset to empty", func() (bool, error) {
			err := os.Remove(dir)
			return err == nil, ignore(err, unix.EBUSY)
		})
		if err != nil {
			t.Error(err)
		}
	}()
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		all, err := cgroups.ReadFile(mount, file)
		if err == nil {
			err = cgroups.WriteFile(dir, file, all)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	g := newTestGroup(t, Limits{})
	g.scope.Cpuset = dir
	files, err := newExecution(t, g, "a").JoinFiles(0x1000_0000)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	init := startInit(t, g, 0x1000_0000, files)
	if got := membership(t, init.Process.Pid)[mount]; got != dir {
		t.Errorf("init is in %s", got)
	}
	if got := membership(t, unix.Gettid())[mount]; got != g.lay.ownCpuset {
		t.Errorf("thread is in %s", got)
	}
	if err := g.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

// startInit starts an init and waits until the process that it starts is ready.
func startInit(t *testing.T, g *Group, base int, files []*os.File) *proc {
	t.Helper()
	ids := []syscall.SysProcIDMap{{HostID: base, Size: 65536}}
	cmd := exec.Command("/proc/self/exe")
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID,
		UidMappings: ids, GidMappings: ids, Credential: &syscall.Credential{},
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	end, err := g.BeginInit(cmd.SysProcAttr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := end(); err != nil {
			t.Error(err)
		}
		in := membership(t, unix.Gettid())
		for _, h := range g.lay.hierarchies {
			if !h.v2 && in[h.mount] != h.own {
				t.Errorf("thread is in %s, not back in %s", in[h.mount], h.own)
			}
		}
	}()
	return launch(t, cmd, "init", len(files))
}

// membership tells by hierarchy which cgroup directory the process is in.
func membership(t *testing.T, pid int) map[string]string {
	t.Helper()
	in, err := cgroups.ParseCgroupFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	dirs := map[string]string{}
	for controller, path := range in {
		mount := filepath.Join("/sys/fs/cgroup", strings.TrimPrefix(controller, "name="))
		if controller == "" {
			mount = "/sys/fs/cgroup"
			if cgroups.IsCgroup2HybridMode() {
				mount = unifiedMount
			}
		}
		dirs[mount] = filepath.Join(mount, path)
	}
	return dirs
}

func TestScopeOfNomad(t *testing.T) {
	for _, lay := range layouts(t) {
		scope := Scope{Path: fmt.Sprintf("/nomad-test-%d/alloc.task", os.Getpid())}
		g, err := newGroup(lay, scope, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
		for i, h := range lay.hierarchies {
			parent := filepath.Dir(g.dirs[i])
			_, err := os.Stat(parent)
			if left := err == nil; left == h.removable(scope) {
				t.Errorf("%s: left %v", parent, left)
			}
			_ = os.Remove(parent)
		}
	}
}
