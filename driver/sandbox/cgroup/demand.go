// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
)

// Demand is for how much CPU time the session has asked since its start: what it
// used, and how long something in it was ready to run and had to wait. Where the
// kernel does not tell of waits (no cgroup v2, or no PSI), it is the former only.
func (g *Group) Demand() (time.Duration, error) {
	var s Stats
	lay := g.lay
	if err := s.readCPU(g.session(lay.cpuacct), lay.hierarchies[lay.cpuacct].v2); err != nil {
		return 0, fmt.Errorf("read CPU time of %s: %w", g.scope.Path, err)
	}
	if !lay.hierarchies[lay.kill].v2 {
		return s.CPU, nil
	}
	waited, err := readPressure(filepath.Join(g.session(lay.kill), "cpu.pressure"))
	if err != nil && !os.IsNotExist(err) {
		return 0, fmt.Errorf("read CPU pressure of %s: %w", g.scope.Path, err)
	}
	return s.CPU + waited, nil
}

// readPressure returns the total of the line "some" of a pressure file.
func readPressure(path string) (time.Duration, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "some ")
		if !ok {
			continue
		}
		_, total, _ := strings.Cut(rest, "total=")
		us, err := strconv.ParseInt(total, 10, 64)
		return time.Duration(us) * time.Microsecond, err
	}
	return 0, lines.Err() // of no line where PSI is switched off
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
