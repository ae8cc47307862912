// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package report keeps what benchmarks measure: as text, as JSON with every
// single value, and as one HTML page with a chart beside each table, which
// needs nothing from elsewhere.
package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Report is all that one run of the benchmarks has found.
type Report struct {
	Date       time.Time    `json:"date"`
	Commit     string       `json:"commit"`
	Machine    string       `json:"machine"`
	Versions   []Version    `json:"versions"`
	Benchmarks []*Benchmark `json:"benchmarks"`
}

// Version is that of one of the programs that take part.
type Version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Benchmark is one of the run's.
type Benchmark struct {
	Name    string   `json:"name"`
	Seconds float64  `json:"seconds"`
	Load    Load     `json:"load"`
	Tables  []*Table `json:"tables"`
}

// Load is that of the machine as /proc/loadavg has it: what else it did.
type Load struct {
	Before string `json:"before"`
	After  string `json:"after"`
}

// Table has a title, a name in each row and figures in all other columns.
type Table struct {
	Title   string   `json:"title"`
	Columns []string `json:"columns"`
	Rows    []*Row   `json:"rows"`
	Notes   []string `json:"notes,omitempty"`
	// Peer is the row that the others are compared with.
	Peer string `json:"peer,omitempty"`
	// Marks are the columns that the chart shows. Default: the percentiles.
	Marks []string `json:"-"`
}

// Row is a name and its figures, as they are printed.
type Row struct {
	Name    string   `json:"name"`
	Figures []string `json:"figures"`
	// Samples are all values that the figures are of, in ms, in the order in
	// which they were measured.
	Samples []float64 `json:"samples,omitempty"`
}

// Add adds a row and returns it.
func (t *Table) Add(name string, figures ...string) *Row {
	r := &Row{Name: name, Figures: figures}
	t.Rows = append(t.Rows, r)
	return r
}

// Write writes report.txt, report.json and report.html into a directory.
func (r *Report) Write(dir string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return fmt.Errorf("encode report: %w", err)
	}
	var page bytes.Buffer
	if err := r.HTML(&page); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	write := func(name string, data []byte) error { return os.WriteFile(filepath.Join(dir, name), data, 0o644) }
	return errors.Join(
		write("report.txt", []byte(r.Text())), write("report.json", append(data, '\n')), write("report.html", page.Bytes()),
	)
}
