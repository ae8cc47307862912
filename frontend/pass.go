// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import "time"

const (
	// reapMost is how many sessions a round of the reaper reads, about. Each costs
	// some 20 µs of CPU time here and as much in Consul; docs/scale.md has the figures.
	reapMost = 20_000
	// deepest is the most characters of an id that a part is told by.
	deepest = 2
	// soonWindow is how much longer than a pass may take a session may live for the
	// reaper to keep in mind when it ends.
	soonWindow = 30 * time.Minute
)

// pass is where the reaper is on its way through all sessions. As long as they are few
// each round looks at all. Of more, a round looks at parts: those whose ids begin with
// the same characters, which are random. A pass is over all parts.
type pass struct {
	most int // sessions of a round

	sized bool // there was a sample
	depth int  // how many characters a part is told by
	at    int  // the part that is next
	total int  // sessions seen in this pass
	// soon has when sessions end that may do so before the pass comes by again.
	soon map[string]time.Time
	// counts are of this pass so far, counted of the last whole one.
	counts, counted map[Kind]int
}

func newPass() *pass {
	return &pass{most: reapMost, depth: deepest, soon: map[string]time.Time{}, counts: map[Kind]int{}}
}

// beginning is how the ids of the next part begin.
func (p *pass) beginning() string {
	if p.depth == 0 {
		return ""
	}
	text := make([]byte, p.depth)
	for i, at := p.depth-1, p.at; i >= 0; i, at = i-1, at/len(idAlphabet) {
		text[i] = idAlphabet[at%len(idAlphabet)]
	}
	return idPrefix + string(text)
}

// count counts a session of the pass.
func (p *pass) count(sess *Session) { p.counts[Kind{sess.State, sess.Plan}]++ }

// size tells how many sessions one part of the deepest has, before the first pass.
func (p *pass) size(n int) {
	p.sized, p.depth = true, p.depthFor(n*parts(deepest))
}

// next moves on from a part that had n sessions, and says whether the pass goes on.
func (p *pass) next(n int) bool {
	p.total += n
	if p.at++; p.at < parts(p.depth) {
		return true
	}
	p.depth, p.at, p.total = p.depthFor(p.total), 0, 0
	p.counted, p.counts = p.counts, map[Kind]int{}
	return false
}

// depthFor is the least at which a part of so many sessions is not too much for a round.
func (p *pass) depthFor(total int) (depth int) {
	for depth < deepest && total > p.most*parts(depth) {
		depth++
	}
	return depth
}

// parts is how many there are at a depth.
func parts(depth int) int {
	n := 1
	for range depth {
		n *= len(idAlphabet)
	}
	return n
}
