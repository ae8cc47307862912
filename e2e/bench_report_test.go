// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/e2e/report"
	"github.com/buntime/buntime/e2e/stack"
)

// results are those of this process's benchmarks.
var results *report.Report

// record begins a benchmark's part of the report, which is written when the
// benchmark ends: if a later one fails, what there is can be read.
func (m *bench) record() {
	if results == nil {
		results = m.newReport()
		fmt.Printf("\n%s", results.Text())
	}
	begin := time.Now()
	part := &report.Benchmark{Name: strings.TrimPrefix(m.b.Name(), "Benchmark"), Load: report.Load{Before: m.load()}}
	results.Benchmarks = append(results.Benchmarks, part)
	root, err := stack.Root()
	m.must(err)
	m.b.Cleanup(func() {
		part.Load.After = m.load()
		part.Seconds = time.Since(begin).Seconds()
		fmt.Printf("%s: %.0f s, load before %s, after %s\n", part.Name, part.Seconds, part.Load.Before, part.Load.After)
		if err := results.Write(filepath.Join(root, "out/bench")); err != nil {
			m.b.Error(err)
		}
	})
}

// newReport says what machine this is and what takes part.
func (m *bench) newReport() *report.Report {
	var uname unix.Utsname
	m.must(unix.Uname(&uname))
	cpu := field(m.read("/proc/cpuinfo"), "model name")
	memory := field(m.read("/proc/meminfo"), "MemTotal")
	r := &report.Report{
		Date: time.Now(), Commit: m.first("git", "-c", "safe.directory=*", "describe", "--always", "--dirty", "--abbrev=12"),
		Machine: fmt.Sprintf("%d × %s, memory %s, Linux %s", runtime.NumCPU(), cpu, memory, unix.ByteSliceToString(uname.Release[:])),
	}
	add := func(name, version string) {
		version = strings.TrimPrefix(version, "v")
		r.Versions = append(r.Versions, report.Version{Name: name, Version: version})
	}
	add("Go", strings.TrimPrefix(runtime.Version(), "go"))
	add("Bun", m.first(m.bun, "--version"))
	add("Nomad", strings.TrimPrefix(m.first(m.agent, "version"), "Nomad v"))
	add("Consul", strings.TrimPrefix(m.first(m.tool("consul"), "version"), "Consul v"))
	add("runc", strings.TrimPrefix(m.first("runc", "--version"), "runc version "))
	add("bubblewrap", strings.TrimPrefix(m.first("bwrap", "--version"), "bubblewrap "))
	add("vegeta", m.first("go", "list", "-m", "-f", "{{.Version}}", "github.com/tsenart/vegeta/v12"))
	return r
}

func (m *bench) read(path string) string {
	text, err := os.ReadFile(path)
	m.must(err)
	return string(text)
}

// load is that of the last 1, 5 and 15 minutes.
func (m *bench) load() string {
	return strings.Join(strings.Fields(m.read("/proc/loadavg"))[:3], " ")
}

// first is the first line that a command prints, or what it lacks: only some of
// the benchmarks need all of them.
func (m *bench) first(command ...string) string {
	ctx, cancel := context.WithTimeout(m.ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
	if err != nil {
		return "absent"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// field is the first value of a name in one of /proc's files.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

// table is printed and, in a benchmark, part of the report.
type table struct{ report.Table }

func newTable(title string, columns ...string) *table {
	return &table{report.Table{Title: title, Columns: columns}}
}

// row has the name first, then a figure for each column.
func (t *table) row(cells ...string) *report.Row { return t.Add(cells[0], cells[1:]...) }

func (t *table) print(notes ...string) {
	t.Notes = notes
	fmt.Print("\n" + t.Text())
	if results != nil {
		last := results.Benchmarks[len(results.Benchmarks)-1]
		last.Tables = append(last.Tables, &t.Table)
	}
}

// note adds notes to the last table.
func note(notes ...string) {
	tables := results.Benchmarks[len(results.Benchmarks)-1].Tables
	last := tables[len(tables)-1]
	last.Notes = append(last.Notes, notes...)
	for _, note := range notes {
		fmt.Println("  " + note)
	}
}

// samples are for the report: in ms.
func samples(took []time.Duration) []float64 {
	list := make([]float64, len(took))
	for i, d := range took {
		list[i] = float64(d.Round(time.Microsecond)) / float64(time.Millisecond)
	}
	return list
}
