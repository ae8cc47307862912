// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"testing"
	"time"

	"github.com/shoenig/test/must"
)

// A task that rests is looked at less and less often, and as often as before once it
// computes.
func TestPace(t *testing.T) {
	p := pace{interval: time.Second}
	cpu := 20 * time.Millisecond // its start
	must.Eq(t, time.Second, p.next(cpu))
	for _, want := range []time.Duration{2, 4, 8, 16, 30, 30} {
		cpu += time.Millisecond // a timer of a server
		must.Eq(t, want*time.Second, p.next(cpu))
	}
	cpu += time.Second
	must.Eq(t, time.Second, p.next(cpu))
	must.Eq(t, 2*time.Second, p.next(cpu))

	slow := pace{interval: time.Minute}
	must.Eq(t, time.Minute, slow.next(0))
	must.Eq(t, time.Minute, slow.next(0), must.Sprint("never more often than Nomad asks"))
}
