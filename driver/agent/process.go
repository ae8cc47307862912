// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox"
)

// Process is a running process of a session. Waiting runners are none.
type Process struct {
	// Pid is the number inside the session.
	Pid         int    `json:"pid"`
	ExecutionID string `json:"executionId"`
	Command     string `json:"command"`
	StartedAt   string `json:"startedAt"`
	// Memory is the resident size in bytes, CPUTime in milliseconds.
	Memory  int64 `json:"memory"`
	CPUTime int64 `json:"cpuTime"`
	// Ports are the TCP ports it listens on.
	Ports []int `json:"ports"`

	// unit and unitParent are the numbers of it and of its parent as
	// sandbox.Units has them.
	unit, unitParent int
}

// pids lists the host pids of an execution's whole tree.
func (s *Session) pids(e *execution) []int {
	pids, err := e.group.Pids()
	if err != nil {
		return nil // the cgroup is gone, and so are they
	}
	return pids
}

func (s *Session) countProcesses() int {
	n := 0
	for _, e := range s.live() {
		n += len(s.pids(e))
	}
	return n
}

// The bounds of what a list of processes holds. It is memory of the plugin's,
// and how many there are and what they are called is the session's to say.
const (
	maxProcesses = 10_000
	// maxCommand is in bytes, of one command line, maxCommands of all together.
	maxCommand  = 4 << 10
	maxCommands = 1 << 20
)

// commandLimit is how many bytes each of n command lines may have.
func commandLimit(n int) int { return min(maxCommand, maxCommands/max(n, 1)) }

// processes lists what runs, in the order of pids.
func (s *Session) processes(ctx context.Context) []Process {
	var pids []int
	of := make(map[int]*execution)
	for _, e := range s.live() {
		list := s.pids(e)
		for _, pid := range list[:min(len(list), maxProcesses-len(pids))] {
			pids = append(pids, pid)
			of[pid] = e
		}
	}
	out := s.inspect(ctx, pids)
	limit := commandLimit(len(pids))
	for i := range out {
		p := &out[i]
		e := of[p.unit]
		p.ExecutionID = e.ExecutionID
		if p.Pid == e.firstPid() {
			p.Command = cut(e.title(), limit)
		}
	}
	slices.SortFunc(out, func(a, b Process) int { return a.Pid - b.Pid })
	return out
}

// inspect tells of those of pids that are alive.
func (s *Session) inspect(ctx context.Context, pids []int) []Process {
	out := []Process{}
	if len(pids) == 0 {
		return out
	}
	limit := commandLimit(len(pids))
	if in, ok := s.box.Units().(sandbox.Inspector); ok {
		list, err := in.Inspect(pids)
		if err != nil {
			s.log.Warn("could not look at the session's processes", "error", err)
		}
		asked := make(map[int]bool, len(pids))
		for _, pid := range pids {
			asked[pid] = true
		}
		ports := lookDescriptors / len(pids)
		for _, p := range list {
			if !asked[p.Pid] {
				continue // the session says so
			}
			asked[p.Pid] = false
			out = append(out, Process{
				Pid: p.Inside, Command: cut(p.Command, limit), StartedAt: timestamp(p.Started), Memory: p.Memory, CPUTime: milliseconds(p.CPU),
				Ports: p.Ports[:min(len(p.Ports), ports)], unit: p.Pid, unitParent: p.Parent,
			})
		}
	} else {
		for _, pid := range pids {
			if ctx.Err() != nil {
				break
			}
			if p, err := inspect(pid, limit); err == nil { // else it is gone since
				out = append(out, p)
			}
		}
		ports := s.listeningByPid(ctx, pids)
		for i := range out {
			out[i].Ports = ports[out[i].unit]
		}
	}
	for i := range out {
		out[i].Ports = slices.DeleteFunc(append([]int{}, out[i].Ports...), func(p int) bool { return p == 0 })
		slices.Sort(out[i].Ports)
	}
	return out
}

// clockTick is USER_HZ, 100 on every architecture that Linux supports today.
const clockTick = 10 * time.Millisecond

// exiting is the kernel's PF_EXITING: the process has called exit.
const exiting = 0x4

var pageSize = int64(os.Getpagesize())

