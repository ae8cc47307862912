// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import "errors"

// benchSlots is how many slots are ready where some are.
const benchSlots = 100

// create compares the time from nothing to a first result: a session that is
// made and executes, with a slot and without, and a Nomad job that is dispatched.
func (m *bench) create() {
	const rounds = 60
	var timing, slotTiming spans
	pool := m.poolStack(benchSlots, "")
	slot := pool.slotToResult(benchSlots, &slotTiming)
	// The others are not to pay for the slot that is made anew.
	closed := slot.after
	slot.after = func() error { return errors.Join(closed(), pool.filled(benchSlots)) }
	bun := m.bareBun(m.quiet)
	contenders := []*contender{
		slot,
		m.createToResult("session of 0.25 cores", 0, &timing),
		m.createToResult("session of 1 core", 1, new(spans)),
		m.dispatchToResult("dispatch, raw_exec", "raw_exec", false),
		m.dispatchToResult("dispatch, raw_exec without logs", "raw_exec", true),
		m.dispatchToResult("dispatch, exec", "exec", false),
		m.runcToResult("runc run"),
		bun,
	}
	peer := contenders[3]
	m.race(2, 1, contenders...)
	for _, c := range contenders {
		c.took = nil
	}
	timing, slotTiming = spans{}, spans{}

	m.race(rounds, 1, contenders...)
	m.table("Create to first result, one at a time", peer, contenders...)
	note("session of 0.25 cores; Server-Timing, p50: "+timing.String(), "session of a slot: "+slotTiming.String())
}

func (m *bench) createToResult(name string, cores float64, timing *spans) *contender {
	var s *benchSession
	return &contender{
		name:   name,
		before: m.quiet,
		run: func() (err error) {
			if s, err = m.open(cores, timing); err != nil {
				return err
			}
			return s.execute(timing)
		},
		after: func() error { return m.close(s) },
	}
}
