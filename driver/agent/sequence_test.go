// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"testing"
	"time"
)

// TestSequenceWant gives times of executions and wants numbers of runners.
func TestSequenceWant(t *testing.T) {
	const ms, s = time.Millisecond, time.Second
	row := func(n int, gap time.Duration) (out []time.Duration) {
		for i := range n {
			out = append(out, time.Duration(i)*gap)
		}
		return out
	}
	begin := time.Now()
	for _, c := range []struct {
		name  string
		begun []time.Duration
		at    time.Duration
		want  int
	}{
		{"nothing", nil, 0, 2},
		{"one", row(1, 0), ms, 2},
		{"two in a row", row(2, 5*ms), 10 * ms, 3},
		{"two apart", row(2, s), 2 * s, 2},
		{"ten apart", row(10, s), 10 * s, 2},
		{"ten in a row", row(10, 5*ms), s, 11},
		{"ten with pauses within a sequence", row(10, 200*ms), 3 * s, 11},
		{"a hundred in a row", row(100, 5*ms), s, 12},
		{"one long after ten", append(row(10, 5*ms), 20*s), 21 * s, 11},
		{"half a minute after ten", row(10, 5*ms), 31 * s, 6},
		{"a minute after ten", row(10, 5*ms), 61 * s, 3},
		{"an hour after ten", row(10, 5*ms), time.Hour, 2},
		{"one, a minute after ten", append(row(10, 5*ms), 61*s), 62 * s, 3},
	} {
		var q sequence
		for _, d := range c.begun {
			q.begun(begin.Add(d))
			q.ended(begin.Add(d + 3*ms))
		}
		if got := q.want(begin.Add(c.at)); got != c.want {
			t.Errorf("%s: %d runners, want %d", c.name, got, c.want)
		}
		if q.changes(begin.Add(c.at)) == 0 != (c.want == fewRunners) {
			t.Errorf("%s: it changes after %v", c.name, q.changes(begin.Add(c.at)))
		}
	}
}

func TestRefunds(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name    string
		starts  []time.Duration
		portion time.Duration
		given   int
	}{
		{"no quota", []time.Duration{9 * ms, 9 * ms}, 0, 0},
		{"less than a portion", []time.Duration{9 * ms, 9 * ms}, 25 * ms, 0},
		{"a portion", []time.Duration{9 * ms, 9 * ms, 9 * ms}, 25 * ms, 1},
		{"never more than was taken", []time.Duration{9 * ms, 9 * ms, 9 * ms, 9 * ms, 9 * ms}, 25 * ms, 1},
		{"starts that somebody has made long", []time.Duration{time.Second, time.Second, time.Second}, 25 * ms, 2},
	} {
		var f refunds
		given := 0
		for _, took := range c.starts {
			if f.add(took, c.portion) {
				given++
			}
		}
		if given != c.given {
			t.Errorf("%s: given %d times, want %d", c.name, given, c.given)
		}
	}
}
