// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"time"
)

// Report is what a front-end tells the leader of the sessions that it was asked for,
// since it started.
type Report struct {
	At      time.Time    `json:"at"`
	Creates []ShapeCount `json:"creates"`
}

// ShapeCount is a number of sessions of a shape.
type ShapeCount struct {
	Shape Shape `json:"shape"`
	Count int   `json:"count"`
}

const (
	// reportEvery is how often a front-end may tell.
	reportEvery = time.Second
	// reportAge is how long a report stays of a front-end that tells nothing more.
	reportAge = 10 * time.Minute
	// shapesMost is how many shapes count. Anybody may ask for as many as there are
	// numbers; what is asked for most has slots.
	shapesMost = 32
)

// arrivals counts the creates that this front-end was asked for.
type arrivals struct {
	name string // of this front-end, in its reports

	mu      sync.Mutex
	creates map[Shape]int
}

func newArrivals() *arrivals {
	return &arrivals{name: strings.ToLower(rand.Text()), creates: map[Shape]int{}}
}

// note counts a create.
func (a *arrivals) note(shape Shape) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.creates[shape]; !ok && len(a.creates) >= shapesMost {
		least, which := 0, Shape{}
		for s, n := range a.creates {
			if least == 0 || n < least {
				least, which = n, s
			}
		}
		delete(a.creates, which)
	}
	a.creates[shape]++
}

// report is what there is to tell, and the sum of it.
func (a *arrivals) report(now time.Time) (r Report, total int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r.At = now.UTC()
	for shape, n := range a.creates {
		r.Creates = append(r.Creates, ShapeCount{shape, n})
		total += n
	}
	return r, total
}

// reportDemand tells the leader what this front-end is asked for, when that is news.
func (s *Service) reportDemand(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	told := 0
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			ctx, cancel := cleanup(ctx)
			defer cancel()
			if told > 0 {
				_ = s.Store.DropReport(ctx, s.arrivals.name) // or the leader does, in some minutes
			}
			return
		}
		r, total := s.arrivals.report(s.Now())
		if total == told {
			continue
		}
		if err := s.Store.PutReport(ctx, s.arrivals.name, r); err != nil {
			if ctx.Err() == nil {
				s.Log.Debug("report demand", "err", err)
			}
			continue
		}
		told = total
	}
}

// learner is what the leader knows of the demand for each shape.
type learner struct {
	seen   map[string]map[Shape]int // as reported last, by front-end
	shapes map[Shape]*demand
	took   time.Duration // to make a slot, of late
}

// firstTook is what is taken for the time to make a slot before one was made.
const firstTook = 300 * time.Millisecond

func newLearner() *learner {
	return &learner{seen: map[string]map[Shape]int{}, shapes: map[Shape]*demand{}, took: firstTook}
}

// hear takes the report of a front-end. What one has counted before it was first heard
// of came at an unknown time, unless it is new: then all of it came just now.
func (l *learner) hear(who string, r Report, fresh bool, now time.Time) {
	before, known := l.seen[who]
	counts := map[Shape]int{}
	for _, c := range r.Creates {
		counts[c.Shape] = c.Count
		if more := c.Count - before[c.Shape]; more > 0 && (known || fresh) {
			d := l.shapes[c.Shape]
			if d == nil {
				d = new(demand)
				l.shapes[c.Shape] = d
			}
			d.arrived(more, now)
		}
	}
	l.seen[who] = counts
}

// made notes how long it took to make a slot.
func (l *learner) made(took time.Duration) {
	l.took += (took - l.took) / 8
}

// wants is how many slots of each shape there should be, without any limit.
func (l *learner) wants(now time.Time, first Shape, refills int) map[Shape]int {
	out := map[Shape]int{}
	for shape, d := range l.shapes {
		switch {
		case d.forgotten(now):
			delete(l.shapes, shape)
		case shape == first || d.regular(now):
			out[shape] = d.want(now, l.took, refills)
		}
	}
	return out
}
