// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package metrics

import (
	"testing"
	"time"
)

// BenchmarkHot is what a request of a preview, and an execution, pay for being counted.
func BenchmarkHot(b *testing.B) {
	b.Run("preview", func(b *testing.B) {
		for b.Loop() {
			Previewed(200)
		}
	})
	b.Run("execution", func(b *testing.B) {
		route := Route("POST /v1/execute")
		for b.Loop() {
			begin := time.Now()
			Taken("ready")
			Executed(true, "exit", time.Millisecond)
			route.Observe(time.Since(begin).Seconds())
		}
	})
}
