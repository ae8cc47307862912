// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// What may be blamed on a fault some time after it is over.
const (
	// frontAfter is how long a connection may be in use by mistake whose other end has
	// been killed.
	frontAfter = 2 * time.Second
	// storeAfter is how long who waits for the store may not have noticed that it is
	// back: the tries that it gives it have pauses in between.
	storeAfter = 20 * time.Second
	// lossAfter is how long after a fault a sandbox may end by it, or its node be taken
	// for lost: heartbeats that are missing, a stop that takes as long as it may.
	lossAfter = 21 * time.Second
)

// any says whether there is a fault of the kinds that are wanted, or was after since.
func (f *injector) any(since time.Time, wanted func(window) bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range f.windows {
		if wanted(w) && (w.end.IsZero() || w.end.After(since)) {
			return true
		}
	}
	return false
}

// frontAway says whether a front-end was away since a moment.
func (f *injector) frontAway(n int, since time.Time) bool {
	return f.any(since.Add(-frontAfter), func(w window) bool { return w.fault.of == "front" && w.n == n })
}

// storeAway says whether Swift had any fault since a moment.
func (f *injector) storeAway(since time.Time) bool {
	return f.any(since.Add(-storeAfter), func(w window) bool { return strings.HasPrefix(w.fault.kind, "Swift") })
}

// nodeAway says whether a node has a fault now.
func (f *injector) nodeAway(n int) bool {
	return f.any(time.Now(), func(w window) bool { return w.fault.of == "node" && w.n == n })
}

// mayHaveLost says whether, since a moment, there was anything that makes sessions
// lose their node.
func (f *injector) mayHaveLost(since time.Time) bool {
	return f.any(since, func(w window) bool { return w.fault.loses })
}

// lost notes that a life was lost. There has to be a reason for it: something that
// loses nodes when its sandbox was seen last, which may be some time before anybody
// noticed. One that was just beginning when its plugin was killed comes to nothing, and
// nobody knows what it had: the system is to say that it is lost to be safe, but there
// must not have been a write in it that was acknowledged.
func (f *injector) lost(s *session, epoch uint64) {
	seen := f.run.witness.lastSeen(life{s.id, epoch})
	text := fmt.Sprintf("life %d of session %s, %s", epoch, s.key, f.run.elapsed())
	for _, w := range slices.Backward(f.all()) {
		switch {
		case !w.fault.loses, w.begin.After(seen.at.Add(2 * sampleEvery)), !w.end.IsZero() && seen.at.Sub(w.end) > lossAfter,
			w.fault.of == "node" && w.n != seen.node:
			continue
		}
		f.run.tally.lost(fmt.Sprintf("%s: %s (%d), %.1f s before", text, w.fault.kind, w.n, time.Since(w.begin).Seconds()))
		return
	}
	if !s.wroteIn(epoch) {
		f.run.tally.lost(text + ": nothing was written in it; " + f.last())
		return
	}
	f.run.tally.lost(text + ": no reason")
	f.run.tally.violateLocked(s, "life %d was lost without a reason: its sandbox was seen last on node %d, %.1f s ago; the last fault: %s",
		epoch, seen.node, time.Since(seen.at).Seconds(), f.last())
}

// all are all faults up to now.
func (f *injector) all() []window {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.windows)
}

// cause is the last fault that may have lost something.
func (f *injector) cause() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, w := range slices.Backward(f.windows) {
		if w.fault.loses {
			return fmt.Sprintf("%s (%d), %.1f s ago", w.fault.kind, w.n, time.Since(w.begin).Seconds())
		}
	}
	return "no fault"
}

// last is the last fault.
func (f *injector) last() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.windows) == 0 {
		return "no fault yet"
	}
	w := f.windows[len(f.windows)-1]
	return fmt.Sprintf("%s (%d)", w.fault.kind, w.n)
}

// quietSince is since when there is no fault; zero if there is one.
func (f *injector) quietSince() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.windows) == 0 {
		return f.run.begin
	}
	return f.windows[len(f.windows)-1].end
}
