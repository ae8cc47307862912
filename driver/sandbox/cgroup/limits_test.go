// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"context"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMemoryLimit(t *testing.T) {
	eachLayout(t, Limits{Memory: 128 << 20}, func(t *testing.T, g *Group) {
		victim, bystander := newExecution(t, g, "victim"), newExecution(t, g, "bystander")
		start(t, bystander, "sleep")
		_ = start(t, victim, "bomb").Wait()
		st, err := victim.Stats()
		if err != nil || st.OOMKills == 0 || st.MemoryPeak < 64<<20 || st.MemoryPeak > 128<<20 {
			t.Errorf("victim: %+v, %v", st, err)
		}
		st, err = bystander.Stats()
		if err != nil || st.OOMKills != 0 || st.MemoryPeak == 0 {
			t.Errorf("bystander: %+v, %v", st, err)
		}
		if pids, err := bystander.Pids(); err != nil || len(pids) != 1 {
			t.Errorf("bystander's processes: %v, %v", pids, err)
		}
		st, err = g.Stats()
		if err != nil || st.OOMKills == 0 || st.MemoryAnon == 0 || st.MemoryPeak < 64<<20 {
			t.Errorf("session: %+v, %v", st, err)
		}
	})
}

func TestPidsLimit(t *testing.T) {
	eachLayout(t, Limits{Pids: 40}, func(t *testing.T, g *Group) {
		p := start(t, newExecution(t, g, "a"), "fork")
		if got := p.line(t); got != "true" {
			t.Errorf("not EAGAIN")
		}
		st, err := g.Stats()
		if err != nil || st.Pids < 35 || st.Pids > 40 {
			t.Errorf("session: %+v, %v", st, err)
		}
		if err := g.SetLimits(Limits{Pids: 80}); err != nil {
			t.Error(err)
		}
		p = start(t, newExecution(t, g, "b"), "fork")
		if got := p.line(t); got != "true" {
			t.Errorf("not EAGAIN after the limit was raised")
		}
	})
}

