// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"fmt"
	"strconv"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fscommon"
)

// CPU is how much CPU time the session and its init have used since their start:
// all that the weight of SetCPUShares counts for.
func (g *Group) CPU() (time.Duration, error) {
	dir, h := g.dirs[g.lay.cpuacct], g.lay.hierarchies[g.lay.cpuacct]
	var used time.Duration
	var err error
	if h.v2 {
		var s Stats
		err = s.readCPU(dir, true)
		used = s.CPU
	} else {
		var n uint64
		n, err = fscommon.GetCgroupParamUint(dir, "cpuacct.usage")
		used = time.Duration(n)
	}
	if err != nil {
		return 0, fmt.Errorf("read CPU time of %s: %w", g.scope.Path, err)
	}
	return used, nil
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
