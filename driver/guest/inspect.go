// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// clockTick is USER_HZ, 100 on every architecture that Linux supports today.
const clockTick = 10 * time.Millisecond

// The bounds of what inspect tells, and of how long it takes: maxCommand is in
// bytes, of one command line, maxCommands of all together, and maxDescriptors is
// how many descriptors of all are looked at.
const (
	maxCommand     = 4 << 10
	maxCommands    = 1 << 20
	maxDescriptors = 32_768
)

// inspect tells of those of pids that are alive.
func inspect(pids []int) []wire.Process {
	ports := listening()
	all := max(len(pids), 1)
	command, descriptors := min(maxCommand, maxCommands/all), maxDescriptors/all
	out := make([]wire.Process, 0, len(pids))
	for _, pid := range pids {
		p, ok := inspectOne(pid, command)
		if !ok {
			continue
		}
		for _, inode := range sockets(pid, descriptors) {
			if port, ok := ports[inode]; ok {
				p.Ports = append(p.Ports, port)
			}
		}
		slices.Sort(p.Ports)
		p.Ports = slices.Compact(p.Ports)
		out = append(out, p)
	}
	return out
}

// inspectOne reads what /proc says of a process (proc(5)), and limit bytes of its
// command line.
func inspectOne(pid, limit int) (p wire.Process, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return p, false
	}
	// The name in parentheses may hold anything; the fields follow the last one.
	begin, end := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	if begin < 0 || end < begin {
		return p, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 22 || fields[0] == "Z" || fields[0] == "X" {
		return p, false
	}
	number := func(i int) int64 { n, _ := strconv.ParseInt(fields[i-3], 10, 64); return n } // they begin at the third
	p = wire.Process{
		Pid: pid, Parent: int(number(4)),
		CPU:       (number(14) + number(15)) * int64(clockTick),
		StartedAt: bootTime().Add(time.Duration(number(22)) * clockTick).UnixMilli(),
		Memory:    number(24) * int64(os.Getpagesize()),
	}
	cmdline := readCommand(dir+"/cmdline", limit)
	if len(cmdline) == 0 {
		cmdline = stat[begin+1 : end]
	}
	p.Command = strings.ToValidUTF8(strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " "), "\uFFFD")
	return p, true
}

// readCommand reads a command line, which may have megabytes, up to limit bytes.
func readCommand(name string, limit int) []byte {
	f, err := os.Open(name)
	if err != nil {
		return nil
	}
	defer f.Close()
	b := make([]byte, limit)
	n, _ := io.ReadFull(f, b)
	return b[:n]
}

// bootTime is when the sandbox's kernel started.
func bootTime() time.Time {
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(up.Nano()))
}

// listening maps the inodes of listening sockets to their ports, 0 for one of
// the file system's.
func listening() map[uint64]int {
	const tcpListen, unixAccepts = "0A", 1 << 16
	out := make(map[uint64]int)
	for _, name := range []string{"tcp", "tcp6"} {
		for _, f := range table("/proc/self/net/" + name) {
			if len(f) < 10 || f[3] != tcpListen {
				continue
			}
			_, number, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseUint(number, 16, 16)
			inode, ierr := strconv.ParseUint(f[9], 10, 64)
			if err == nil && ierr == nil {
				out[inode] = int(port)
			}
		}
	}
	for _, f := range table("/proc/self/net/unix") {
		if len(f) < 7 {
			continue
		}
		flags, err := strconv.ParseUint(f[3], 16, 32)
		inode, ierr := strconv.ParseUint(f[6], 10, 64)
		if err == nil && ierr == nil && flags&unixAccepts != 0 {
			out[inode] = 0
		}
	}
	return out
}

// table reads the fields of each line of a file but the first, its head.
func table(name string) [][]string {
	b, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	var out [][]string
	for line := range strings.Lines(string(b)) {
		out = append(out, strings.Fields(line))
	}
	return out[min(1, len(out)):]
}

// sockets lists the inodes of the sockets among a process's first limit
// descriptors.
func sockets(pid, limit int) []uint64 {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	if limit < 1 {
		return nil
	}
	names, _ := d.Readdirnames(limit)
	var out []uint64
	for _, name := range names {
		link, err := os.Readlink(dir + "/" + name)
		if err != nil {
			continue
		}
		if rest, ok := strings.CutPrefix(link, "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64); err == nil {
				out = append(out, inode)
			}
		}
	}
	return out
}
