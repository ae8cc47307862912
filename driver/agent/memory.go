// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"cmp"
	"slices"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox"
)

// A session whose kernel limits no memory, gVisor's, is looked at again when it
// could have come to its limit, were it as fast as most programs are.
const (
	memorySpeed = 2 << 30 // bytes a second
	minLook     = 10 * time.Millisecond
	maxLook     = time.Second
	// releasePatience is what a kernel has to give back the memory of those that
	// were killed, before the next is.
	releasePatience = 2 * time.Second
)

// keepMemory ends the execution that holds the most once the session holds more
// than it may, until the session ends. Where one is faster, the host's kernel
// ends a process of the session, mostly but not always the right one, at the
// limit that the sandbox's own processes have some room below.
func (s *Session) keepMemory(units sandbox.Inspector) {
	var patience time.Time
	_, kills := s.memoryFree()
	for {
		free, now := s.memoryFree()
		switch {
		case now > kills: // the host's kernel was there before
			kills = now
			patience = time.Now().Add(releasePatience)
		case free < 0 && time.Now().After(patience):
			s.endLargest(units, kills)
			patience = time.Now().Add(releasePatience)
		}
		wait := time.Duration(float64(free) / memorySpeed * float64(time.Second))
		select {
		case <-time.After(min(max(wait, minLook), maxLook)):
		case <-s.ctx.Done():
			return
		}
	}
}

// memoryFree is how much the session may take yet, negative when it has too
// much, and how often the host's kernel has killed in it for that.
func (s *Session) memoryFree() (free int64, kills uint64) {
	st, err := s.box.Group().Stats()
	if err != nil {
		return 0, 0 // it is just ending
	}
	// What gVisor keeps for its programs, and their files in memory, is a file in
	// memory to the host.
	return s.MemoryLimit - int64(st.MemoryShmem), st.OOMKills
}

// endLargest ends the execution that holds the most memory, unless there is
// enough again, or the host's kernel has killed since it had killed kills.
func (s *Session) endLargest(units sandbox.Inspector, kills uint64) {
	usage, err := units.Usage()
	if err != nil {
		s.log.Warn("could not find what holds the session's memory", "error", err)
		return
	}
	if free, now := s.memoryFree(); free >= 0 || now > kills {
		return
	}
	slices.SortFunc(usage, func(a, b wire.Unit) int { return cmp.Compare(b.Memory, a.Memory) })
	live := s.live()
	for _, u := range usage {
		i := slices.IndexFunc(live, func(e *execution) bool { return e.unit == u.ID })
		if i < 0 {
			continue // a runner that waits
		}
		s.logOf(live[i]).Debug("execution holds too much memory", "bytes", u.Memory)
		live[i].endedBy(reasonOOM)
		s.kill(live[i])
		return
	}
}

// countKills lets e know what the host's kernel kills in the session.
func (s *Session) countKills(e *execution) {
	if _, ok := s.box.Units().(sandbox.Inspector); !ok {
		return // the kernel tells of each execution
	}
	e.hostKills = func() uint64 {
		st, err := s.box.Group().Stats()
		if err != nil {
			return e.killsBefore
		}
		return st.OOMKills
	}
	e.killsBefore = e.hostKills()
}
