// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package report_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/report"
)

// sample has figures of which every one is told from the others.
func sample() (*report.Report, *report.Table) {
	t := &report.Table{Title: "Start <first>", Columns: []string{"n", "p50", "p95", "p99", "max", "p50 ratio"}, Peer: "bun run", Notes: []string{"ms & more"}}
	t.Add("session", "3", "1.00", "10.00", "31.62", "100.00", "0.50").Samples = []float64{1, 10, 100}
	t.Add("bun run", "2", "2.00", "20.00", "63.25", "200.00", "1.00")
	r := &report.Report{
		Date: time.Date(2026, 1, 2, 3, 4, 0, 0, time.UTC), Commit: "abc123", Machine: "2 × CPU", Versions: []report.Version{{Name: "Bun", Version: "1.4.5"}},
		Benchmarks: []*report.Benchmark{{Name: "Start", Seconds: 5, Load: report.Load{Before: "0.10 0.20 0.30", After: "1.10 0.60 0.40"}, Tables: []*report.Table{t}}},
	}
	return r, t
}

func TestText(t *testing.T) {
	r, _ := sample()
	want := `2026-01-02 03:04 UTC, commit abc123
2 × CPU
Bun 1.4.5

Start: 5 s, load before 0.10 0.20 0.30, after 1.10 0.60 0.40

Start <first>    n   p50    p95    p99     max  p50 ratio
session          3  1.00  10.00  31.62  100.00       0.50
bun run          2  2.00  20.00  63.25  200.00       1.00
  ms & more
`
	if got := r.Text(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestChart: on a logarithmic axis equal ratios are equal distances, every figure has
// a mark of the column's shape, and every value a place.
func TestChart(t *testing.T) {
	_, table := sample()
	c := table.Chart()
	x := func(row, mark int) float64 { return c.Lines[row].Marks[mark].X }
	near := func(a, b float64) bool { return math.Abs(a-b) < 0.5 }
	for row := range c.Lines {
		if len(c.Lines[row].Marks) != 4 {
			t.Fatalf("row %d has %d marks", row, len(c.Lines[row].Marks))
		}
		if a, b, d := x(row, 1)-x(row, 0), x(row, 3)-x(row, 1), x(row, 2)-x(row, 1); a < 50 || !near(a, b) || !near(2*d, b) {
			t.Errorf("row %d: ten times is %v, then %v, the root of it %v", row, a, b, d)
		}
		if from, to := c.Lines[row].From, c.Lines[row].To; from != x(row, 0) || to != x(row, 3) {
			t.Errorf("row %d: line from %v to %v", row, from, to)
		}
	}
	if a, b := x(1, 0)-x(0, 0), x(1, 3)-x(0, 3); a < 5 || !near(a, b) {
		t.Errorf("twice is %v, and %v", a, b)
	}
	if v := c.Lines[0].Values; len(v) != 3 || v[0] != x(0, 0) || v[2] != x(0, 3) || c.Lines[1].Values != nil {
		t.Errorf("values at %v and %v", c.Lines[0].Values, c.Lines[1].Values)
	}
	if c.Lines[0].Peer || !c.Lines[1].Peer {
		t.Error("the peer is not marked")
	}
	for _, tick := range c.Ticks {
		v, err := strconv.ParseFloat(tick.Label, 64)
		if want := x(0, 0) + (x(0, 1)-x(0, 0))*math.Log10(v); err != nil || math.Abs(tick.X-want) > 1 {
			t.Errorf("tick %s is at %v, not %v (%v)", tick.Label, tick.X, want, err)
		}
	}
	if len(c.Ticks) < 5 {
		t.Errorf("only %d ticks", len(c.Ticks))
	}
}

func TestChartOfOtherColumns(t *testing.T) {
	table := &report.Table{Title: "Ways", Columns: []string{"connections", "added"}}
	table.Add("front-end", "1", "0.51")
	table.Add("front-end", "16", "0.00") // without a place on the axis
	if table.Chart() != nil {
		t.Error("a chart of nothing")
	}
	table.Marks = []string{"added"}
	c := table.Chart()
	if len(c.Lines) != 2 || c.Lines[0].Name != "front-end, 1 connections" || c.Lines[1].Name != "front-end, 16 connections" {
		t.Errorf("%+v", c.Lines)
	}
}

// TestWrite: the page is well-formed, has every figure in a table and in the chart, and
// needs nothing from elsewhere; the JSON has every value.
func TestWrite(t *testing.T) {
	r, table := sample()
	dir := filepath.Join(t.TempDir(), "bench")
	if err := r.Write(dir); err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	page := string(read("report.html"))
	for _, row := range table.Rows {
		for i, figure := range row.Figures {
			if !strings.Contains(page, "<td>"+figure+"</td>") {
				t.Errorf("%s of %s is in no table", figure, row.Name)
			}
			if column := table.Columns[i]; column[0] == 'p' && !strings.Contains(column, "ratio") || column == "max" {
				if !strings.Contains(page, "<title>"+row.Name+": "+column+" "+figure+"</title>") {
					t.Errorf("%s of %s is in no chart", figure, row.Name)
				}
			}
		}
	}
	for _, want := range []string{"Start &lt;first&gt;", "ms &amp; more", "abc123", "1.10 0.60 0.40", `role="img" aria-label=`, "prefers-color-scheme: dark"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in the page", want)
		}
	}
	if from := regexp.MustCompile(`(?:src=|https?:|@import|<script)`).FindString(page); from != "" {
		t.Errorf("the page needs something: %s", from)
	}
	d := xml.NewDecoder(strings.NewReader(page))
	for {
		if _, err := d.Token(); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatalf("the page: %v", err)
		}
	}

	var got report.Report
	if err := json.Unmarshal(read("report.json"), &got); err != nil {
		t.Fatal(err)
	}
	if s := got.Benchmarks[0].Tables[0].Rows[0].Samples; len(s) != 3 || s[1] != 10 {
		t.Errorf("values %v", s)
	}
	if !bytes.Equal(read("report.txt"), []byte(r.Text())) {
		t.Error("report.txt is not the text")
	}
}
