// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import "time"

const (
	// fewRunners are ready in a session of which nothing is known: one for what
	// comes, one for what comes right behind it.
	fewRunners = 2
	// manyRunners are ready at most: for a sequence of ten, and one behind it.
	manyRunners = 12
	// sequenceGap is the longest pause within a sequence. A runner takes 10 ms of
	// one core's time to start, so with longer ones two keep up with anybody.
	sequenceGap = 250 * time.Millisecond
	// forgetAfter is how long without code a session is ready for half as much.
	forgetAfter = 30 * time.Second
)

// sequence learns how many executions a session begins without a pause, and so how
// many runners it should have ready. It is all there is to that, and has no clock.
type sequence struct {
	now  int // executions of the present sequence
	most int // of the longest that is not forgotten
	last time.Time
}

// begun notes that an execution begins, and ended that one ends.
func (q *sequence) begun(at time.Time) {
	q.forget(at)
	if at.Sub(q.last) > sequenceGap {
		q.now = 0
	}
	q.now++
	q.most = max(q.most, q.now)
	q.last = at
}

func (q *sequence) ended(at time.Time) { q.last = at }

// forget takes into account that nothing came until at.
func (q *sequence) forget(at time.Time) { q.most >>= min(uint(max(at.Sub(q.last), 0)/forgetAfter), 31) }

// want is how many runners should be ready at a time.
func (q *sequence) want(at time.Time) int {
	seen := *q
	seen.forget(at)
	return min(max(seen.most+1, fewRunners), manyRunners)
}

// changes is after how long without code that becomes fewer; 0 is never.
func (q *sequence) changes(at time.Time) time.Duration {
	if q.want(at) == fewRunners {
		return 0
	}
	return forgetAfter - at.Sub(q.last)%forgetAfter
}
