// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
)

func TestLayoutV1(t *testing.T) {
	mounts := []cgroups.Mount{
		{Mountpoint: "/c/cpu,cpuacct", Subsystems: []string{"cpu", "cpuacct"}},
		{Mountpoint: "/c/memory", Subsystems: []string{"memory"}},
		{Mountpoint: "/c/freezer", Subsystems: []string{"freezer"}},
		{Mountpoint: "/c/pids", Subsystems: []string{"pids"}},
	}
	l, err := layoutV1(mounts, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(l.hierarchies) != 4 || l.cpu != l.cpuacct || !l.hierarchies[l.cpu].perExecution {
		t.Errorf("controllers mounted together: %+v", l)
	}
	if l.kill != 0 || l.hierarchies[0].mount != "/c/freezer" || l.version != V1 {
		t.Errorf("the hierarchy that kills: %+v", l)
	}
	l, err = layoutV1(mounts, "/c/unified")
	if err != nil {
		t.Fatal(err)
	}
	if l.kill != 0 || l.cpuacct != 0 || !l.hierarchies[0].v2 || l.hierarchies[l.cpu].perExecution || l.version != Hybrid {
		t.Errorf("hybrid: %+v", l)
	}
	if _, err := layoutV1(mounts[:3], ""); err == nil {
		t.Error("no pids controller, and no error")
	}
}

// fakeV2 is a group on plain files: what the kernel would have made is there
// already, and what is written replaces a file's content.
func fakeV2(t *testing.T) *Group {
	t.Helper()
	cgroups.TestMode = true
	t.Cleanup(func() { cgroups.TestMode = false })
	g := groupAt(layoutV2(t.TempDir()), Scope{Path: "/nomad.slice/share.slice/a.t.scope"})
	for _, dir := range []string{g.init(0), g.session(0)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, g.init(0), "cgroup.controllers", "cpu memory pids")
	for dir := g.session(0); ; dir = filepath.Dir(dir) {
		put(t, dir, "cgroup.subtree_control", "")
		put(t, dir, "cgroup.controllers", "cpu memory pids")
		if dir == g.lay.hierarchies[0].mount {
			return g
		}
	}
}

func put(t *testing.T, dir, file, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, file), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for file, want := range files {
		if got, err := os.ReadFile(filepath.Join(dir, file)); string(got) != want {
			t.Errorf("%s/%s: %q, %v; want %q", dir, file, got, err, want)
		}
	}
}

func TestV2Limits(t *testing.T) {
	g := fakeV2(t)
	scope, session := g.dirs[0], g.session(0)
	put(t, session, "cpu.max.burst", "0")
	put(t, g.init(0), "cpu.max.burst", "0")
	limits := Limits{Memory: 1 << 30, MemoryReserved: 64 << 20, CPUs: 0.25, CPUShares: 1024, Pids: 4096}
	if err := g.configure(limits); err != nil {
		t.Fatal(err)
	}
	all := "+cpu +memory +pids"
	for _, dir := range []string{g.lay.hierarchies[0].mount, filepath.Dir(scope), scope} {
		expect(t, dir, map[string]string{"cgroup.subtree_control": all})
	}
	expect(t, scope, map[string]string{"cpu.weight": "100", "memory.low": "67108864", "memory.max": ""})
	expect(t, g.init(0), map[string]string{"cpu.max": "62500 250000", "cpu.max.burst": "62500", "memory.max": "536870912", "pids.max": ""})
	if err := g.SetCPUShares(2048); err != nil {
		t.Fatal(err)
	}
	expect(t, scope, map[string]string{"cpu.weight": "174", "memory.low": "67108864"})
	expect(t, session, map[string]string{
		"cgroup.subtree_control": "+memory",
		"memory.max":             "1073741824",
		"memory.swap.max":        "0",
		"memory.low":             "67108864",
		"cpu.max":                "62500 250000",
		"cpu.max.burst":          "62500",
		"pids.max":               "4096",
	})
	if err := g.SetLimits(Limits{}); err != nil {
		t.Fatal(err)
	}
	expect(t, session, map[string]string{
		"memory.max": "max", "cpu.max": "max 250000", "cpu.max.burst": "0", "pids.max": "max",
	})
}

func TestV2Execution(t *testing.T) {
	g := fakeV2(t)
	e := newExecution(t, g, "a")
	dir := filepath.Join(g.session(0), "a")
	expect(t, dir, map[string]string{"memory.oom.group": "1"})
	put(t, dir, "memory.current", "4096\n")
	put(t, dir, "memory.peak", "8192\n")
	put(t, dir, "memory.events", "low 0\noom 1\noom_kill 3\noom_group_kill 1\n")
	put(t, dir, "cpu.stat", "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n")
	want := Stats{
		MemoryUsage: 4096, MemoryPeak: 8192, OOMKills: 3,
		CPU: 1500 * time.Microsecond, CPUUser: time.Millisecond, CPUSystem: 500 * time.Microsecond,
	}
	if got, err := e.Stats(); got != want || err != nil {
		t.Errorf("Stats: %+v, %v; want %+v", got, err, want)
	}
	put(t, dir, "cgroup.procs", "12\n13\n")
	put(t, g.dirs[0], "cgroup.procs", "")
	if pids, err := e.Pids(); len(pids) != 2 || err != nil {
		t.Errorf("Pids: %v, %v", pids, err)
	}
	put(t, dir, "cgroup.events", "populated 0\nfrozen 0\n")
	if err := e.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	expect(t, dir, map[string]string{"cgroup.kill": "1"})
	files, err := e.JoinFiles(os.Getuid())
	if err != nil || len(files) != 1 {
		t.Fatalf("JoinFiles: %v, %v", files, err)
	}
	defer closeAll(files)
	if st, err := files[0].Stat(); err != nil || !st.IsDir() {
		t.Errorf("JoinFiles gave no directory: %v", err)
	}
}

func TestV2Session(t *testing.T) {
	g := fakeV2(t)
	dir := g.session(0)
	put(t, dir, "cgroup.events", "populated 1\nfrozen 1\n")
	if err := g.Freeze(t.Context()); err != nil {
		t.Error(err)
	}
	expect(t, dir, map[string]string{"cgroup.freeze": "1"})
	if frozen, err := g.Frozen(); !frozen || err != nil {
		t.Errorf("Frozen: %v, %v", frozen, err)
	}
	if err := g.Thaw(); err != nil {
		t.Error(err)
	}
	expect(t, dir, map[string]string{"cgroup.freeze": "0"})
	for file, content := range map[string]string{
		"memory.current": "1", "memory.peak": "2", "memory.events": "oom_kill 4\n",
		"memory.stat": "anon 5\nfile 6\n", "pids.current": "7",
		"cpu.stat": "usage_usec 8\nuser_usec 8\nsystem_usec 0\nnr_periods 9\nnr_throttled 10\nthrottled_usec 11\n",
	} {
		put(t, dir, file, content)
	}
	want := Stats{
		MemoryUsage: 1, MemoryPeak: 2, OOMKills: 4, MemoryAnon: 5, MemoryFile: 6, Pids: 7,
		CPU: 8 * time.Microsecond, CPUUser: 8 * time.Microsecond,
		Periods: 9, ThrottledPeriods: 10, Throttled: 11 * time.Microsecond,
	}
	if got, err := g.Stats(); got != want || err != nil {
		t.Errorf("Stats: %+v, %v; want %+v", got, err, want)
	}
}
