// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package swift

import (
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/buntime/buntime/frontend"
)

// BenchmarkScale measures what many sleeping sessions ask of one container: three
// small objects a session are put, and the sessions listed as the reaper does. SCALE
// is the number of sessions, of which one in ten is put here. It wants -benchtime 1x.
func BenchmarkScale(b *testing.B) {
	b.ReportMetric(0, "ns/op") // leaves it out
	sessions := 200
	if text := os.Getenv("SCALE"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 10 {
			b.Fatalf("SCALE is a number from 10, not %q", text)
		}
		sessions = n / 10
	}
	s, err := New(config(server.AuthURL()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	begin := time.Now()
	var work errgroup.Group
	work.SetLimit(16)
	expires := time.Now().Add(time.Hour)
	for range sessions {
		id := frontend.NewID()
		for i := range 3 {
			work.Go(func() error {
				return s.Put(b.Context(), fmt.Sprintf("%s/1.1.attempt/%d", id, i), make([]byte, 4096), expires)
			})
		}
	}
	if err := work.Wait(); err != nil {
		b.Fatal(err)
	}
	fmt.Printf("put of 3 objects each for %d sessions, 16 at a time: %.0f/s\n", sessions, float64(3*sessions)/time.Since(begin).Seconds())
	// The container hears of some objects only later.
	for _, beginning := range []string{"", "ses_a", "ses_ab"} {
		for range 3 {
			begin, n := time.Now(), 0
			for _, err := range s.Folders(b.Context(), beginning) {
				if err != nil {
					b.Fatal(err)
				}
				n++
			}
			fmt.Printf("list of %d sessions from %q: %.1f ms\n", n, beginning, time.Since(begin).Seconds()*1000)
		}
	}
}
