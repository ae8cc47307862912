// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"sync"
	"time"

	"github.com/buntime/buntime/driver/sandbox"
)

// startCPU is the most CPU time that the start of a runner is given back. It takes 8
// to 10 ms; what takes longer is the session's doing, such as a huge tsconfig.json.
const startCPU = 20 * time.Millisecond

// refunds give a session back what CPU time the start of runners has taken: its quota
// is for what it runs, and a session of a quarter of a core that has used it up would
// have to wait for its next runner for as long as for its code.
//
// Runners start within the quota all the same, and are paid for afterwards. To start
// them outside and move them in takes a lock that all forks and exits on the machine
// share (package cgroup says how long), and whatever in the session could make Bun run
// code at its start would run outside as well. So there is no outside: nobody gets
// more than what runners have taken, nor more than startCPU for each.
type refunds struct {
	mu    sync.Mutex
	owed  time.Duration
	paid  int // starts
	given int // portions
}

// add notes what a start took, and says whether to give a portion back now.
func (f *refunds) add(took, portion time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.owed += min(took, startCPU)
	f.paid++
	if portion <= 0 || f.owed < portion {
		return false
	}
	f.owed -= portion
	f.given++
	return true
}

// refund gives back what the start of a runner took, as soon as there is a portion of
// it. Where init accounts, which is inside, nothing is given.
func (r *runners) refund(took time.Duration) {
	g := r.session.box.Group()
	if g == nil || r.session.box.Isolation() == sandbox.IsolationGVisor {
		return
	}
	portion, err := g.Portion()
	if err == nil && r.refunds.add(took, portion) {
		err = g.Refund()
	}
	if err != nil && r.session.ctx.Err() == nil {
		r.session.log.Warn("could not give CPU time back that a runner's start took", "error", err)
	}
}
