// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fscommon"
)

// Stats is what a session or an execution has used.
type Stats struct {
	// MemoryUsage and MemoryPeak are bytes, page cache and kernel memory
	// included, as the limit counts them. The peak is 0 on v2 before Linux 5.19.
	MemoryUsage, MemoryPeak uint64
	// CPU is CPUUser and CPUSystem together, and more precise than they are.
	CPU, CPUUser, CPUSystem time.Duration
	// OOMKills counts the processes killed for lack of memory. A session's, on
	// v1, are those of the executions it still has.
	OOMKills uint64

	// The following are a session's only.

	// MemoryAnon and MemoryFile, in bytes, are the processes' own memory and the
	// page cache; MemoryShmem, a part of the latter, is files in memory.
	MemoryAnon, MemoryFile, MemoryShmem uint64
	// Periods counts those of the CPU quota in which the session ran;
	// ThrottledPeriods those in which it used up its quota, and Throttled is how
	// long it then stood still.
	Periods, ThrottledPeriods uint64
	Throttled                 time.Duration
	// Pids is the number of processes and threads.
	Pids uint64
}

// Stats reads what the session has used.
func (g *Group) Stats() (Stats, error) {
	s, err := g.stats()
	if err != nil {
		return Stats{}, fmt.Errorf("read statistics of %s: %w", g.scope.Path, err)
	}
	return s, nil
}

func (g *Group) stats() (Stats, error) {
	var s Stats
	memory, cpu := g.session(g.lay.memory), g.session(g.lay.cpu)
	err := errors.Join(
		s.readMemory(memory, g.lay.hierarchies[g.lay.memory].v2),
		s.readCPU(g.session(g.lay.cpuacct), g.lay.hierarchies[g.lay.cpuacct].v2),
	)
	if err != nil {
		return s, err
	}
	if s.Pids, err = fscommon.GetCgroupParamUint(g.session(g.lay.pids), "pids.current"); err != nil {
		return s, err
	}
	mem, err := readKeys(memory, "memory.stat")
	if err != nil {
		return s, err
	}
	throttle, err := readKeys(cpu, "cpu.stat")
	if err != nil {
		return s, err
	}
	s.Periods, s.ThrottledPeriods = throttle["nr_periods"], throttle["nr_throttled"]
	if g.lay.version == V2 {
		s.MemoryAnon, s.MemoryFile, s.MemoryShmem = mem["anon"], mem["file"], mem["shmem"]
		s.Throttled = time.Duration(throttle["throttled_usec"]) * time.Microsecond
		return s, nil
	}
	s.MemoryAnon, s.MemoryFile, s.MemoryShmem = mem["total_rss"], mem["total_cache"], mem["total_shmem"]
	s.Throttled = time.Duration(throttle["throttled_time"])
	ids, err := g.Executions()
	if err != nil {
		return s, err
	}
	for _, id := range ids {
		n, err := fscommon.GetValueByKey(memory+"/"+id, "memory.oom_control", "oom_kill")
		if err == nil { // else it was just removed
			s.OOMKills += n
		}
	}
	return s, nil
}

// Stats reads what the execution has used.
func (e *Execution) Stats() (Stats, error) {
	var s Stats
	l := e.group.lay
	err := errors.Join(
		s.readMemory(e.memory, l.hierarchies[l.memory].v2),
		s.readCPU(e.cpu, l.hierarchies[l.cpuacct].v2),
	)
	if err != nil {
		return Stats{}, fmt.Errorf("read statistics of execution %s: %w", e.id, err)
	}
	return s, nil
}

func (s *Stats) readMemory(dir string, v2 bool) (err error) {
	usage, peak, events := "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"
	if v2 {
		usage, peak, events = "memory.current", "memory.peak", "memory.events"
	}
	if s.MemoryUsage, err = fscommon.GetCgroupParamUint(dir, usage); err != nil {
		return err
	}
	s.MemoryPeak, err = fscommon.GetCgroupParamUint(dir, peak)
	if err = ignore(err, fs.ErrNotExist); err != nil {
		return err
	}
	s.OOMKills, err = fscommon.GetValueByKey(dir, events, "oom_kill")
	return err
}

func (s *Stats) readCPU(dir string, v2 bool) error {
	if v2 {
		keys, err := readKeys(dir, "cpu.stat")
		s.CPU = time.Duration(keys["usage_usec"]) * time.Microsecond
		s.CPUUser = time.Duration(keys["user_usec"]) * time.Microsecond
		s.CPUSystem = time.Duration(keys["system_usec"]) * time.Microsecond
		return err
	}
	for file, to := range map[string]*time.Duration{
		"cpuacct.usage":      &s.CPU,
		"cpuacct.usage_user": &s.CPUUser,
		"cpuacct.usage_sys":  &s.CPUSystem,
	} {
		n, err := fscommon.GetCgroupParamUint(dir, file)
		if err != nil {
			return err
		}
		*to = time.Duration(n)
	}
	return nil
}

// readKeys reads a file of "key value" lines.
func readKeys(dir, file string) (map[string]uint64, error) {
	text, err := cgroups.ReadFile(dir, file)
	if err != nil {
		return nil, err
	}
	keys := map[string]uint64{}
	for line := range strings.Lines(text) {
		k, v, err := fscommon.ParseKeyValue(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("parse %s/%s: %w", dir, file, err)
		}
		keys[k] = v
	}
	return keys, nil
}
