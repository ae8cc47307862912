// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	v1 "github.com/opencontainers/cgroups/fs"
	v2 "github.com/opencontainers/cgroups/fs2"
)

// Limits of a session. They hold for all its executions together; init is
// outside of them. A zero is no limit.
type Limits struct {
	// Memory in bytes, page cache and kernel memory included. There is never
	// any swap on top of it.
	Memory int64
	// MemoryReserved is what reclaim leaves alone for as long as it can, in
	// bytes: memory.low on v2, the soft limit on v1.
	MemoryReserved int64
	// CPUs is a quota in cores.
	CPUs float64
	// CPUShares is the weight against the node's other tasks, on the scale of
	// v1 (2 to 262144; others are brought into it). 0 leaves the kernel's 1024.
	CPUShares int64
	// Pids is the number of processes and threads.
	Pids int64
}

// cpuPeriod is how often, in microseconds, the CPU quota is handed out. As much
// again may be saved up while the session idles, which is the most that the
// kernel allows (burst <= quota), so that a session at 0.25 cores that has
// idled for two periods has half a period's worth of CPU time at full speed.
//
// Longer periods make room for longer bursts, but whoever uses them up stands
// still for longer. Measured at 0.25 cores, Linux 6.18, 2 cores (ms of wall time
// for work after idling, as medians; last column: what a 1 ms job waits beside
// two busy threads of the same session, 90th percentile and maximum). All held
// the average at 0.25.
//
//	period  burst | 20 ms  50 ms  100 ms  10 x 4 ms | beside a hog
//	 100 ms     0 |    20    160     403        113 |   84    89
//	 100 ms    25 |    20     50     272         52 |   75    91
//	 250 ms    62 |    20     50     100         53 |  196   217
//	 500 ms   125 |    20     52     101         54 |  376   434
//	1000 ms   250 |    20     51     103         52 |  752   861
//
// 100 ms of CPU time is what an execution takes that imports a few big packages
// (87 ms for express, zod and typescript) while its runner is replaced; a period
// of 250 ms is the shortest that has it at full speed.
const cpuPeriod = 250_000

// resources splits l in two: a weight counts among siblings and so stands on the
// scope, whose siblings are the other tasks; limits stand on the session.
// Protected memory needs both, because v2 hands it down level by level.
func (l Limits) resources() (scope, session cgroups.Resources) {
	scope = cgroups.Resources{MemoryReservation: l.MemoryReserved}
	if l.CPUShares > 0 {
		scope.CpuShares = uint64(min(max(l.CPUShares, 2), 262144))
		scope.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(scope.CpuShares)
	}
	session = cgroups.Resources{
		Memory:            orUnlimited(l.Memory),
		MemorySwap:        orUnlimited(l.Memory), // memory and swap together
		MemoryReservation: l.MemoryReserved,
		CpuPeriod:         cpuPeriod,
		CpuQuota:          orUnlimited(int64(l.CPUs * cpuPeriod)),
		PidsLimit:         new(orUnlimited(l.Pids)),
	}
	burst := uint64(max(session.CpuQuota, 0))
	session.CpuBurst = &burst
	return scope, session
}

// initMemory bounds init, in bytes. It needs some megabytes, and some hundreds where
// many clients send it the largest code that there may be; what would need more is a
// flaw of its own, which a session must not turn into the node's.
const initMemory = 512 << 20

// initResources are the limits of init, which has none of processes. What a session makes init do, such as to reap what it forks and to pass on
// what it prints, takes CPU time in proportion to its own: so init may use as
// much as the session, and a storm in there stays its own.
func (l Limits) initResources() cgroups.Resources {
	quota := orUnlimited(int64(l.CPUs * cpuPeriod))
	return cgroups.Resources{Memory: initMemory, CpuPeriod: cpuPeriod, CpuQuota: quota, CpuBurst: new(uint64(max(quota, 0)))}
}

func orUnlimited(n int64) int64 {
	if n <= 0 {
		return -1
	}
	return n
}

