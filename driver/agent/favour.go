// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"runtime"
	"time"

	"github.com/buntime/buntime/driver"
)

// All sessions of a node may want more CPU time together than it has. The
// weights that Nomad gives divide it fairly, and that is just what hurts: who
// executes something of 10 ms beside 50 busy loops has to wait for dozens of
// them after every few milliseconds. So a session has more weight than its own
// for a little CPU time, and no more than that once this is used up. Figures:
// docs/performance.md, "Storms".
//
// How the time was used does not count: what a session can arrange, which thread
// computes for how long, tells nothing.
const (
	// favour is by how much the weight of a session in favour is multiplied.
	favour = 64
	// favourEvery is how often it is looked how much CPU time was used.
	favourEvery = time.Second
	// favourBurst and favourRate are the CPU time that a session can use in
	// favour: at once, and for each second.
	favourBurst = time.Second
	favourRate  = 0.05
	// favourPart is the part of the node that all sessions in favour can have
	// together, so that favour is worth something, and favourWhole how long all
	// their bursts together take it.
	favourPart  = 0.5
	favourWhole = 2500 * time.Millisecond
	// activeFrom is the part of a core from which a session uses the CPU at all.
	activeFrom = 0.002
)

// credit is the CPU time that a session may still use in favour.
type credit struct {
	left  time.Duration // below zero: what was used above it
	spent bool          // the session is not in favour
}

// use is what a session has used in a span of time.
type use struct {
	*credit
	cpu, span time.Duration
}

// settle accounts for what the sessions of a node with so many cores have used
// since the last time.
func settle(cores int, uses []use) {
	active, favoured := 0, 0
	for _, u := range uses {
		if float64(u.cpu) >= activeFrom*float64(u.span) {
			active++
			if !u.spent {
				favoured++
			}
		}
	}
	for _, u := range uses {
		// Out of favour one has to use less than one's part beside all others.
		sharing := favoured
		if u.spent {
			sharing = active
		}
		u.settle(u.cpu, u.span, float64(cores)/float64(max(sharing, 1)))
	}
}

// settle accounts for the CPU time used in a span. part is the session's part of
// the node, in cores, if all that share it want to compute.
func (c *credit) settle(cpu, span time.Duration, part float64) {
	burst := min(favourBurst, time.Duration(part*float64(favourWhole)))
	left := c.left + time.Duration(min(favourRate, favourPart*part)*float64(span)) - cpu
	if c.spent {
		left = max(left, min(c.left, 0)) // only what was used in favour is owed
	}
	if float64(cpu) < activeFrom*float64(span) {
		burst = max(burst, min(c.left, favourBurst)) // who rests loses nothing to others' hurry
	}
	c.left = min(left, burst)
	// Back at half of it, so that it does not come and go all the time.
	if c.spent {
		c.spent = c.left < burst/2
	} else {
		c.spent = c.left <= 0
	}
}

// account is what keepFavour knows of a session.
type account struct {
	credit
	at   time.Time // of used; zero before the first look
	used time.Duration
}

// keepFavour looks after the weights of sessions until ctx is done.
func (a *Agent) keepFavour(ctx context.Context) {
	tick := time.NewTicker(favourEvery)
	defer tick.Stop()
	known := map[*instance]*account{}
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		a.mu.Lock()
		live := make(map[*instance]*account, len(a.instances))
		for i := range a.instances {
			if i.task.Session != nil && !i.slot.vacant() {
				live[i] = known[i]
			}
		}
		a.mu.Unlock()
		known = live
		a.lookAll(live)
	}
}

// lookAll sees what each session has used and changes the weights of those that
// come into favour or fall out of it.
func (a *Agent) lookAll(live map[*instance]*account) {
	uses := make([]use, 0, len(live))
	looked := make(map[*instance]bool, len(live)) // whether it was in favour
	for i, acc := range live {
		g := i.box.Group()
		if g == nil || acc != nil && i.still() {
			continue
		}
		used, err := g.CPU()
		if err != nil {
			continue // it is just ending
		}
		now := time.Now()
		if acc == nil {
			acc = &account{credit: credit{left: favourBurst}}
			live[i] = acc
			i.setFavour(true) // it may be another process that set it
		} else {
			uses = append(uses, use{&acc.credit, used - acc.used, now.Sub(acc.at)})
			looked[i] = !acc.spent
		}
		acc.at, acc.used = now, used
	}
	settle(runtime.NumCPU(), uses)
	for i, before := range looked {
		if favoured := !live[i].spent; favoured != before {
			i.setFavour(favoured)
		}
	}
}

// still says that the processes of the instance's session stand still.
func (i *instance) still() bool {
	if !i.serving.TryLock() {
		return false
	}
	defer i.serving.Unlock()
	return i.session != nil && !i.session.life.restedSince().IsZero()
}

func (i *instance) setFavour(favoured bool) {
	if err := i.box.Group().SetCPUShares(sharesOf(i.task, favoured)); err != nil {
		i.agent.log.Debug("could not change the weight of a session", "task", i.task.ID, "error", err)
	}
}

// sharesOf is the weight of a session's task, with or without favour.
func sharesOf(task *driver.Task, favoured bool) int64 {
	shares := max(task.Limits.CPUShares, 2)
	if favoured {
		shares *= favour
	}
	return shares
}
