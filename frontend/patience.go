// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import "time"

const (
	// refillQuiet is for how long nobody has to take a slot before others are made: to
	// make one takes ten times the CPU time of what a new session is first asked for,
	// and those who come together would all wait for it. It is some times as long as
	// the first answers of a burst take.
	refillQuiet = 500 * time.Millisecond
	// refillPatience is how long slots may be missing before they are made although
	// there is no such quiet.
	refillPatience = 2 * time.Second
)

// patience says when slots are made that are missing. It has no clock: times must not
// go back.
type patience struct {
	taken time.Time // when one was seen to be taken last
	since time.Time // since when some are missing; zero if none are
}

// wait is how long to leave the nodes alone yet.
func (p *patience) wait(now time.Time, missing bool) time.Duration {
	if !missing {
		p.since = time.Time{}
		return 0
	}
	if p.since.IsZero() {
		p.since = now
	}
	return max(0, min(p.taken.Add(refillQuiet).Sub(now), p.since.Add(refillPatience).Sub(now)))
}
