// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"time"
)

// create compares the time from nothing to a first result: a session that is
// made and executes, and a Nomad job that is dispatched.
func (m *bench) create() {
	const rounds = 60
	// A start that takes longer is not worth the wait.
	const most = 2 * time.Second
	var timing spans
	quarter := m.createToResult("session of 0.25 cores", 0, &timing)
	whole := m.createToResult("session of 1 core", 1, new(spans))
	raw := m.dispatchToResult("dispatch, raw_exec", "raw_exec", false)
	silent := m.dispatchToResult("dispatch, raw_exec without logs", "raw_exec", true)
	exec := m.dispatchToResult("dispatch, exec", "exec", false)

	contenders := []*contender{quarter, whole, raw, silent}
	m.race(2, 1, contenders...)
	m.race(1, 1, exec)
	note := ""
	if first := exec.took[0]; first > most {
		note = fmt.Sprintf("\n  dispatch, exec: left out, one took %.1f s: Nomad makes a chroot with all of the host's /usr by default", first.Seconds())
	} else {
		contenders = append(contenders, exec)
	}
	for _, c := range contenders {
		c.took = nil
	}
	timing = spans{}

	m.race(rounds, 1, contenders...)
	m.table("Create to first result, one at a time, none in advance", raw, contenders...)
	fmt.Printf("  session of 0.25 cores; Server-Timing, p50: %s%s\n", &timing, note)
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
