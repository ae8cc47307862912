// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"fmt"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
)

// CPU is how much CPU time the session has used since its start.
func (g *Group) CPU() (time.Duration, error) {
	var s Stats
	if err := s.readCPU(g.session(g.lay.cpuacct), g.lay.hierarchies[g.lay.cpuacct].v2); err != nil {
		return 0, fmt.Errorf("read CPU time of %s: %w", g.scope.Path, err)
	}
	return s.CPU, nil
}

// Pids lists the processes of all executions, as Execution.Pids.
func (g *Group) Pids() ([]int, error) {
	pids, err := cgroups.GetAllPids(g.session(g.lay.kill))
	if err != nil {
		return nil, fmt.Errorf("list processes of %s: %w", g.scope.Path, err)
	}
	return pids, nil
}

// SetCPUShares changes the weight against the node's other tasks, as
// Limits.CPUShares, and nothing else.
func (g *Group) SetCPUShares(shares int64) error {
	r, _ := Limits{CPUShares: shares}.resources()
	dir := g.dirs[g.lay.cpu]
	var err error
	if g.lay.version == V2 {
		err = cgroups.WriteFile(dir, "cpu.weight", strconv.FormatUint(r.CpuWeight, 10))
	} else {
		err = (&fs.CpuGroup{}).Set(dir, &cgroups.Resources{CpuShares: r.CpuShares})
	}
	if err != nil {
		return fmt.Errorf("set CPU weight of %s: %w", g.scope.Path, err)
	}
	return nil
}
