// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
)

//go:embed testdata/work.ts
var workScript string

// work is one kind of work of testdata/work.ts, in the order of the table.
var work = []struct{ key, title, unit string }{
	{"cpu", "CPU: sort, parse, match", "ms"},
	{"small", "2,000 files of 4 KB: write, read, remove", "ms"},
	{"stat", "20,000 stats", "ms"},
	{"write", "256 MB written and synced", "ms"},
	{"read", "256 MB read, from the page cache", "ms"},
	{"sync", "200 writes of 4 KB, each synced", "ms"},
	{"transfer", "512 MB over a loopback connection", "ms"},
	{"requests", "2,000 HTTP requests over loopback", "ms"},
}

// inside compares Bun at work in a session to the same Bun with the same script
// on the host.
func (m *bench) atWork() {
	const rounds = 8
	s := m.session(1)
	m.must(s.write("work.ts", workScript))
	bun := filepath.Join(m.rootfs(), "usr/local/bin/bun")
	script := m.write("work.ts", workScript)

	figures := [2]map[string][]float64{{}, {}}
	note := func(side int, text string) error {
		var took map[string]float64
		if err := json.Unmarshal([]byte(text), &took); err != nil {
			return fmt.Errorf("parse figures %q: %w", text, err)
		}
		for _, w := range work {
			figures[side][w.key] = append(figures[side][w.key], took[w.key])
		}
		return nil
	}
	for round := range rounds + 1 {
		if round == 1 { // the first warms up
			figures = [2]map[string][]float64{{}, {}}
		}
		r, err := s.runCommand("bun work.ts")
		m.must(err)
		m.must(note(0, r.Stdout))
		cmd := exec.CommandContext(m.ctx, "taskset", "-c", "1", bun, script) // a session has one core, too
		cmd.Dir = m.dir
		out, err := cmd.Output()
		m.must(err)
		m.must(note(1, string(out)))
	}
	t := newTable("Bun at work", "n", "inside p50", "inside max", "outside p50", "outside max", "p50 ratio")
	t.Marks = []string{"inside p50", "inside max", "outside p50", "outside max"}
	for _, w := range work {
		in, out := slices.Sorted(slices.Values(figures[0][w.key])), slices.Sorted(slices.Values(figures[1][w.key]))
		cell := func(v float64) string { return strconv.FormatFloat(v, 'f', 1, 64) }
		t.row(w.title, strconv.Itoa(len(in)), cell(percentile(in, 50)), cell(percentile(in, 100)),
			cell(percentile(out, 50)), cell(percentile(out, 100)), ratio(percentile(in, 50), percentile(out, 50)))
	}
	t.print("ms; ratio to outside; inside a session of 1 core and its workspace, outside one of the host's and " + m.dir)
}
