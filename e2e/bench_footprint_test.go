// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// footprint is what a system holds of the machine at a moment.
type footprint struct {
	servers map[string]held
	fds     map[string]int
	threads map[string]int
	memory  map[string]float64 // of /proc/meminfo, in bytes
	loops   int
	// inside is what processes of sessions hold, of those awake and of those
	// that are idle, by their kind, and kernel what the kernel holds for them.
	inside map[string]map[string]held
	kernel map[string]float64
}

// kernelMemory are the lines of /proc/meminfo that tell what the kernel holds.
var kernelMemory = []string{"SUnreclaim", "SReclaimable", "Percpu", "PageTables", "KernelStack", "Shmem", "Buffers", "Cached", "MemAvailable", "MemFree", "AnonPages"}

func (m *bench) take() *footprint {
	f := &footprint{servers: m.servers(), fds: map[string]int{}, threads: map[string]int{}, memory: meminfo(m)}
	pids, err := m.stack.Pids()
	m.must(err)
	for name, pid := range pids {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		m.must(err)
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		m.must(err)
		f.fds[name], f.threads[name] = len(fds), len(threads)
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	m.must(err)
	for _, path := range backing {
		text, _ := os.ReadFile(path) // it may be gone
		if strings.HasPrefix(string(text), m.stack.Dir) {
			f.loops++
		}
	}
	return f
}

func meminfo(m *bench) map[string]float64 {
	text, err := os.ReadFile("/proc/meminfo")
	m.must(err)
	all := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kb, err := strconv.ParseFloat(fields[1], 64)
		m.must(err)
		all[strings.TrimSuffix(fields[0], ":")] = kb * 1024
	}
	return all
}

// kernelOf is what the kernel holds for the processes of an allocation, as its memory
// cgroup counts it: page tables, stacks, sockets, pipes. What it holds for the plugin,
// such as the session's network and file system, is not in it.
func kernelOf(alloc string) (float64, error) {
	text, err := os.ReadFile("/sys/fs/cgroup/memory/nomad/" + alloc + ".session/memory.kmem.usage_in_bytes")
	if err == nil {
		return strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
	}
	text, err = os.ReadFile("/sys/fs/cgroup/nomad.slice/share.slice/" + alloc + ".session.scope/memory.stat")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if name, value, _ := strings.Cut(strings.TrimSpace(line), " "); name == "kernel" {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("the cgroup of %s does not tell of kernel memory", alloc)
}

var allocation = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// know finds the allocations of the sessions.
func (c *crowd) know() {
	state := map[string]string{}
	for _, s := range c.awake {
		state[s.label()] = "awake"
	}
	for _, s := range c.frozen {
		state[s.label()] = "idle"
	}
	list, _, err := c.stack.Nomad.Allocations().List(nil)
	c.must(err)
	c.states = map[string]string{}
	for _, a := range list {
		if state, ok := state[a.JobID]; ok {
			c.states[a.ID] = state
		}
	}
}

// insides is what there is of sessions' processes, and the kernel for them, by the
// state that sessions have by their allocations.
func insides(states map[string]string) (inside map[string]map[string]held, kernel map[string]float64, err error) {
	inside, kernel = map[string]map[string]held{}, map[string]float64{}
	for alloc, state := range states {
		held, err := kernelOf(alloc)
		if err != nil {
			return nil, nil, err
		}
		kernel[state] += held
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, nil, err
	}
	for _, dir := range dirs {
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup")) // a process may have ended
		state, ok := states[allocation.FindString(string(groups))]
		if !ok {
			continue
		}
		h, err := holds(dir)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		if inside[state] == nil {
			inside[state] = map[string]held{}
		}
		kind := kindOf(dir)
		h.add(inside[state][kind])
		inside[state][kind] = h
	}
	return inside, kernel, nil
}

func (c *crowd) memoryTables(before, after, left *footprint) {
	n := float64(len(c.awake) + len(c.frozen))
	t := newTable(fmt.Sprintf("Memory of a session, one of %.0f", n), "processes", "PSS", "private")
	for _, state := range []string{"awake", "idle"} {
		each := float64(len(c.awake))
		if state == "idle" {
			each = float64(len(c.frozen))
		}
		var sum held
		for _, kind := range []string{"init", "runners", "other"} {
			h := after.inside[state][kind]
			if h.count == 0 {
				continue
			}
			t.row(state+", "+kind, strconv.FormatFloat(float64(h.count)/each, 'f', 1, 64), mb(h.pss/each), mb(h.private/each))
			sum.add(h)
		}
		t.row(state+", kernel", "", mb(after.kernel[state]/each), mb(after.kernel[state]/each))
		t.row(state, strconv.FormatFloat(float64(sum.count)/each, 'f', 1, 64),
			mb((sum.pss+after.kernel[state])/each), mb((sum.private+after.kernel[state])/each))
		c.b.ReportMetric((sum.pss+after.kernel[state])/each/1e6, state+"-MB")
	}
	t.print("MB; awake has a server of the session's, too; kernel as the memory cgroup counts it")

	t = newTable("Memory of the machine", "before", "with sessions", "deleted", "each")
	for _, name := range kernelMemory {
		t.row(name, mb(before.memory[name]), mb(after.memory[name]), mb(left.memory[name]), mb((after.memory[name]-before.memory[name])/n))
	}
	t.print("MB of /proc/meminfo, whatever else the machine does included")

	t = newTable("Servers", "before", "with sessions", "deleted", "KB each", "fds", "with", "deleted", "threads", "with", "deleted")
	for _, name := range slices.Sorted(maps.Keys(before.servers)) {
		b, a, l := before.servers[name].resident, after.servers[name].resident, left.servers[name].resident
		t.row(name, mb(b), mb(a), mb(l), strconv.FormatFloat((a-b)/n/1e3, 'f', 0, 64),
			strconv.Itoa(before.fds[name]), strconv.Itoa(after.fds[name]), strconv.Itoa(left.fds[name]),
			strconv.Itoa(before.threads[name]), strconv.Itoa(after.threads[name]), strconv.Itoa(left.threads[name]))
	}
	t.print("MB resident", fmt.Sprintf("loop devices: %d, then %d, then %d", before.loops, after.loops, left.loops))
}

// cpuTime is what processes have used, by the server or as "sessions".
func (c *crowd) cpuTime() map[string]time.Duration {
	used := map[string]time.Duration{}
	pids, err := c.stack.Pids()
	c.must(err)
	for name, pid := range pids {
		used[name], err = cpuOf(pid)
		c.must(err)
	}
	for _, root := range []string{"/sys/fs/cgroup/unified/nomad", "/sys/fs/cgroup/nomad.slice/share.slice"} {
		paths, err := filepath.Glob(filepath.Join(root, "*", "cpu.stat"))
		c.must(err)
		for _, path := range paths {
			if c.states[allocation.FindString(path)] == "" {
				continue
			}
			text, _ := os.ReadFile(path)
			var usec int64
			if _, err := fmt.Sscanf(string(text), "usage_usec %d", &usec); err == nil {
				used["sessions"] += time.Duration(usec) * time.Microsecond
			}
		}
	}
	return used
}

// cpuOf reads a process's CPU time, which its threads have used.
func cpuOf(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// 123 (name) S …: utime and stime are the 12th and 13th after the name.
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0, fmt.Errorf("parse stat of process %d: %q", pid, text)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100), nil // USER_HZ
}

