// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// held is what processes hold, in bytes.
type held struct {
	count                  int
	pss, private, resident float64
}

func (h *held) add(o held) {
	h.count += o.count
	h.pss += o.pss
	h.private += o.private
	h.resident += o.resident
}

// memory says what a session holds by itself, and what the servers hold more
// for it.
func (m *bench) memory() {
	const many = 20
	// For a session's own work to be done, and for the new runner.
	const settle = 2 * time.Second
	states := []int{0, 1, many}
	var sessions []*benchSession
	servers := map[int]map[string]held{}
	inside := map[int]map[string]held{}
	for _, n := range states {
		for len(sessions) < n {
			s := m.session(0)
			m.must(s.execute(new(spans)))
			sessions = append(sessions, s)
		}
		m.must(m.pause(settle))
		servers[n] = m.servers()
		inside[n] = m.inside(sessions)
	}
	m.insideTable(inside[1], inside[many], many)
	m.serverTable(servers, states)
}

func (m *bench) insideTable(one, all map[string]held, many int) {
	each := func(what string) string { return fmt.Sprintf("%s, each of %d", what, many) }
	t := newTable("Memory of a session, waiting", "processes", "PSS", "private", each("PSS"), each("private"))
	t.Marks = []string{"PSS", "private", each("PSS"), each("private")}
	sums := [2]held{}
	n := float64(many)
	row := func(name string, one, all held) {
		t.row(name, strconv.Itoa(all.count/many), mb(one.pss), mb(one.private), mb(all.pss/n), mb(all.private/n))
	}
	for _, name := range []string{"init", "runners", "other"} {
		if one[name].count+all[name].count == 0 {
			continue
		}
		row(name, one[name], all[name])
		sums[0].add(one[name])
		sums[1].add(all[name])
	}
	row("all", sums[0], sums[1])
	t.print("MB, all processes of a kind together; of the only session, and on average of "+strconv.Itoa(many),
		"without what the kernel holds for it: sockets, page tables, file system")
	m.b.ReportMetric(sums[1].pss/n/1e6, "PSS-MB")
}

func (m *bench) serverTable(at map[int]map[string]held, states []int) {
	first, last := states[1], states[len(states)-1]
	t := newTable("Memory of the servers", "0 sessions", strconv.Itoa(first), strconv.Itoa(last), "per session")
	t.Marks = []string{"0 sessions", strconv.Itoa(first), strconv.Itoa(last)}
	for _, name := range []string{"plugin", "front-end", "nomad-client", "nomad-server", "consul"} {
		var cells []string
		for _, n := range states {
			cells = append(cells, mb(at[n][name].resident))
		}
		more := (at[last][name].resident - at[first][name].resident) / float64(last-first)
		t.row(append(append([]string{name}, cells...), mb(more))...)
	}
	t.print(fmt.Sprintf("MB resident; per session: from %d to %d", first, last))
}

func mb(bytes float64) string { return strconv.FormatFloat(bytes/1e6, 'f', 2, 64) }

func (m *bench) servers() map[string]held {
	pids, err := m.stack.Pids()
	m.must(err)
	all := map[string]held{}
	for name, pid := range pids {
		h, err := holds(filepath.Join("/proc", strconv.Itoa(pid)))
		m.must(err)
		all[name] = h
	}
	return all
}

// inside sums up the processes in the sessions' cgroups by their kind.
func (m *bench) inside(sessions []*benchSession) map[string]held {
	allocs := make([]string, len(sessions))
	for i, s := range sessions {
		alloc, err := s.allocation()
		m.must(err)
		allocs[i] = alloc.ID
	}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	m.must(err)
	all := map[string]held{}
	for _, dir := range dirs {
		groups, _ := os.ReadFile(filepath.Join(dir, "cgroup")) // a process may have ended
		for _, alloc := range allocs {
			if !strings.Contains(string(groups), alloc) {
				continue
			}
			h, err := holds(dir)
			m.must(err)
			kind := kindOf(dir)
			h.add(all[kind])
			all[kind] = h
		}
	}
	return all
}

// kindOf is what a process of a session is for.
func kindOf(dir string) string {
	exe, _ := os.Readlink(filepath.Join(dir, "exe"))
	switch {
	case filepath.Base(exe) == "bun":
		return "runners"
	case strings.Contains(exe, "init"):
		return "init"
	}
	return "other"
}

// holds reads smaps_rollup, whose figures are in kB.
func holds(dir string) (held, error) {
	text, err := os.ReadFile(filepath.Join(dir, "smaps_rollup"))
	if err != nil {
		return held{}, err
	}
	h := held{count: 1}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[2] != "kB" {
			continue
		}
		kb, err := strconv.ParseFloat(fields[1], 64)
		if err != nil {
			return held{}, fmt.Errorf("parse %s/smaps_rollup: %w", dir, err)
		}
		switch fields[0] {
		case "Rss:":
			h.resident = kb * 1024
		case "Pss:":
			h.pss = kb * 1024
		case "Private_Clean:", "Private_Dirty:":
			h.private += kb * 1024
		}
	}
	return h, nil
}
