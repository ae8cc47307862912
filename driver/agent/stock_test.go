// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"runtime"
	"testing"
	"time"
)

// TestRunnersInRush: while more executions begin on the node than it can run, a session
// does not replace its runners, but for so long only; one that others use now and then
// is no rush.
func TestRunnersInRush(t *testing.T) {
	k, begin := newStock(0), time.Now()
	r := &runners{stock: k}
	r.sequence.ended(begin)
	for i := range 20 { // others, 10 a second
		k.rush.begun(begin.Add(time.Duration(i-20) * 100 * time.Millisecond))
	}
	if !r.early(begin) || r.early(begin.Add(calm)) {
		t.Error("it does not wait for just its own calm beside others who use the node now and then")
	}
	for range 20 * runtime.GOMAXPROCS(0) {
		k.rush.begun(begin)
	}
	if !r.early(begin.Add(calm)) || !r.early(begin.Add(5*calm)) {
		t.Error("it does not wait in a rush")
	}
	if r.early(begin.Add(nodePatience / 2)) {
		t.Error("it waits for long after a rush")
	}
	for range 200 * runtime.GOMAXPROCS(0) {
		k.rush.begun(begin.Add(nodePatience))
	}
	if r.early(begin.Add(nodePatience)) {
		t.Error("it waits for as long as the rush lasts")
	}
}
