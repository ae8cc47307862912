// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"fmt"
	"net/netip"
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

// reportAs is report for one of several in a benchmark.
func (l *timings) reportAs(b *testing.B, name string) {
	slices.Sort(l.all)
	b.ReportMetric(l.median(), name+"-ms-p50")
	b.ReportMetric(float64(l.all[len(l.all)*99/100])/float64(time.Millisecond), name+"-ms-p99")
}

func (l *timings) median() float64 {
	slices.Sort(l.all)
	return float64(l.all[len(l.all)/2]) / float64(time.Millisecond)
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

// BenchmarkCreateByMode makes a sandbox's network of each mode in turn.
func BenchmarkCreateByMode(b *testing.B) {
	m := start(b, Config{})
	policies := []struct {
		name   string
		policy Policy
	}{
		{"none", Policy{Mode: ModeNone}},
		{"internet", Policy{Mode: ModeInternet}},
		{"allow-names", policy(b, "example.com", "*.example.org")},
		{"allow-8-ranges", policy(b, "192.0.2.0/28", "192.0.2.16/28", "192.0.2.32/28", "192.0.2.48/28", "8.8.8.8", "8.8.4.4", "1.1.1.0/24", "9.9.9.9")},
	}
	create, remove := make([]timings, len(policies)), make([]timings, len(policies))
	for slot := range b.N {
		for i, p := range policies {
			var n *Network
			create[i].measure(func() {
				var err error
				if n, err = m.Create(context.Background(), slot, p.policy); err != nil {
					b.Fatal(err)
				}
			})
			remove[i].measure(func() {
				n.Destroy()
				m.removal.Wait()
			})
		}
	}
	for i, p := range policies {
		create[i].reportAs(b, p.name)
		b.ReportMetric(remove[i].median(), p.name+"-destroy-ms")
	}
}

// BenchmarkAdmit opens the address of an answer, alone and with thousands of
// others in the table.
func BenchmarkAdmit(b *testing.B) {
	for _, others := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("others=%d", others), func(b *testing.B) {
			m := start(b, Config{})
			n, err := m.Create(context.Background(), 0, policy(b, "example.com"))
			if err != nil {
				b.Fatal(err)
			}
			b.Cleanup(n.Destroy)
			var list []opening
			for i := range others {
				list = append(list, opening{n.link, netip.PrefixFrom(fromV4(0x08000000+uint32(i)), 32), time.Hour})
			}
			if err := m.firewall.open(list, nil); err != nil {
				b.Fatal(err)
			}
			var fresh, known timings
			for i := range b.N {
				one := []netip.Addr{fromV4(0x09000000 + uint32(i))}
				delete(n.opened, fromV4(0x09000000+uint32(i-openedMax/2)))
				admit := func() {
					if err := n.admit(one, time.Minute); err != nil {
						b.Fatal(err)
					}
				}
				fresh.measure(admit)
				known.measure(admit)
			}
			fresh.reportAs(b, "fresh")
			known.reportAs(b, "known")
		})
	}
}

// BenchmarkConnect connects to a server outside by each policy in turn.
func BenchmarkConnect(b *testing.B) {
	server := serveTCP(b, internet, webAddress+":80").String()
	m := start(b, Config{ConnRate: 1 << 20, ConnBurst: 1 << 20, ConnMax: 1 << 20})
	policies := []struct {
		name   string
		policy Policy
	}{
		{"internet", Policy{Mode: ModeInternet}},
		{"allow-address", policy(b, webAddress)},
		{"allow-everything", policy(b, "0.0.0.0/0")}, // the last of 33 look-ups
	}
	connect := make([]timings, len(policies))
	var networks []*Network
	for slot, p := range policies {
		n, err := m.Create(context.Background(), slot, p.policy)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(n.Destroy)
		networks = append(networks, n)
	}
	for range b.N {
		for i, n := range networks {
			connect[i].measure(func() {
				conn, err := n.DialContext(context.Background(), "tcp", server)
				if err != nil {
					b.Fatal(err)
				}
				conn.Close()
			})
		}
	}
	for i, p := range policies {
		connect[i].reportAs(b, p.name)
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
