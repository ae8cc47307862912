// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"
)

// Info is what the node's cgroups can do.
type Info struct {
	Version Version
	// Kill: the kernel ends a whole cgroup at once (cgroup.kill, Linux 5.14).
	// Without it executions are frozen and signalled.
	Kill bool
	// Burst: quota that was not used is there for a short burst afterwards
	// (Linux 5.14). Without it an execution at a fraction of a core starts slowly.
	Burst bool
	// MemoryPeak: an execution's peak memory is known (v2: Linux 5.19).
	MemoryPeak bool
	// Swap: the kernel accounts swap, so that it can be kept from sessions.
	Swap bool
}

// Detect makes the cgroups of a sandbox, looks at them and removes them again.
// An error says why sandboxes cannot have theirs here.
func Detect(ctx context.Context) (Info, error) {
	g, err := New(OwnScope(fmt.Sprintf("probe-%d", os.Getpid())), Limits{CPUs: 1, Memory: 1 << 30, Pids: 1})
	if err != nil {
		return Info{}, err
	}
	l := g.lay
	has := func(i int, file string) bool {
		return cgroups.PathExists(filepath.Join(g.session(i), file))
	}
	info := Info{
		Version:    l.version,
		Kill:       has(l.kill, "cgroup.kill"),
		Burst:      has(l.cpu, "cpu.max.burst") || has(l.cpu, "cpu.cfs_burst_us"),
		MemoryPeak: has(l.memory, "memory.peak") || has(l.memory, "memory.max_usage_in_bytes"),
		Swap:       has(l.memory, "memory.swap.max") || has(l.memory, "memory.memsw.limit_in_bytes"),
	}
	return info, g.Destroy(ctx)
}
