// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package nomad_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/testserver"
)

// BenchmarkScale measures what awake sessions ask of a Nomad server, with the
// product's own job: registrations, evaluations (which place nothing, for there is no
// client), memory, the reaper's list, and purges. SCALE is the number of sessions, of
// which one in ten is awake here. It prints a table and wants -benchtime 1x.
func BenchmarkScale(b *testing.B) {
	b.ReportMetric(0, "ns/op") // leaves it out
	n := 1000
	if text := os.Getenv("SCALE"); text != "" {
		all, err := strconv.Atoi(text)
		if err != nil || all < 1000 {
			b.Fatalf("SCALE is a number from 1000, not %q", text)
		}
		n = all / 10
	}
	address, pid := testserver.NomadProcess(b, true)
	s, client := scheduler(b, address)
	var all []*frontend.Session
	if err := s.Start(b.Context(), frontendtest.Session("warm-up")); err != nil {
		b.Fatal(err)
	}
	before, cpu := used(b, pid)
	for _, c := range []struct{ n, atATime int }{{n / 10, 1}, {n / 10, 16}, {n - n/10*2, 64}} {
		some := make([]*frontend.Session, c.n)
		for i := range some {
			some[i] = frontendtest.Session("bench")
		}
		all = append(all, some...)
		each(b, "register", some, c.atATime, func(sess *frontend.Session) error { return s.Start(b.Context(), sess) })
	}
	after, now := used(b, pid)
	fmt.Printf("%-28s %.0f MB before, %.0f after %d jobs: %.1f KB a job; CPU %.1f s, %.2f ms a job\n", "Nomad server, resident",
		before, after, n, (after-before)*1024/float64(n), now-cpu, (now-cpu)*1000/float64(n))
	for range 3 {
		_, cpu := used(b, pid)
		begin := time.Now()
		jobs, err := s.Jobs(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		took := time.Since(begin)
		_, now := used(b, pid)
		fmt.Printf("%-28s %.0f ms, Nomad's CPU %.0f ms\n", fmt.Sprintf("list of %d jobs", len(jobs)), took.Seconds()*1000, (now-cpu)*1000)
	}
	each(b, "purge", all, 16, func(sess *frontend.Session) error { return s.Stop(b.Context(), sess.ID, sess.Epoch) })
	// What Nomad keeps of a life that is over, for batch_eval_gc_threshold.
	left := func(what string) {
		evals, _, err := client.Evaluations().List(nil)
		if err != nil {
			b.Fatal(err)
		}
		now, _ := used(b, pid)
		fmt.Printf("%-28s %d evaluations of %d jobs, %.0f MB resident\n", what, len(evals), n, now)
	}
	left("after the purge")
	if err := client.System().GarbageCollect(); err != nil {
		b.Fatal(err)
	}
	time.Sleep(2 * time.Second) // it answers before it is done
	left("after a collection")
}

// each does something with sessions, some at a time, and prints how long each took.
func each(b *testing.B, what string, sessions []*frontend.Session, atATime int, do func(*frontend.Session) error) {
	b.Helper()
	took := make([]time.Duration, len(sessions))
	var work errgroup.Group
	work.SetLimit(atATime)
	start := time.Now()
	for i, sess := range sessions {
		work.Go(func() error {
			begin := time.Now()
			defer func() { took[i] = time.Since(begin) }()
			return do(sess)
		})
	}
	if err := work.Wait(); err != nil {
		b.Fatal(err)
	}
	all := time.Since(start)
	slices.Sort(took)
	at := func(p int) float64 { return took[min(len(took)-1, len(took)*p/100)].Seconds() * 1000 }
	fmt.Printf("%-28s n %d  p50 %.2f  p95 %.2f  p99 %.2f  max %.2f ms  %.0f/s\n", fmt.Sprintf("%s, %d at a time", what, atATime),
		len(took), at(50), at(95), at(99), at(100), float64(len(took))/all.Seconds())
}

// used is what a process holds, in MB, and its CPU time in seconds.
func used(b *testing.B, pid int) (resident, cpu float64) {
	b.Helper()
	read := func(name string) []string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
		if err != nil {
			b.Fatal(err)
		}
		return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	}
	number := func(text string) float64 {
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			b.Fatal(err)
		}
		return n
	}
	stat := read("stat") // from the third field on, in ticks of 10 ms
	return number(read("statm")[1]) * float64(os.Getpagesize()) / (1 << 20), (number(stat[11]) + number(stat[12])) / 100
}
