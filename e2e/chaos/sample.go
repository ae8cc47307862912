// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package chaos

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

const (
	sampleEvery = 500 * time.Millisecond
	// lateWithin is how long a sandbox of a life that is over may be there while its
	// node works.
	lateWithin = time.Minute
)

// box is a sandbox that is alive.
type box struct {
	alloc string
	node  int
	life  life
	known bool // whose it is
}

// sample looks at the sandboxes on the nodes again and again: of a session's there is
// one at most, but for what is left for a while of lives that are over.
func (w *witness) sample(ctx context.Context) {
	api, err := nomad.NewClient(&nomad.Config{Address: w.run.NomadAddr, HttpClient: &http.Client{Timeout: lookTimeout}})
	if err != nil {
		w.run.tally.violate(nil, "make client of Nomad: %v", err)
		return
	}
	for wait(ctx, sampleEvery) {
		allocs, _, err := api.Allocations().List((&nomad.QueryOptions{}).WithContext(ctx))
		if err == nil {
			w.mu.Lock()
			for _, alloc := range allocs {
				if l, ok := ofJob(alloc.JobID); ok {
					w.owners[alloc.ID] = l
				}
			}
			w.mu.Unlock()
		}
		w.compare(w.boxes())
		if own, _, err := mounted(w.run.Dir); err == nil {
			w.mu.Lock()
			maps.Copy(w.fuse, own)
			w.mu.Unlock()
		}
	}
}

// boxes are the sandboxes whose init is alive.
func (w *witness) boxes() (list []box) {
	for n := range w.run.Clients {
		dir := "driver"
		if n > 0 {
			dir = fmt.Sprintf("driver-%d", n)
		}
		files, _ := filepath.Glob(filepath.Join(w.run.Dir, dir, "sandboxes/*/state.json")) // the pattern is right
		for _, file := range files {
			text, err := os.ReadFile(file)
			var state struct {
				Task string
				Pid  int
			}
			if err != nil || json.Unmarshal(text, &state) != nil || !running(state.Pid) {
				continue
			}
			alloc, _, _ := strings.Cut(state.Task, "/")
			w.mu.Lock()
			l, ok := w.owners[alloc]
			if ok {
				w.seen[l] = sight{n, time.Now()}
			}
			w.mu.Unlock()
			list = append(list, box{alloc: alloc, node: n, life: l, known: ok})
		}
	}
	return list
}

// lastSeen is where and when a life's sandbox was seen last. If that was never, it is
// now, on no node.
func (w *witness) lastSeen(l life) sight {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s, ok := w.seen[l]; ok {
		return s
	}
	return sight{-1, time.Now()}
}

// busiest is the node with the most sandboxes.
func (w *witness) busiest() (node int) {
	n := make([]int, len(w.run.Clients))
	for _, b := range w.boxes() {
		n[b.node]++
	}
	for i := range n {
		if n[i] > n[node] {
			node = i
		}
	}
	return node
}

// running says whether a process is there and no zombie.
func running(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := strings.LastIndexByte(string(text), ')')
	return i >= 0 && i+2 < len(text) && text[i+2] != 'Z' && text[i+2] != 'X'
}

// compare wants one sandbox of each session. One of an earlier life than another has
// its time to go; that does not run while its node does not work.
func (w *witness) compare(boxes []box) {
	newest := map[string]box{}
	for _, b := range boxes {
		if o, ok := newest[b.life.session]; b.known && (!ok || o.life.epoch < b.life.epoch) {
			newest[b.life.session] = b
		}
	}
	byID := w.run.byID()
	late := map[string]bool{}
	for _, b := range boxes {
		o := newest[b.life.session]
		switch {
		case !b.known || o.alloc == b.alloc:
			continue
		case o.life.epoch == b.life.epoch:
			w.run.tally.violate(byID[b.life.session], "life %d has two sandboxes: of allocation %s on node %d and of %s on node %d", b.life.epoch, b.alloc, b.node, o.alloc, o.node)
			continue
		}
		late[b.alloc] = true
		w.mu.Lock()
		since, ok := w.twice[b.alloc]
		if !ok || w.run.faults.nodeAway(b.node) {
			since = time.Now()
			w.twice[b.alloc] = since
		}
		w.mu.Unlock()
		if !ok {
			w.run.tally.count("late sandboxes", "")
			if s := byID[b.life.session]; s != nil {
				s.note("a sandbox of life %d is on node %d still, beside one of life %d on node %d", b.life.epoch, b.node, o.life.epoch, o.node)
			}
		}
		if time.Since(since) > lateWithin {
			w.run.tally.violate(byID[b.life.session], "the sandbox of life %d on node %d is still there %v after life %d began elsewhere", b.life.epoch, b.node, lateWithin, o.life.epoch)
			w.mu.Lock()
			w.twice[b.alloc] = time.Now()
			w.mu.Unlock()
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for alloc := range w.twice {
		if !late[alloc] {
			delete(w.twice, alloc)
		}
	}
}
