// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"

	"github.com/buntime/buntime/driver"
)

// player is a session of a node that exists as figures only.
type player struct {
	credit
	quota float64
	wants func(second int, favoured bool) float64 // cores in this second

	favoured, got float64 // seconds of CPU time, in favour and in all
	inFavour      int     // seconds
}

// play lets sessions share the cores of a node for so many seconds by their weights.
func play(cores, seconds int, players ...*player) {
	for second := range seconds {
		got, open := make([]float64, len(players)), make([]bool, len(players))
		for i := range open {
			open[i] = true
		}
		left := float64(cores)
		for left > 1e-9 {
			total := 0.0
			for i, p := range players {
				if open[i] {
					total += p.weight()
				}
			}
			if total == 0 {
				break
			}
			given := 0.0
			for i, p := range players {
				if !open[i] {
					continue
				}
				want := min(p.quota, p.wants(second, !p.spent))
				more := left * p.weight() / total
				if got[i]+more >= want {
					more, open[i] = max(want-got[i], 0), false
				}
				got[i] += more
				given += more
			}
			left -= given
		}
		uses := make([]use, len(players))
		for i, p := range players {
			if !p.spent {
				p.favoured += got[i]
				p.inFavour++
			}
			p.got += got[i]
			uses[i] = use{&p.credit, time.Duration(got[i] * float64(time.Second)), time.Second}
		}
		settle(cores, uses)
	}
}

func (p *player) weight() float64 {
	if p.spent {
		return 1
	}
	return favour
}

func newPlayer(quota float64, wants func(second int, favoured bool) float64) *player {
	return &player{credit: credit{left: favourBurst}, quota: quota, wants: wants}
}

func always(cores float64) func(int, bool) float64 { return func(int, bool) float64 { return cores } }

// TestFavourIsBounded: however a session spreads what it computes, it has no
// more in favour than its credit, but for what it uses until that is seen.
func TestFavourIsBounded(t *testing.T) {
	const seconds, quota = 1000, 1.0
	most := favourBurst.Seconds() + favourRate*seconds + quota*favourEvery.Seconds()
	for name, wants := range map[string]func(int, bool) float64{
		"all":            always(quota),
		"0.84 of it":     always(0.84 * quota), // what threads that take turns got before
		"just above":     always(favourRate * 1.01),
		"only in favour": func(_ int, favoured bool) float64 { return map[bool]float64{true: quota}[favoured] },
		"every other":    func(second int, _ bool) float64 { return float64(second % 2) },
		"every tenth":    func(second int, _ bool) float64 { return map[bool]float64{true: quota}[second%10 == 0] },
		"by chance":      func(int, bool) float64 { return math.Pow(rand.Float64(), 4) },
	} {
		p := newPlayer(quota, wants)
		play(2, seconds, p)
		if p.favoured > most {
			t.Errorf("%s: %.1f s of CPU time in favour in %d s, want %.1f at most (of %.1f s)", name, p.favoured, seconds, most, p.got)
		}
	}
}

func TestFavourOfOneWhoComputes(t *testing.T) {
	p := newPlayer(1, always(0.84))
	play(2, 2, p)
	if !p.spent {
		t.Error("it has favour after 1.7 s of CPU time in 2 s")
	}
	play(2, 600, p)
	if p.inFavour > 2 {
		t.Errorf("it computes on and is in favour for %d s", p.inFavour)
	}
	p.wants = always(0)
	before := p.inFavour
	for n := 1; ; n++ {
		play(2, 1, p)
		if !p.spent {
			if n < 5 || n > 30 {
				t.Errorf("it is in favour again after %d s", n)
			}
			break
		}
		if n == 60 {
			t.Fatal("it rests, and gets no favour")
		}
	}
	if p.inFavour != before {
		t.Error("in favour while it was not")
	}
}

func TestFavourOfShortExecutions(t *testing.T) {
	// 40 ms each second, and now and then a longer one.
	p := newPlayer(1, func(second int, _ bool) float64 {
		if second%60 == 59 {
			return 0.4
		}
		return 0.04
	})
	play(2, 600, p)
	if p.inFavour != 600 {
		t.Errorf("in favour for %d s of 600", p.inFavour)
	}
}

// TestFavourBesideManyWhoCompute: 50 sessions that want a quarter of a core each
// have less of 2 cores than the credit that one alone earns.
func TestFavourBesideManyWhoCompute(t *testing.T) {
	players := []*player{newPlayer(1, always(0.03))}
	for range 50 {
		players = append(players, newPlayer(0.25, always(1)))
	}
	short := players[0]
	play(2, 15, players...)
	begun := short.got
	busy := 0
	for _, p := range players[1:] {
		if !p.spent {
			busy++
		}
		p.inFavour = 0
	}
	if busy > 0 {
		t.Errorf("%d of 50 that compute are in favour after 15 s", busy)
	}
	short.inFavour = 0
	play(2, 300, players...)
	for _, p := range players[1:] {
		if p.inFavour > 0 {
			t.Fatalf("one that computes was in favour for %d s", p.inFavour)
		}
	}
	if short.inFavour != 300 {
		t.Errorf("who executes something short was in favour for %d s of 300", short.inFavour)
	}
	if got := short.got - begun; got < 0.99*300*0.03 {
		t.Errorf("it got %.1f s of CPU time, and wanted %.1f", got, 300*0.03)
	}
}

// TestFavourOfTurns: new processes all the time, none of which computes for long.
func TestFavourOfTurns(t *testing.T) {
	f := newFixtureOf(t, fixtureOptions{change: func(task *driver.Task) { task.Limits.CPUShares = 100 }})
	i := f.instance.(*instance)
	wait := func(what string, want int64) {
		t.Helper()
		for end := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // no event
			got, ok := hasWeight(t, i, want)
			if ok {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("weight %s: %s, not that of %d shares, for a minute", what, got, want)
			}
		}
	}
	wait("at first", sharesOf(f.task, true))
	r := f.run(t, map[string]any{"command": `(while :; do timeout 0.3 sh -c 'while :; do :; done'; sleep 0.1; done) >/dev/null 2>&1 &`})
	if r.ExitCode != 0 {
		t.Fatalf("%+v", r)
	}
	wait("of one who computes in turns", sharesOf(f.task, false))
}

// hasWeight reads a session's weight and tells whether it is that of so many shares.
func hasWeight(t *testing.T, i *instance, shares int64) (string, bool) {
	t.Helper()
	views := i.box.Group().Views()
	file, want := filepath.Join(filepath.Dir(views["cpu"]), "cpu.shares"), uint64(shares)
	if v2 := views[""]; v2 != "" {
		file, want = filepath.Join(filepath.Dir(v2), "cpu.weight"), cgroups.ConvertCPUSharesToCgroupV2Value(want)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := strings.TrimSpace(string(text))
	return got, got == strconv.FormatUint(want, 10)
}
