// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/helper/uuid"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/shoenig/test/must"
	"golang.org/x/sys/unix"
)

// cgroupRoot is below what a task's cgroup lies that shows in /proc/*/cgroup
// under Nomad's conformance tests.
func cgroupRoot() string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "/sys/fs/cgroup"
	}
	return "/sys/fs/cgroup/freezer"
}

// taskCgroup makes the cgroups of a task as Nomad does, below a parent of the
// test's own, and returns the path that Nomad would give.
func taskCgroup(t *testing.T, cfg *drivers.TaskConfig) string {
	t.Helper()
	const root = "/sys/fs/cgroup"
	parent := "nomad-buntime-test-" + uuid.Short()
	scope := cfg.AllocID + "." + cfg.Name
	if cgroupRoot() == root {
		top, share := filepath.Join(root, parent+".slice"), filepath.Join(root, parent+".slice", "share.slice")
		dir := filepath.Join(share, scope+".scope")
		must.NoError(t, os.MkdirAll(dir, 0o755))
		t.Cleanup(func() { removeCgroup(t, top) })
		for _, d := range []string{root, top, share} {
			must.NoError(t, os.WriteFile(filepath.Join(d, "cgroup.subtree_control"), []byte("+cpuset +cpu +io +memory +pids"), 0o644))
		}
		return dir
	}
	// A Runtime may make it for the other controllers.
	controllers, err := os.ReadDir(root)
	must.NoError(t, err)
	for _, controller := range controllers {
		t.Cleanup(func() { removeCgroup(t, filepath.Join(root, controller.Name(), parent)) })
	}
	for _, controller := range []string{"freezer", "cpu", "memory"} {
		must.NoError(t, os.MkdirAll(filepath.Join(root, controller, parent, scope), 0o755))
	}
	top := filepath.Join(root, "cpuset", parent)
	share := filepath.Join(top, "share")
	must.NoError(t, os.MkdirAll(share, 0o755))
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		all, err := os.ReadFile(filepath.Join(root, "cpuset", file))
		must.NoError(t, err)
		for _, dir := range []string{top, share} {
			must.NoError(t, os.WriteFile(filepath.Join(dir, file), all, 0o644))
		}
	}
	return share
}

// removeCgroup kills what is in a cgroup of the test's and removes it with
// those below. Killed processes leave their cgroup a moment later.
func removeCgroup(t *testing.T, top string) {
	eventually(t, "cgroup can be removed", func() bool {
		var last error
		for dir, pids := range processes(top) {
			for _, pid := range pids {
				_ = unix.Kill(pid, unix.SIGKILL)
			}
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				last = err
			}
		}
		return last == nil
	})
}

// processes yields the cgroups below top, the lowest first, with what is in
// each.
func processes(top string) iter.Seq2[string, []int] {
	var dirs []string
	_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	return func(yield func(string, []int) bool) {
		for _, dir := range slices.Backward(dirs) {
			var pids []int
			procs, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			for line := range strings.FieldsSeq(string(procs)) {
				if pid, err := strconv.Atoi(line); err == nil {
					pids = append(pids, pid)
				}
			}
			if !yield(dir, pids) {
				return
			}
		}
	}
}

// processesOf lists what runs of a task, its warden or init too.
func processesOf(cfg *drivers.TaskConfig) (all []int) {
	const root = "/sys/fs/cgroup"
	given := cfg.Resources.LinuxResources.CpusetCgroupPath
	dirs := []string{given}
	if rest, v1 := strings.CutPrefix(given, root+"/cpuset/"); v1 {
		dirs, _ = filepath.Glob(filepath.Join(root, "*", filepath.Dir(rest)))
	}
	for _, dir := range dirs {
		for _, pids := range processes(dir) {
			all = append(all, pids...)
		}
	}
	return all
}
