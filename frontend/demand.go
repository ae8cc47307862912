// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

const (
	// rateSpan is over how long the rate of creates is averaged.
	rateSpan = time.Minute
	// burstSpan is what counts as at once: some times as long as it takes until the
	// leader has heard of it, which is not to break a burst in two.
	burstSpan = 3 * time.Second
	// burstHalf is after how long half of a burst is forgotten. Who has come with a
	// hundred at once, as a test suite does, comes again.
	burstHalf = 5 * time.Minute
	// memory is how long it counts that a shape was asked for at all.
	memory = 10 * time.Minute
	// twice is how much of that it takes for a shape to have slots: it has been asked
	// for more than once. One that is wanted once costs nothing then.
	twice = 1.5
	// spread is how many standard deviations of what comes by chance are covered: 99.9 %.
	spread = 3
	// usedUp is the part of what can be made from which there are never enough slots:
	// they come as late as jobs would.
	usedUp = 0.9
)

// fading is a sum whose terms lose weight with time.
type fading struct {
	sum float64
	at  time.Time
}

// value is the sum at a later time, if a term's weight falls to 1/e in span.
func (f fading) value(now time.Time, span time.Duration) float64 {
	if f.at.IsZero() {
		return 0
	}
	return f.sum * math.Exp(-float64(max(now.Sub(f.at), 0))/float64(span))
}

func (f *fading) add(n float64, now time.Time, span time.Duration) {
	f.sum, f.at = f.value(now, span)+n, now
}

// demand is what is known of how many sessions of a shape are created. It has no
// clock: times must not go back.
type demand struct {
	rate   fading // over rateSpan
	burst  fading // over burstSpan
	recent fading // over memory
	peak   float64
	peaked time.Time // when peak was that high
}

// arrived notes creates.
func (d *demand) arrived(n int, now time.Time) {
	d.rate.add(float64(n), now, rateSpan)
	d.burst.add(float64(n), now, burstSpan)
	d.recent.add(float64(n), now, memory)
	if level := d.burst.value(now, burstSpan); level >= d.peakAt(now) {
		d.peak, d.peaked = level, now
	}
}

// peakAt is what is left of the highest burst.
func (d *demand) peakAt(now time.Time) float64 {
	return d.peak * math.Exp2(-float64(max(now.Sub(d.peaked), 0))/float64(burstHalf))
}

// perSecond is the rate of creates.
func (d *demand) perSecond(now time.Time) float64 {
	return d.rate.value(now, rateSpan) / rateSpan.Seconds()
}

// regular says whether the shape was asked for more than once.
func (d *demand) regular(now time.Time) bool { return d.recent.value(now, memory) >= twice }

// forgotten says whether nothing of it counts any more.
func (d *demand) forgotten(now time.Time) bool { return d.recent.value(now, memory) < 0.05 }

// want is how many slots there should be, if making one takes so long and so many are
// made at a time: as many as are taken until those are made again that were taken
// first, for which there has to be a quiet moment, with a margin for chance; and as many
// as came at once of late.
func (d *demand) want(now time.Time, took time.Duration, refills int) int {
	rate := d.perSecond(now)
	if rate*took.Seconds() >= usedUp*float64(refills) {
		return math.MaxInt32
	}
	gone := rate * (refillQuiet + took).Seconds()
	steady := gone + spread*math.Sqrt(gone)
	// Of what is less than half a slot there is none: all that was has faded.
	return int(math.Ceil(max(steady, d.peakAt(now)) - 0.5))
}

// divide gives each shape what it wants within what there is room for in all. first is
// the shape that has its least whatever the others want; of what is left all get the
// same part, and nobody more than most.
func divide(wants map[Shape]int, first Shape, least, most, room int) map[Shape]int {
	out := map[Shape]int{first: min(least, room)}
	rest := map[Shape]int{} // what is wanted above that
	total := 0
	for shape, want := range wants {
		if more := min(want, most) - out[shape]; more > 0 {
			rest[shape] = more
			total += more
		}
	}
	room -= out[first]
	part := 1.0
	if total > room {
		part = float64(max(room, 0)) / float64(total)
	}
	// Those that want most round up first, until the room is used.
	shapes := slices.SortedFunc(maps.Keys(rest), func(a, b Shape) int {
		return cmp.Or(cmp.Compare(rest[b], rest[a]), cmp.Compare(a.Memory, b.Memory), cmp.Compare(a.CPU, b.CPU), cmp.Compare(a.Disk, b.Disk))
	})
	for _, shape := range shapes {
		n := min(int(math.Ceil(part*float64(rest[shape]))), room)
		if n > 0 {
			out[shape] += n
			room -= n
		}
	}
	return out
}