// inspect reads what /proc says of a process, and limit bytes of its command line.
func inspect(host, limit int) (Process, error) {
	p := Process{unit: host}
	dir := "/proc/" + strconv.Itoa(host)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, err
	}
	// The name in parentheses may hold anything; the fields follow the last one.
	end := strings.LastIndexByte(string(stat), ')')
	fields := strings.Fields(string(stat[end+1:]))
	if end < 0 || len(fields) < 22 {
		return p, fmt.Errorf("parse %s/stat: %q", dir, stat)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return p, os.ErrProcessDone
	}
	if flags, err := strconv.ParseUint(fields[9-3], 10, 64); err == nil && flags&exiting != 0 {
		return p, os.ErrProcessDone // Bun takes some milliseconds to give its memory back
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i-3], 10, 64); return n } // proc(5) counts from 1, fields begin at the third
	p.unitParent = int(number(4))
	p.CPUTime = milliseconds(time.Duration(number(14)+number(15)) * clockTick)
	p.Memory = number(24) * pageSize
	p.StartedAt = timestamp(bootTime.Add(time.Duration(number(22)) * clockTick))
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return p, err
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "NSpid:"); ok {
			ids := strings.Fields(rest)
			p.Pid, _ = strconv.Atoi(ids[len(ids)-1])
		}
	}
	cmdline, err := readCommand(dir+"/cmdline", limit)
	if err != nil {
		return p, err
	}
	if len(cmdline) == 0 {
		if p.Memory == 0 {
			return p, os.ErrProcessDone // it is just ending: its memory is gone
		}
		begin := strings.IndexByte(string(stat), '(')
		cmdline = stat[begin+1 : end] // it is just becoming another program
	}
	p.Command = cut(strings.ToValidUTF8(strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " "), "\uFFFD"), limit)
	return p, nil
}

// readCommand reads a command line, which may have megabytes, up to limit bytes.
func readCommand(name string, limit int) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, limit)
	n, err := io.ReadFull(f, b)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return b[:n], err
}

// cut returns the first limit bytes of a text, less what is left of a character
// there. It keeps nothing of what is cut off.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return strings.Clone(s[:limit])
}

// bootTime is when the machine started, to the clock tick.
var bootTime = func() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}()

// Killed is the answer to a kill.
type Killed struct {
	Killed int   `json:"killed"`
	Pids   []int `json:"pids"`
}

// killProcesses ends processes: with pid 0 all of the session, otherwise that
// one; without a signal, or with SIGKILL, with all its descendants. A signal
// other than SIGKILL goes to the process alone.
func (s *Session) killProcesses(ctx context.Context, pid int, signal syscall.Signal) (Killed, error) {
	all := s.processes(ctx)
	if pid == 0 {
		return s.killAll(ctx, all, signal)
	}
	i := slices.IndexFunc(all, func(p Process) bool { return p.Pid == pid })
	if i < 0 {
		return Killed{Pids: []int{}}, nil
	}
	target := all[i]
	if signal != 0 && signal != syscall.SIGKILL {
		return s.signal(ctx, []Process{target}, signal)
	}
	e, ok := s.find(target.ExecutionID)
	if ok && e.firstPid() == pid {
		tree := slices.DeleteFunc(all, func(p Process) bool { return p.ExecutionID != target.ExecutionID })
		e.endedBy(reasonKilled)
		s.kill(e)
		return killed(tree), nil
	}
	return s.signal(ctx, descendants(all, target), syscall.SIGKILL)
}

func (s *Session) killAll(ctx context.Context, all []Process, signal syscall.Signal) (Killed, error) {
	if signal != 0 && signal != syscall.SIGKILL {
		return s.signal(ctx, all, signal)
	}
	for _, e := range s.live() {
		e.endedBy(reasonKilled)
		s.kill(e)
	}
	return killed(all), nil
}

// signal sends a signal through init, which looks the pid up in the session's
// own pid namespace: a number that was reused can only hit the session itself.
func (s *Session) signal(ctx context.Context, targets []Process, signal syscall.Signal) (Killed, error) {
	var hit []Process
	for _, p := range targets {
		if signal == syscall.SIGKILL || signal == syscall.SIGTERM {
			if e, ok := s.find(p.ExecutionID); ok && e.firstPid() == p.Pid {
				e.endedBy(reasonKilled)
			}
		}
		ev, err := s.guest.ask(ctx, wire.Request{Op: wire.OpSignal, Pid: p.Pid, Signal: int(signal)}, nil)
		if err != nil {
			return killed(hit), unsure("signal process %d: %v", p.Pid, err)
		}
		if ev.Event == wire.EventSignalled {
			hit = append(hit, p)
		}
	}
	return killed(hit), nil
}

func killed(processes []Process) Killed {
	k := Killed{Killed: len(processes), Pids: []int{}}
	for _, p := range processes {
		k.Pids = append(k.Pids, p.Pid)
	}
	return k
}

// descendants returns root and every process below it.
func descendants(all []Process, root Process) []Process {
	out := []Process{root}
	for i := 0; i < len(out); i++ {
		for _, p := range all {
			if p.unitParent == out[i].unit && !slices.ContainsFunc(out, func(q Process) bool { return q.unit == p.unit }) {
				out = append(out, p)
			}
		}
	}
	return out
}