// atRest is which part of a core each uses while nobody comes.
func (c *crowd) atRest() map[string]float64 {
	before, began := c.cpuTime(), time.Now()
	c.must(c.pause(restTime))
	after, took := c.cpuTime(), time.Since(began)
	used := map[string]float64{}
	for name := range after {
		used[name] = float64(after[name]-before[name]) / float64(took)
	}
	return used
}

func (c *crowd) restTable(used map[string]float64) {
	n := float64(len(c.awake) + len(c.frozen))
	t := newTable("CPU time while nobody comes", "% of a core", "µs a second, each session")
	sum := 0.0
	for _, name := range slices.Sorted(maps.Keys(used)) {
		t.row(name, strconv.FormatFloat(used[name]*100, 'f', 2, 64), strconv.FormatFloat(used[name]*1e6/n, 'f', 1, 64))
		sum += used[name]
	}
	t.row("all", strconv.FormatFloat(sum*100, 'f', 2, 64), strconv.FormatFloat(sum*1e6/n, 'f', 1, 64))
	t.print(fmt.Sprintf("of %v", restTime))
}

// quietWithin is quiet with another patience.
func (m *bench) quietWithin(d time.Duration) error {
	const look = 100 * time.Millisecond
	ctx, cancel := context.WithTimeoutCause(m.ctx, d, errors.New("earlier sessions and jobs are not gone"))
	defer cancel()
	for {
		left, err := m.stack.Leftovers(ctx)
		if err != nil {
			return err
		}
		if len(left) == 0 {
			return nil
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return fmt.Errorf("%w: %d things: %s", context.Cause(ctx), len(left), strings.Join(left[:min(len(left), 10)], "; "))
		}
	}
}
