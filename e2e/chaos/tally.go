// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// tally counts what happened.
type tally struct {
	run *run

	mu         sync.Mutex
	counts     map[string]map[string]int // by kind and outcome
	losses     []string
	violations []string
	seen       map[string]int // violations by their first words and session
	recovery   time.Duration  // the longest time to an answer after a fault was over
	recovered  string         // of what that was
}

func newTally(r *run) *tally {
	return &tally{run: r, counts: map[string]map[string]int{}, seen: map[string]int{}}
}

func (t *tally) count(kind, outcome string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts[kind] == nil {
		t.counts[kind] = map[string]int{}
	}
	t.counts[kind][outcome]++
}

// violate notes that something is not as it has to be, with what was done to the
// session last, if it is about one.
func (t *tally) violate(s *session, format string, args ...any) {
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	t.violateLocked(s, format, args...)
}

// mostOfKind is how many violations of a kind there may be in one session's words:
// each is followed by the same log.
const mostOfKind = 2

// violateLocked is violate with the session's lock held.
func (t *tally) violateLocked(s *session, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	key, history := format, ""
	if s != nil {
		s.noteLocked("VIOLATION: %s", text)
		text = fmt.Sprintf("session %s %s: %s", s.key, s.id, text)
		key, history = s.key+format, "\n\t\t"+strings.Join(s.log, "\n\t\t")
	}
	text = t.run.elapsed() + " " + text
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.seen[key]++; t.seen[key] <= mostOfKind {
		t.run.Progress("VIOLATION %s", text)
		t.violations = append(t.violations, text+history)
	}
}

// answered notes how long after a fault was over something answered again.
func (t *tally) answered(what string, after time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if after > t.recovery {
		t.recovery, t.recovered = after, what
	}
}

func (t *tally) lost(text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.losses = append(t.losses, text)
}

// Report is what a run has found.
type Report struct {
	// Summary has the counts, Violations what must not be, each with what was done to
	// the session before, Logs the ends of the parts' logs if there are violations.
	Summary    string
	Violations []string
	Logs       string
}

func (r *Report) String() string {
	return strings.Join(append([]string{r.Summary}, r.Violations...), "\nVIOLATION ") + r.Logs
}

func (t *tally) report() *Report {
	t.mu.Lock()
	defer t.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d, %v of chaos, %v in all\n", t.run.Seed, t.run.Time, time.Since(t.run.begin).Round(time.Second))
	for _, kind := range slices.Sorted(maps.Keys(t.counts)) {
		total, parts := 0, []string{}
		for _, outcome := range slices.Sorted(maps.Keys(t.counts[kind])) {
			n := t.counts[kind][outcome]
			total += n
			if outcome != "" {
				parts = append(parts, fmt.Sprintf("%s: %d", outcome, n))
			}
		}
		fmt.Fprintf(&b, "  %-22s %5d  %s\n", kind, total, strings.Join(parts, ", "))
	}
	fmt.Fprintf(&b, "  lives lost: %d%s\n", len(t.losses), strings.Join(append([]string{""}, t.losses...), "\n    "))
	fmt.Fprintf(&b, "  longest without an answer after a fault was over: %v (%s)\n", t.recovery.Round(10*time.Millisecond), t.recovered)
	fmt.Fprintf(&b, "  violations: %d", len(t.violations))
	return &Report{Summary: b.String(), Violations: slices.Clone(t.violations)}
}

// logs are the ends of what the parts have logged.
func (r *run) logs() string {
	const lines = 60
	var b strings.Builder
	for _, part := range []string{"front-end", "front-end-1", "nomad-client", "nomad-client-1", "nomad-server", "consul"} {
		fmt.Fprintf(&b, "\n==> end of the log of %s\n%s", part, r.Logs(part, lines))
	}
	return b.String()
}
