// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox"
)

// A session says how many processes and descriptors it has, and each is looked at
// on the host's account. So a look has an end, and there is time between them.
const (
	// lookProcesses is how many processes of one look may listen,
	// lookDescriptors how many descriptors they have together; each has the same
	// part of them, and those that were opened first count.
	lookProcesses   = 2_048
	lookDescriptors = 32_768
	// lookRest is how many times as long as its last look a session is left
	// alone: looks take no more than 2 % of a core.
	lookRest = 50
)

// awaitListening answers the caller of e once one of its processes listens on a
// socket. It is called when the module's top level is over: code that serves
// does so by then, or a moment later from a timer or a promise that nobody
// awaits. The kernel tells nobody of a new listener, so it is looked for: at
// once, then less and less often, up to every 100 ms, until e is over.
func (s *Session) awaitListening(e *execution) {
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	e.mu.Lock()
	e.stop = cancel
	over := e.state == stateExited
	e.mu.Unlock()
	if over {
		return
	}
	repeat(ctx, e.ended, &s.looking, func() bool {
		ports, any := s.listening(ctx, s.pids(e))
		if any {
			s.logOf(e).Debug("execution stays in the background", "ports", ports)
			e.background()
		}
		return any
	})
}

// repeat calls look until it is true, ended is closed or ctx done. All calls that
// share looking rest together as if they were one.
func repeat(ctx context.Context, ended <-chan struct{}, looking *atomic.Int32, look func() bool) {
	looking.Add(1)
	defer looking.Add(-1)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		begin := time.Now()
		if look() {
			return
		}
		rest := lookRest * time.Since(begin) * time.Duration(looking.Load())
		select {
		case <-time.After(max(wait, rest)):
		case <-ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

// listening returns the TCP ports that the processes of pids listen on, and
// whether they listen on any socket at all.
func (s *Session) listening(ctx context.Context, pids []int) ([]int, bool) {
	byPid := s.listeningByPid(ctx, pids)
	var ports []int
	for _, p := range byPid {
		ports = append(ports, p...)
	}
	slices.Sort(ports)
	return slices.DeleteFunc(slices.Compact(ports), func(p int) bool { return p == 0 }), len(byPid) > 0
}

// listeningByPid maps host pids to the ports they listen on; 0 stands for a
// unix socket. It ends early when ctx is done.
func (s *Session) listeningByPid(ctx context.Context, pids []int) map[int][]int {
	pids = pids[:min(len(pids), lookProcesses)]
	if len(pids) == 0 {
		return nil
	}
	if in, ok := s.box.Units().(sandbox.Inspector); ok {
		return s.listeningInside(in, pids)
	}
	sockets, err := s.box.Network().Listening()
	if err != nil {
		s.log.Warn("could not list the sockets of the session", "error", err)
		return nil
	}
	byInode := make(map[uint64]int, len(sockets))
	for _, sock := range sockets {
		if sock.Proto != "udp" { // bound is not yet serving: a client's socket is too
			byInode[uint64(sock.Inode)] = int(sock.Port)
		}
	}
	if len(byInode) == 0 {
		return nil
	}
	out := make(map[int][]int)
	for _, pid := range pids {
		for _, inode := range socketInodes(ctx, pid, lookDescriptors/len(pids)) {
			if port, ok := byInode[inode]; ok {
				out[pid] = append(out[pid], port)
			}
		}
		if ports, ok := out[pid]; ok {
			slices.Sort(ports)
			out[pid] = slices.Compact(ports)
		}
	}
	return out
}

// listeningInside is listeningByPid where the sandbox tells.
func (s *Session) listeningInside(in sandbox.Inspector, pids []int) map[int][]int {
	if len(pids) == 0 {
		return nil
	}
	list, err := in.Inspect(pids)
	if err != nil {
		s.log.Warn("could not list the sockets of the session", "error", err)
	}
	out := make(map[int][]int)
	for _, p := range list {
		if len(p.Ports) > 0 {
			out[p.Pid] = p.Ports
		}
	}
	return out
}

// socketInodes lists the sockets among a process's first limit descriptors. A
// process that ends meanwhile has none, and when ctx is done it goes no further.
func socketInodes(ctx context.Context, pid, limit int) []uint64 {
	if ctx.Err() != nil {
		return nil
	}
	d, err := os.Open(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(limit) // in their order
	var out []uint64
	var link [64]byte
	for _, name := range names {
		if ctx.Err() != nil {
			return out
		}
		n, err := unix.Readlinkat(int(d.Fd()), name, link[:])
		if err != nil {
			continue
		}
		if rest, ok := strings.CutPrefix(string(link[:n]), "socket:["); ok {
			if inode, err := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64); err == nil {
				out = append(out, inode)
			}
		}
	}
	return out
}
