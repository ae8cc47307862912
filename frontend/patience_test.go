// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend_test

import (
	"testing"
	"time"
)

// TestRefillWaits: while slots are being taken none are made, and once it is quiet all
// are that were taken.
func TestRefillWaits(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		_, before := w.scheduler.Counts()
		for range 3 {
			w.create(t, "a")
			time.Sleep(200 * time.Millisecond)
		}
		if _, now := w.scheduler.Counts(); now != before {
			t.Errorf("%d slots were made beside the creates", now-before)
		}
		time.Sleep(2 * time.Second)
		if ready, _ := w.slots(t); len(ready) < 3 {
			t.Errorf("%d slots are ready", len(ready))
		}
		if starts, _ := w.scheduler.Counts(); starts != 0 {
			t.Errorf("%d creates found no slot", starts)
		}
	})
}

// TestRefillDoesNotWaitForEver: where it is never quiet slots are made all the same.
func TestRefillDoesNotWaitForEver(t *testing.T) {
	withPool(t, func(t *testing.T, w *world) {
		_, before := w.scheduler.Counts()
		for range 50 { // five seconds
			w.create(t, "a")
			time.Sleep(100 * time.Millisecond)
		}
		if _, now := w.scheduler.Counts(); now < before+10 {
			t.Errorf("%d slots were made in five seconds of creates", now-before)
		}
	})
}
