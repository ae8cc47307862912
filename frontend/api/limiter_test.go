// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"strconv"
	"testing"
	"time"
)

// TestLimiterIsBounded: addresses without end are counted together in the end,
// and keys that were there before are still counted each for itself.
func TestLimiterIsBounded(t *testing.T) {
	var l limiter
	now := time.Now()
	l.take("key", 1, 10, now)
	for i := range 2 * mostNames {
		l.take(strconv.Itoa(i), 1, 10, now)
	}
	if len(l.used) > mostNames+1 {
		t.Errorf("%d names are kept", len(l.used))
	}
	if at := l.take("another", 1, 10, now); !at.over() {
		t.Errorf("one more of the crowd: %+v", at)
	}
	if at := l.take("key", 1, 10, now); at.used != 2 {
		t.Errorf("a key from before: %+v", at)
	}
	if at := l.take("another", 1, 10, now.Add(2*window)); at.over() {
		t.Errorf("a window later: %+v", at)
	}
}
