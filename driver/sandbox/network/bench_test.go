// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

// timings collects durations and reports their median and 99th percentile.
type timings struct {
	mu  sync.Mutex
	all []time.Duration
}

func (l *timings) measure(f func()) {
	began := time.Now()
	f()
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, took)
}

func (l *timings) report(b *testing.B) {
	slices.Sort(l.all)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(l.all[len(l.all)/2]), "ms-p50")
	b.ReportMetric(ms(l.all[len(l.all)*99/100]), "ms-p99")
}

func mustCreate(b *testing.B, m *Manager, slot int) *Network {
	n, err := m.Create(context.Background(), slot, Policy{Mode: ModeInternet})
	if err != nil {
		b.Error(err)
		b.FailNow()
	}
	return n
}

// BenchmarkCreate makes sandboxes' networks one after the other. With ready,
// the pool has time to fill in between.
func BenchmarkCreate(b *testing.B) {
	for _, ready := range []int{0, 4} {
		b.Run(fmt.Sprintf("ready=%d", ready), func(b *testing.B) {
			m := start(b, Config{Ready: ready})
			var create timings
			for slot := range b.N {
				if ready > 0 {
					for len(m.ready) < cap(m.ready) {
						time.Sleep(100 * time.Microsecond)
					}
				}
				create.measure(func() { b.Cleanup(mustCreate(b, m, slot).Destroy) })
			}
			create.report(b)
		})
	}
}

// BenchmarkCreateParallel makes 50 at once; an operation is all of them.
func BenchmarkCreateParallel(b *testing.B) {
	m := start(b, Config{})
	var create timings
	for range b.N {
		var made [50]*Network
		var wait sync.WaitGroup
		for slot := range made {
			wait.Go(func() {
				create.measure(func() { made[slot] = mustCreate(b, m, slot) })
			})
		}
		wait.Wait()
		b.StopTimer()
		for _, n := range made {
			n.Destroy()
		}
		m.removal.Wait()
		b.StartTimer()
	}
	create.report(b)
}

// BenchmarkRemove is what Destroy does in the background.
func BenchmarkRemove(b *testing.B) {
	m := start(b, Config{})
	var remove timings
	for slot := range b.N {
		n := mustCreate(b, m, slot)
		remove.measure(func() {
			n.Destroy()
			m.removal.Wait()
		})
	}
	remove.report(b)
}

// BenchmarkDial connects to an app on the sandbox's loopback and closes.
func BenchmarkDial(b *testing.B) {
	m := start(b, Config{})
	n := mustCreate(b, m, 0)
	b.Cleanup(n.Destroy)
	server := serveTCP(b, n.ns, "127.0.0.1:8080").String()
	var dial timings
	for b.Loop() {
		dial.measure(func() {
			conn, err := n.DialContext(context.Background(), "tcp", server)
			if err != nil {
				b.Fatal(err)
			}
			conn.Close()
		})
	}
	dial.report(b)
}

// BenchmarkListening lists the sockets of a sandbox with one app.
func BenchmarkListening(b *testing.B) {
	m := start(b, Config{})
	n := mustCreate(b, m, 0)
	b.Cleanup(n.Destroy)
	serveTCP(b, n.ns, "127.0.0.1:8080")
	for b.Loop() {
		if _, err := n.Listening(); err != nil {
			b.Fatal(err)
		}
	}
}
