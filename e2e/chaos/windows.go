// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"fmt"
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
	// lossAfter is how long it may take until a node, or what ran there, is taken for
	// lost: its heartbeats, a stop that takes as long as it may, and the look at it.
	lossAfter = time.Minute
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

// lost notes that a life was lost, and for what reason. There has to be one.
func (f *injector) lost(key string, epoch uint64) {
	recent := f.any(time.Now().Add(-lossAfter), func(w window) bool { return w.fault.loses })
	text := fmt.Sprintf("life %d of session %s: %s (%s)", epoch, key, f.cause(), f.run.elapsed())
	f.run.tally.lost(text)
	if !recent {
		f.run.tally.violate(nil, "lost without a reason: %s", text)
	}
}

// cause is the last fault that may have lost something.
func (f *injector) cause() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	for n := len(f.windows) - 1; n >= 0; n-- {
		if w := f.windows[n]; w.fault.loses {
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
