// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"fmt"
	"maps"
	"math"
	"testing"
	"time"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

// at is a time in seconds after noon.
func at(seconds float64) time.Time { return noon.Add(time.Duration(seconds * float64(time.Second))) }

// TestDemandSteady: one create after another wants as many slots as are taken until
// the first of them is made again, with a margin, and one at least.
func TestDemandSteady(t *testing.T) {
	for _, c := range []struct {
		perSecond float64
		took      time.Duration
		refills   int
		least     int
		most      int
	}{
		{0.01, 300 * time.Millisecond, 4, 1, 1},
		{0.1, 300 * time.Millisecond, 4, 1, 1},
		{1, 300 * time.Millisecond, 4, 3, 4},
		{1, 3 * time.Second, 4, 8, 9}, // 3 + 3·√3
		{5, 300 * time.Millisecond, 4, 15, 16},
		{10, 100 * time.Millisecond, 4, 30, 31},
		{14, 300 * time.Millisecond, 4, math.MaxInt32, math.MaxInt32}, // 13.3 a second is all that can be made
	} {
		t.Run(fmt.Sprint(c.perSecond, c.took), func(t *testing.T) {
			var d demand
			now := 0.0
			for ; now < 600; now += 1 / c.perSecond {
				d.arrived(1, at(now))
			}
			if got := d.want(at(now), c.took, c.refills); got < c.least || got > c.most {
				t.Errorf("want %d slots, not %d to %d", got, c.least, c.most)
			}
		})
	}
}

// TestDemandBurst: who came with many at once is expected to come again, for some
// time, and is forgotten bit by bit.
func TestDemandBurst(t *testing.T) {
	var d demand
	if got := d.want(at(0), time.Second, 4); got != 0 {
		t.Errorf("nobody has come, and %d are wanted", got)
	}
	for i := range 100 {
		d.arrived(1, at(float64(i)/1000))
	}
	for _, c := range []struct {
		after float64
		want  int
	}{{60, 86}, {300, 48}, {600, 24}, {1800, 1}, {3600, 0}} {
		if got := d.want(at(c.after), 100*time.Millisecond, 4); got < c.want-2 || got > c.want+2 {
			t.Errorf("%v s after a burst of 100: %d are wanted, not %d", c.after, got, c.want)
		}
	}
	if d.forgotten(at(60)) || !d.forgotten(at(7200)) {
		t.Error("forgotten too early or never")
	}
	// One that is smaller does not hide it.
	d.arrived(10, at(300))
	if got := d.want(at(301), 100*time.Millisecond, 4); got < 45 {
		t.Errorf("after another, smaller burst: %d", got)
	}
}

// TestDemandRegular: a shape that is wanted once is an exception.
func TestDemandRegular(t *testing.T) {
	var d demand
	d.arrived(1, at(0))
	if d.regular(at(1)) {
		t.Error("one is regular")
	}
	d.arrived(1, at(30))
	if !d.regular(at(31)) || d.regular(at(1800)) {
		t.Error("two are not regular, or are for ever")
	}
}

func TestDivide(t *testing.T) {
	a, b, c := Shape{Memory: 1024}, Shape{Memory: 2048}, Shape{Memory: 4096}
	type counts = map[Shape]int
	for _, x := range []struct {
		name              string
		wants             counts
		least, most, room int
		want              counts
	}{
		{"nobody has come", nil, 4, 50, 100, counts{a: 4}},
		{"no room", nil, 4, 50, 2, counts{a: 2}},
		{"none at all", counts{a: 5}, 4, 50, 0, counts{a: 0}},
		{"less than the least", counts{a: 2}, 4, 50, 100, counts{a: 4}},
		{"as wanted", counts{a: 9, b: 3}, 4, 50, 100, counts{a: 9, b: 3}},
		{"no more than most", counts{a: math.MaxInt32, b: math.MaxInt32}, 4, 50, 200, counts{a: 50, b: 50}},
		{"room for a part", counts{a: 40, b: 40, c: 4}, 0, 50, 42, counts{a: 20, b: 20, c: 2}},
		{"the first has its least", counts{b: 100}, 4, 100, 10, counts{a: 4, b: 6}},
		{"no least", counts{b: 1}, 0, 10, 10, counts{a: 0, b: 1}},
	} {
		if got := divide(x.wants, a, x.least, x.most, x.room); !maps.Equal(got, x.want) {
			t.Errorf("%s: %v, want %v", x.name, got, x.want)
		}
	}
}

// TestLearner: the counts of several front-ends are one demand, and a front-end whose
// past nobody knows brings nothing but what comes from now on.
func TestLearner(t *testing.T) {
	l := newLearner()
	first, odd := DefaultLimits.Shape(), Shape{Memory: 512, CPU: 1, Disk: 64}
	report := func(counts ...ShapeCount) Report { return Report{Creates: counts} }
	l.hear("a", report(ShapeCount{first, 1000}), false, at(0))
	if got := l.wants(at(0), first, 4); len(got) != 0 {
		t.Errorf("of the past: %v", got)
	}
	l.hear("a", report(ShapeCount{first, 1010}, ShapeCount{odd, 1}), true, at(1))
	l.hear("b", report(ShapeCount{first, 10}), true, at(1))
	if got := l.wants(at(1), first, 4); got[first] < 19 || got[first] > 20 || got[odd] != 0 {
		t.Errorf("20 from two front-ends, and one of another shape: %v", got)
	}
	l.hear("a", report(ShapeCount{first, 1010}, ShapeCount{odd, 3}), true, at(2))
	if got := l.wants(at(2), first, 4); got[odd] < 2 {
		t.Errorf("a shape that was asked for three times: %v", got)
	}
	l.hear("b", report(ShapeCount{first, 3}), true, at(3)) // counted anew
	if got := l.wants(at(3), first, 4); got[first] > 21 {
		t.Errorf("a count that went back: %v", got)
	}
	for range 100 {
		l.made(time.Second)
	}
	if l.took < 990*time.Millisecond || l.took > time.Second {
		t.Errorf("it takes %v", l.took)
	}
	if got := l.wants(at(10000), first, 4); len(got) != 0 || len(l.shapes) != 0 {
		t.Errorf("hours later: %v of %v", got, l.shapes)
	}
}

// TestArrivals: who asks for ever other shapes fills no memory, and hides nobody.
func TestArrivals(t *testing.T) {
	a := newArrivals()
	for range 50 {
		a.note(DefaultLimits.Shape())
	}
	for i := range 1000 {
		a.note(Shape{Memory: 64 + i})
	}
	r, total := a.report(at(0))
	if len(r.Creates) != shapesMost || total < 50 {
		t.Errorf("%d shapes, %d in all", len(r.Creates), total)
	}
	i := 0
	for _, c := range r.Creates {
		if c.Shape == DefaultLimits.Shape() && c.Count == 50 {
			i++
		}
	}
	if i != 1 {
		t.Errorf("the one that is asked for most is missing: %v", r.Creates)
	}
}
