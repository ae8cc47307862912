// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package report

import (
	"math"
	"slices"
	"time"
)

// Board is what ComputeSDK's benchmarks (github.com/computesdk/benchmarks) make
// of the times to interactive of one participant: of those that succeeded, less
// the fastest and the slowest 5 %.
type Board struct {
	Median, P95, P99 time.Duration
	Success          float64 // 0 to 1
	Score            float64 // 0 to 100
}

// NewBoard is of so many tries, of which these were successful.
func NewBoard(took []time.Duration, tries int) Board {
	if len(took) == 0 || tries == 0 {
		return Board{}
	}
	kept := slices.Sorted(slices.Values(took))
	cut := len(kept) * 5 / 100
	kept = kept[cut : len(kept)-cut]
	rank := func(p float64) time.Duration { return kept[max(0, int(math.Ceil(p*float64(len(kept))))-1)] }
	b := Board{
		Median: (kept[(len(kept)-1)/2] + kept[len(kept)/2]) / 2, P95: rank(0.95), P99: rank(0.99),
		Success: float64(len(took)) / float64(tries),
	}
	// What takes 10 s or more is worth nothing.
	worth := func(d time.Duration) float64 { return max(0, 100*(1-d.Seconds()/10)) }
	b.Score = b.Success * (0.60*worth(b.Median) + 0.25*worth(b.P95) + 0.15*worth(b.P99))
	return b
}
