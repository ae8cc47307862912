// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package report

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Text is the report for terminals.
func (r *Report) Text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, commit %s\n%s\n", r.Date.Format("2006-01-02 15:04 MST"), r.Commit, r.Machine)
	for i, v := range r.Versions {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s %s", v.Name, v.Version)
	}
	b.WriteString("\n")
	for _, m := range r.Benchmarks {
		fmt.Fprintf(&b, "\n%s: %.0f s, load before %s, after %s\n", m.Name, m.Seconds, m.Load.Before, m.Load.After)
		for _, t := range m.Tables {
			b.WriteString("\n" + t.Text())
		}
	}
	return b.String()
}

// Text is the table with its columns aligned, and its notes.
func (t *Table) Text() string {
	var aligned strings.Builder
	w := tabwriter.NewWriter(&aligned, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(name string, cells []string) {
		fmt.Fprintln(w, strings.Join(append([]string{name}, cells...), "\t")+"\t")
	}
	line(t.Title, t.Columns)
	for _, r := range t.Rows {
		line(r.Name, r.Figures)
	}
	w.Flush()

	var b strings.Builder
	names := append([]*Row{{Name: t.Title}}, t.Rows...)
	for line := range strings.Lines(aligned.String()) { // the writer has put names to the right as well
		name := names[0].Name
		names = names[1:]
		text := strings.TrimLeft(line, " ")
		indent := len(line) - len(text)
		b.WriteString(strings.TrimRight(name+strings.Repeat(" ", indent)+text[len(name):], " \n") + "\n")
	}
	for _, note := range t.Notes {
		b.WriteString("  " + note + "\n")
	}
	return b.String()
}
