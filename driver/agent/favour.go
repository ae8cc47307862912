// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
)

// All sessions of a node may want more CPU time together than it has. The
// weights that Nomad gives divide it fairly, and that is just what hurts: who
// executes something of 10 ms beside 50 busy loops has to wait for dozens of
// them after every few milliseconds. So a session that asks for little has more
// weight than its own, and one that asks for all it can get has no more than
// that. Figures: docs/performance.md, "Storms".
const (
	// favour is by how much the weight of a session is multiplied that is not
	// busy. It uses little, so little is taken away from others.
	favour = 64
	// favourEvery is how often it is looked who is busy.
	favourEvery = 2 * time.Second
	// busyFrom is the part of that time that a thread ran or wanted to, or the
	// part of the quota that was used, from which a session is busy.
	busyFrom = 0.85
	// idleBelow is the part of a core below which nobody looks at threads.
	idleBelow = 0.001
	// manyThreads bounds how many are looked at. A session that has more and
	// uses the CPU is busy.
	manyThreads = 512
)

// load is what is known of a session's use of the CPU.
type load struct {
	at      time.Time // of the following; zero before the first look
	used    time.Duration
	threads map[int]time.Duration // how long each ran or waited for a core, by tid
	busy    bool
}

// keepFavour looks after the weights of sessions until ctx is done.
func (a *Agent) keepFavour(ctx context.Context) {
	tick := time.NewTicker(favourEvery)
	defer tick.Stop()
	known := map[*instance]*load{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		a.mu.Lock()
		live := make(map[*instance]*load, len(a.instances))
		for i := range a.instances {
			if i.task.Session != nil {
				live[i] = known[i]
			}
		}
		a.mu.Unlock()
		known = live
		for i, l := range live {
			if l == nil {
				l = new(load)
				live[i] = l
			}
			i.look(l)
		}
	}
}

// look sees whether a session is busy and changes its weight if that is new.
func (i *instance) look(l *load) {
	g := i.box.Group()
	if g == nil {
		return
	}
	used, err := g.CPU()
	if err != nil {
		return // it is just ending
	}
	now := time.Now()
	first, span := l.at.IsZero(), now.Sub(l.at)
	part := float64(used-l.used) / float64(span)
	l.at, l.used = now, used
	busy := false
	switch quota := i.task.Limits.CPUCores; {
	case first:
	case part < idleBelow && !l.busy:
		l.threads = nil
	case quota > 0 && part >= busyFrom*quota:
		busy = true
	default:
		busy = l.persistent(g, time.Duration(busyFrom*float64(span)))
	}
	if busy == l.busy && !first { // at first it may be another process that set it
		return
	}
	l.busy = busy
	if err := g.SetCPUShares(sharesOf(i.task, !busy)); err != nil {
		i.agent.log.Debug("could not change the weight of a session", "task", i.task.ID, "error", err)
	}
}

// persistent tells whether some thread has run or waited for a core for at least
// so long since the last look. What executes and ends in between has not.
func (l *load) persistent(g *cgroup.Group, least time.Duration) bool {
	before := l.threads
	l.threads = map[int]time.Duration{}
	pids, err := g.Pids()
	if err != nil {
		return false
	}
	found := false
	for _, pid := range pids {
		tids, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue // it has ended
		}
		for _, entry := range tids {
			if len(l.threads) == manyThreads {
				return true
			}
			tid, err := strconv.Atoi(entry.Name())
			if err != nil {
				continue
			}
			wanted, err := schedstat(pid, tid)
			if err != nil {
				continue
			}
			l.threads[tid] = wanted
			if earlier, known := before[tid]; known && wanted-earlier >= least {
				found = true
			}
		}
	}
	return found
}

// schedstat returns how long a thread has run, and waited for a core to run on.
func schedstat(pid, tid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, tid))
	if err != nil {
		return 0, err
	}
	var run, wait int64
	if _, err := fmt.Sscan(string(text), &run, &wait); err != nil {
		return 0, err
	}
	return time.Duration(run + wait), nil
}

// sharesOf is the weight of a session's task, with or without favour.
func sharesOf(task *driver.Task, favoured bool) int64 {
	shares := max(task.Limits.CPUShares, 2)
	if favoured {
		shares *= favour
	}
	return shares
}
