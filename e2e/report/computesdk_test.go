// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package report_test

import (
	"math"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/report"
)

// TestBoard has the figures that ComputeSDK's own code makes of the same times.
func TestBoard(t *testing.T) {
	var took []time.Duration
	for i := range 100 {
		took = append(took, time.Duration(100-i)*10*time.Millisecond) // 10 to 1000 ms
	}
	b := report.NewBoard(took, 200)
	// Of 60 to 950 ms: (500+510)/2, the 86th and the 90th of 90.
	if b.Median != 505*time.Millisecond || b.P95 != 910*time.Millisecond || b.P99 != 950*time.Millisecond || b.Success != 0.5 {
		t.Errorf("%+v", b)
	}
	if want := 0.5 * (0.6*94.95 + 0.25*90.9 + 0.15*90.5); math.Abs(b.Score-want) > 1e-9 {
		t.Errorf("score %v, not %v", b.Score, want)
	}
	if b := report.NewBoard([]time.Duration{11 * time.Second}, 1); b.Score != 0 || b.P99 != 11*time.Second {
		t.Errorf("over the ceiling: %+v", b)
	}
	if b := report.NewBoard(nil, 3); b != (report.Board{}) {
		t.Errorf("of nothing: %+v", b)
	}
}
