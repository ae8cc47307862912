// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"os"
	"runtime"
	"strconv"
	"time"
)

// All sessions of a node may want more CPU time together than it has. The
// weights that Nomad gives divide it fairly, and that is just what hurts: who
// executes something of 10 ms beside 50 busy loops has to wait for dozens of
// them after every few milliseconds. So a session that asks for little has more
// weight than its own, and one that asks for all it can get has no more than
// that. Measured with 48 sessions in busy loops on 2 cores: docs/performance.md.
const (
	// favour is by how much the weight of a session is multiplied that is not
	// busy. It uses little, so little is taken away from others.
	favour = 64
	// favourEvery is how often it is looked who is busy.
	favourEvery = 500 * time.Millisecond
	// busyFrom is the part of the time in which something of a session ran, or
	// wanted to, from which it is busy; below calmFrom it is not any more.
	busyFrom, calmFrom = 0.9, 0.6
	// busyTicks is for how many looks in a row it has to be so: building
	// something for a second is no busy loop.
	busyTicks = 2
)

// weight is what is known of an instance's use of the CPU.
type weight struct {
	at     time.Time
	demand time.Duration
	ticks  int // looks in a row at which it was busy
	busy   bool
}

// keepFavour looks after the weights until ctx is done.
func (a *Agent) keepFavour(ctx context.Context) {
	tick := time.NewTicker(favourEvery)
	defer tick.Stop()
	known := map[*instance]*weight{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		a.mu.Lock()
		live := make(map[*instance]*weight, len(a.instances))
		for i := range a.instances {
			live[i] = known[i]
		}
		a.mu.Unlock()
		known = live
		contended := runnable() > runtime.NumCPU()
		for i, w := range live {
			switch {
			case i.task.Session == nil:
			case w == nil:
				live[i] = new(weight)
				i.setFavour(true)
			case contended || w.busy:
				i.look(w)
			}
		}
	}
}

// look sees whether the instance is busy and changes its weight if that is new.
func (i *instance) look(w *weight) {
	g := i.box.Group()
	if g == nil {
		return
	}
	demand, err := g.Demand()
	if err != nil {
		return // it is just ending
	}
	now := time.Now()
	part := float64(demand-w.demand) / float64(now.Sub(w.at))
	first := w.at.IsZero() || now.Sub(w.at) > 4*favourEvery
	w.at, w.demand = now, demand
	if first {
		return // of a time in which nobody lacked anything
	}
	switch {
	case part >= busyFrom:
		w.ticks++
	default:
		w.ticks = 0
	}
	busy := w.ticks >= busyTicks || w.busy && part >= calmFrom
	if busy != w.busy {
		w.busy = busy
		i.setFavour(!busy)
	}
}

// setFavour sets the weight of an instance.
func (i *instance) setFavour(favoured bool) {
	shares := max(i.task.Limits.CPUShares, 2)
	if favoured {
		shares *= favour
	}
	if g := i.box.Group(); g != nil {
		if err := g.SetCPUShares(shares); err != nil {
			i.agent.log.Debug("could not change the weight of a session", "task", i.task.ID, "error", err)
		}
	}
}

// runnable is how many threads of the machine run or wait for a core.
func runnable() int {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	_, rest, _ := bytes.Cut(text, []byte("\nprocs_running "))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	n, _ := strconv.Atoi(string(line))
	return n
}
