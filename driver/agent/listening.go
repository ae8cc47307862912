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
	"time"

	"github.com/buntime/buntime/driver/sandbox"
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
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if ports, any := s.listening(s.pids(e)); any {
			s.log.Debug("execution stays in the background", "execution", e.ExecutionID, "ports", ports)
			e.background()
			return
		}
		select {
		case <-time.After(wait):
		case <-e.ended:
			return
		case <-ctx.Done():
			return
		}
	}
}

// listening returns the TCP ports that the processes of pids listen on, and
// whether they listen on any socket at all.
func (s *Session) listening(pids []int) ([]int, bool) {
	byPid := s.listeningByPid(pids)
	var ports []int
	for _, p := range byPid {
		ports = append(ports, p...)
	}
	slices.Sort(ports)
	return slices.DeleteFunc(slices.Compact(ports), func(p int) bool { return p == 0 }), len(byPid) > 0
}

// listeningByPid maps host pids to the ports they listen on; 0 stands for a
// unix socket.
func (s *Session) listeningByPid(pids []int) map[int][]int {
	if in, ok := s.box.Units().(sandbox.Inspector); ok {
		return s.listeningInside(in, pids)
	}
	sockets, err := s.box.Network().Listening()
	if err != nil {
		s.log.Warn("could not list the sockets of the session", "error", err)
		return nil
	}
	if len(sockets) == 0 {
		return nil
	}
	byInode := make(map[uint64]int, len(sockets))
	for _, sock := range sockets {
		if sock.Proto != "udp" { // bound is not yet serving: a client's socket is too
			byInode[uint64(sock.Inode)] = int(sock.Port)
		}
	}
	out := make(map[int][]int)
	for _, pid := range pids {
		for _, inode := range socketInodes(pid) {
			if port, ok := byInode[inode]; ok && !slices.Contains(out[pid], port) {
				out[pid] = append(out[pid], port)
			}
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

// socketInodes lists the sockets among a process's descriptors. A process that
// ends meanwhile has none.
func socketInodes(pid int) []uint64 {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	d, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
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