// TestQuota goes by what the kernel accounts and not by the clock, which other
// tests on the machine can slow down.
func TestQuota(t *testing.T) {
	const cores = 0.25
	eachLayout(t, Limits{CPUs: cores}, func(t *testing.T, g *Group) {
		p := start(t, newExecution(t, g, "burst"), "burst")
		calm := 0
		for round := 0; calm < 3 && round < 40; round++ {
			// Two idle periods give a session its whole burst back.
			time.Sleep(2 * cpuPeriod * time.Microsecond)
			before := stats(t, g)
			fmt.Fprintln(p.in)
			p.line(t)
			after := stats(t, g)
			// A virtual machine that its host keeps waiting takes that for CPU time
			// of whoever ran.
			if after.CPU-before.CPU > 100*time.Millisecond {
				continue
			}
			calm++
			if after.ThrottledPeriods != before.ThrottledPeriods {
				t.Errorf("50 ms of CPU time were throttled: %+v, then %+v", before, after)
			}
		}
		if calm == 0 {
			t.Error("never got its 50 ms of CPU time for less than 100")
		}
		before := stats(t, g)
		e := newExecution(t, g, "spin")
		start(t, e, "spin")
		// As long as it takes: beside other work the session may not even get its
		// quota in some periods.
		err := until(t.Context(), "five throttled periods", func() (bool, error) {
			return stats(t, g).ThrottledPeriods >= before.ThrottledPeriods+5, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		after := stats(t, g)
		n := after.Periods - before.Periods
		// One for the burst, and one for each CPU's slice that is handed out ahead.
		most := time.Duration(float64(n+2) * cores * cpuPeriod * float64(time.Microsecond))
		if used := after.CPU - before.CPU; used > most {
			t.Errorf("%v of CPU time in %d periods, more than %v: %+v", used, n, most, after)
		}
		if after.Throttled == 0 {
			t.Error("no throttled time")
		}
		st, err := e.Stats()
		if err != nil || st.CPU < (after.CPU-before.CPU)/2 || st.CPUUser == 0 {
			t.Errorf("execution: %+v, %v", st, err)
		}
	})
}

func stats(t *testing.T, g *Group) Stats {
	t.Helper()
	st, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestKillForkBomb(t *testing.T) {
	eachLayout(t, Limits{Pids: 300, Memory: 1 << 30}, func(t *testing.T, g *Group) {
		calm := newExecution(t, g, "calm")
		start(t, calm, "sleep")
		for _, kill := range []func(*Execution, context.Context) error{
			(*Execution).Kill,
			func(_ *Execution, ctx context.Context) error { return g.Kill(ctx) },
			func(_ *Execution, ctx context.Context) error { return g.Destroy(ctx) },
		} {
			// Those killed before count until whoever has them for children by now sees it.
			err := until(t.Context(), "few processes", func() (bool, error) {
				st, err := g.Stats()
				return st.Pids < 100, err
			})
			if err != nil {
				t.Fatal(err)
			}
			e := newExecution(t, g, "bomb")
			start(t, e, "forkbomb")
			err = until(t.Context(), "many processes", func() (bool, error) {
				pids, err := e.Pids()
				return len(pids) > 100, err
			})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			begin := time.Now()
			if err := kill(e, ctx); err != nil {
				t.Fatal(err)
			}
			t.Logf("killed in %v", time.Since(begin))
			if empty, err := isEmpty(e.kill); !empty || err != nil {
				t.Errorf("not empty: %v", err)
			}
			if err := e.Remove(ctx); err != nil {
				t.Error(err)
			}
		}
	})
}

func TestKillSparesOthers(t *testing.T) {
	eachLayout(t, Limits{}, func(t *testing.T, g *Group) {
		a, b := newExecution(t, g, "a"), newExecution(t, g, "b")
		pa, pb := start(t, a, "sleep"), start(t, b, "sleep")
		if err := a.Kill(t.Context()); err != nil {
			t.Fatal(err)
		}
		_ = pa.Wait()
		if err := a.Remove(t.Context()); err != nil {
			t.Error(err)
		}
		if err := a.Kill(t.Context()); err != nil {
			t.Errorf("Kill of what is gone: %v", err)
		}
		if err := unix.Kill(pb.Process.Pid, 0); err != nil {
			t.Errorf("the other execution: %v", err)
		}
	})
}

func TestFreeze(t *testing.T) {
	eachLayout(t, Limits{}, func(t *testing.T, g *Group) {
		p := start(t, newExecution(t, g, "a"), "server")
		addr := p.line(t)
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for range 20 {
			begin := time.Now()
			if err := g.Freeze(t.Context()); err != nil {
				t.Fatal(err)
			}
			frozen := time.Since(begin)
			if is, err := g.Frozen(); !is || err != nil {
				t.Errorf("Frozen: %v, %v", is, err)
			}
			if _, err := conn.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			if n, _ := conn.Read(make([]byte, 1)); n != 0 {
				t.Error("a frozen server answered")
			}
			begin = time.Now()
			if err := g.Thaw(); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
				t.Fatalf("read after thaw: %v", err)
			}
			t.Logf("frozen in %v, thawed to an answer in %v", frozen, time.Since(begin))
			if is, err := g.Frozen(); is || err != nil {
				t.Errorf("Frozen after Thaw: %v, %v", is, err)
			}
		}
		if err := g.Freeze(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := g.Kill(t.Context()); err != nil {
			t.Errorf("Kill of a frozen session: %v", err)
		}
	})
}

// TestRefund wants a session that has used its quota up to go on with each portion
// that is given back, and nobody to get one without a quota.
func TestRefund(t *testing.T) {
	const refunds = 40
	eachLayout(t, Limits{CPUs: 0.02}, func(t *testing.T, g *Group) {
		portion, err := g.Portion()
		if want := 5 * time.Millisecond; err != nil || portion != want {
			t.Fatalf("a portion of %v, %v, want %v", portion, err, want)
		}
		start(t, newExecution(t, g, "spin"), "spin")
		before := stats(t, g)
		err = until(t.Context(), "a throttled period", func() (bool, error) {
			return stats(t, g).ThrottledPeriods > before.ThrottledPeriods, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		before = stats(t, g)
		for range refunds {
			spent := stats(t, g).CPU
			if err := g.Refund(); err != nil {
				t.Fatal(err)
			}
			// What is not used when the next comes is lost above what may be saved up.
			err := until(t.Context(), "the portion to be spent", func() (bool, error) {
				return stats(t, g).CPU >= spent+portion/2, nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		after := stats(t, g)
		if n := after.Periods - before.Periods; n >= refunds/2 {
			t.Errorf("%v of CPU time took %d periods, as if nothing had been given back", after.CPU-before.CPU, n)
		}
		if err := g.SetLimits(Limits{}); err != nil {
			t.Fatal(err)
		}
		if portion, err := g.Portion(); err != nil || portion != 0 {
			t.Errorf("without a quota: a portion of %v, %v", portion, err)
		}
		if err := g.Refund(); err != nil {
			t.Error(err)
		}
		if portion, err := g.Portion(); err != nil || portion != 0 {
			t.Errorf("with a refund and no quota: a portion of %v, %v", portion, err)
		}
	})
}
