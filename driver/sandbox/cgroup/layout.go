// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
)

// Version tells how cgroups are mounted.
type Version string

// The ways to mount cgroups.
const (
	V1     Version = "v1"
	V2     Version = "v2"
	Hybrid Version = "hybrid" // v1 controllers, and a cgroup2 mount without any
)

// unifiedMount is where systemd, and every engine that knows the hybrid layout,
// has the cgroup2 mount of it; cgroups.IsCgroup2HybridMode looks there too.
const unifiedMount = "/sys/fs/cgroup/unified"

// hierarchy is one mounted cgroup tree.
type hierarchy struct {
	mount string
	v2    bool
	// controllers are those that we use in it.
	controllers []string
	// perExecution: each execution has a cgroup of its own in it.
	perExecution bool
	// own, on v1, is the directory that this process lives in itself.
	own string
}

// layout is what is mounted and which hierarchy serves what; the int fields are
// indexes into hierarchies. The one that kills comes first, so that a process
// that is still on its way into the others can be killed already.
type layout struct {
	version     Version
	hierarchies []hierarchy

	kill, memory, cpu, cpuacct, pids int

	ownCpuset string // as hierarchy.own, of cpuset on v1
}

// mounted finds the layout once: cgroup mounts do not change under a running
// node agent.
var mounted = sync.OnceValues(func() (*layout, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		return layoutV2("/sys/fs/cgroup"), nil
	}
	mounts, err := cgroups.GetCgroupMounts(false)
	if err != nil {
		return nil, fmt.Errorf("list cgroup mounts: %w", err)
	}
	unified := ""
	if cgroups.IsCgroup2HybridMode() {
		unified = unifiedMount
	}
	l, err := layoutV1(mounts, unified)
	if err != nil {
		return nil, err
	}
	return l, l.findOwn()
})

// findOwn finds where this process lives. It has to be asked for while no thread
// is elsewhere (BeginInit), which is why mounted does it.
func (l *layout) findOwn() (err error) {
	for i := range l.hierarchies {
		h := &l.hierarchies[i]
		if h.v2 {
			continue
		}
		if h.own, err = cgroups.GetOwnCgroupPath(h.controllers[0]); err != nil {
			return fmt.Errorf("find own cgroup: %w", err)
		}
	}
	l.ownCpuset, err = cgroups.GetOwnCgroupPath("cpuset")
	if cgroups.IsNotFound(err) {
		err = nil // then no scope has one either
	}
	return err
}

func layoutV2(mount string) *layout {
	return &layout{version: V2, hierarchies: []hierarchy{{
		mount: mount, v2: true, perExecution: true,
		controllers: []string{"cpu", "memory", "pids"},
	}}}
}

// layoutV1 picks hierarchies from the v1 mounts. Controllers mounted together
// ("cpu,cpuacct") are one hierarchy. A cgroup2 mount beside them takes over what
// freezer and cpuacct would be for: it kills without a race, and its cpu.stat
// needs no controller.
func layoutV1(mounts []cgroups.Mount, unified string) (*layout, error) {
	l := &layout{version: V1}
	var missing []error
	use := func(controller string, perExecution bool) int {
		for _, m := range mounts {
			if !slices.Contains(m.Subsystems, controller) {
				continue
			}
			i := slices.IndexFunc(l.hierarchies, func(h hierarchy) bool { return h.mount == m.Mountpoint })
			if i < 0 {
				i = len(l.hierarchies)
				l.hierarchies = append(l.hierarchies, hierarchy{mount: m.Mountpoint})
			}
			h := &l.hierarchies[i]
			h.controllers = append(h.controllers, controller)
			h.perExecution = h.perExecution || perExecution
			return i
		}
		missing = append(missing, fmt.Errorf("no %s controller is mounted", controller))
		return -1
	}
	if unified != "" {
		l.version = Hybrid
		l.hierarchies = []hierarchy{{mount: unified, v2: true, perExecution: true}}
	} else {
		l.kill = use("freezer", true)
		l.cpuacct = use("cpuacct", true)
	}
	l.memory = use("memory", true)
	l.cpu = use("cpu", false)
	l.pids = use("pids", false)
	if len(missing) > 0 {
		return nil, fmt.Errorf("use cgroups v1: %w", errors.Join(missing...))
	}
	return l, nil
}

// enable switches the controllers of a v2 hierarchy on, from its top to scope.
func (h hierarchy) enable(scope string) error {
	rel, err := filepath.Rel(h.mount, scope)
	if err != nil {
		return fmt.Errorf("find %s below %s: %w", scope, h.mount, err)
	}
	dir := h.mount
	if err := enable(dir, h.controllers...); err != nil {
		return err
	}
	for name := range strings.SplitSeq(rel, "/") {
		dir = filepath.Join(dir, name)
		if err := enable(dir, h.controllers...); err != nil {
			return err
		}
	}
	return nil
}

// removable tells whether parent directories in h may go with the last sandbox.
// Nomad makes its own once, at the start of its client, and relies on them.
func (h hierarchy) removable(scope Scope) bool {
	if strings.HasPrefix(scope.Path, "/"+parentDir+"/") {
		return true
	}
	nomads := []string{"cpu", "memory", "freezer"}
	return !slices.ContainsFunc(h.controllers, func(c string) bool { return slices.Contains(nomads, c) })
}