// SetLimits changes the limits of a live session. A memory limit below what is
// in use makes the kernel reclaim; what cannot be reclaimed is an error on v1
// and ends executions for lack of memory on v2. A weight or reservation of zero
// leaves the one that was set.
func (g *Group) SetLimits(l Limits) error {
	scope, session := l.resources()
	set := g.setV1
	if g.lay.version == V2 {
		set = g.setV2
	}
	warden := l.initResources()
	if err := set(&scope, &warden, &session); err != nil {
		return fmt.Errorf("set limits of %s: %w", g.scope.Path, err)
	}
	return nil
}

func (g *Group) setV2(scope, warden, session *cgroups.Resources) error {
	dir := g.session(0)
	if !cgroups.PathExists(filepath.Join(dir, "cpu.max.burst")) { // before Linux 5.14
		session.CpuBurst, warden.CpuBurst = nil, nil
	}
	for dir, r := range map[string]*cgroups.Resources{g.dirs[0]: scope, g.init(0): warden, dir: session} {
		m, err := v2.NewManager(&cgroups.Cgroup{}, dir)
		if err != nil {
			return err
		}
		if err := m.Set(r); err != nil {
			return err
		}
	}
	return nil
}

func (g *Group) setV1(scope, warden, session *cgroups.Resources) error {
	memory := g.session(g.lay.memory)
	if !cgroups.PathExists(filepath.Join(memory, "memory.memsw.limit_in_bytes")) { // no swap accounting
		session.MemorySwap = 0
		session.MemorySwappiness = new(uint64(0))
	}
	session.MemoryReservation = 0 // v1 does not hand it down
	return errors.Join(
		(&v1.CpuGroup{}).Set(g.dirs[g.lay.cpu], scope),
		(&v1.MemoryGroup{}).Set(g.dirs[g.lay.memory], scope),
		(&v1.CpuGroup{}).Set(g.init(g.lay.cpu), warden),
		(&v1.MemoryGroup{}).Set(g.init(g.lay.memory), warden),
		(&v1.CpuGroup{}).Set(g.session(g.lay.cpu), session),
		(&v1.MemoryGroup{}).Set(memory, session),
		(&v1.PidsGroup{}).Set(g.session(g.lay.pids), session),
		setSocketMemory(memory, session.Memory),
	)
}

// socketPart of the memory limit is what sockets may hold on top of it, on v1.
const socketPart = 8

// setSocketMemory bounds the buffers of sockets. v2 counts them as memory; v1
// only where they have a limit of their own, and without one a session that
// fills its connections and reads none of them takes what TCP and UDP have on
// the whole machine (net.ipv4.tcp_mem, udp_mem).
func setSocketMemory(dir string, memory int64) error {
	const file = "memory.kmem.tcp.limit_in_bytes"
	if memory <= 0 || !cgroups.PathExists(filepath.Join(dir, file)) { // it goes with v1
		return nil
	}
	return cgroups.WriteFile(dir, file, strconv.FormatInt(memory/socketPart, 10))
}

// Portion is the CPU time that the session gets at a time, each cpuPeriod; 0 is
// without a quota.
func (g *Group) Portion() (time.Duration, error) {
	quota, err := g.quota()
	if err != nil {
		return 0, fmt.Errorf("read CPU quota of %s: %w", g.scope.Path, err)
	}
	first, _, _ := strings.Cut(quota, " ")
	us, err := strconv.ParseInt(first, 10, 64)
	if err != nil || us < 0 { // "max" on v2, -1 on v1
		return 0, nil
	}
	return time.Duration(us) * time.Microsecond, nil
}

// Refund gives the session one portion of CPU time on top of those that it gets by
// itself, up to what may be saved up: the kernel hands a portion out when a quota is
// set (tg_set_cfs_bandwidth), and be it the same one.
func (g *Group) Refund() error {
	quota, err := g.quota()
	if err == nil {
		err = cgroups.WriteFile(g.session(g.lay.cpu), g.quotaFile(), quota)
	}
	if err != nil {
		return fmt.Errorf("refund CPU time of %s: %w", g.scope.Path, err)
	}
	return nil
}

func (g *Group) quotaFile() string {
	if g.lay.hierarchies[g.lay.cpu].v2 {
		return "cpu.max"
	}
	return "cpu.cfs_quota_us"
}

func (g *Group) quota() (string, error) {
	text, err := cgroups.ReadFile(g.session(g.lay.cpu), g.quotaFile())
	return strings.TrimSpace(text), err
}
