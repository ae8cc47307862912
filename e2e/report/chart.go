// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package report

import (
	"fmt"
	"math"
	"slices"
	"strconv"
)

// Chart has a line for each row of a table: a mark for each of some columns, on
// one logarithmic axis, and behind them every single value. It is drawn by the
// page's template; no chart library of Go's follows the page's colours, and all
// this needs is where things stand.
type Chart struct {
	Title, Text          string // Text says the same to who cannot see it
	Width, Height        float64
	Left, Right, Bottom  float64 // of the plot
	Ticks                []Tick
	Lines                []Line
	Legend               []Mark
	LegendY, LabelOffset float64
}

// Tick is a place on the axis.
type Tick struct {
	X     float64
	Label string
}

// Line is that of one row.
type Line struct {
	Name   string
	Y      float64
	Peer   bool
	From   float64
	To     float64
	Marks  []Mark
	Values []float64 // where they stand
}

// Mark is one figure.
type Mark struct {
	X, Y  float64
	Shape int // by the column, so that the colour is not all that tells them apart
	Label string
}

var percentiles = []string{"p50", "p95", "p99", "max"}

// The measures of all charts, in pixels.
const (
	chartWidth, chartLeft, chartRight = 760, 290, 740
	chartTop, lineHeight, axisHeight  = 34, 26, 26
	legendStep                        = 110
)

// Chart is nil where the table has nothing to draw.
func (t *Table) Chart() *Chart {
	marks := t.Marks
	if marks == nil {
		marks = percentiles
	}
	columns := t.indexes(marks)
	low, high := t.bounds(columns)
	if len(columns) == 0 || high == 0 {
		return nil
	}
	low, high = low/1.15, high*1.15
	x := func(v float64) float64 {
		v = min(max(v, low), high)
		return round(chartLeft + (chartRight-chartLeft)*math.Log(v/low)/math.Log(high/low))
	}
	c := &Chart{
		Title: t.Title, Width: chartWidth, Left: chartLeft, Right: chartRight, LegendY: 14, LabelOffset: 4,
		Bottom: chartTop + lineHeight*float64(len(t.Rows)),
	}
	c.Height = c.Bottom + axisHeight
	for _, v := range ticks(low, high) {
		c.Ticks = append(c.Ticks, Tick{x(v), strconv.FormatFloat(v, 'f', -1, 64)})
	}
	for i, column := range columns {
		c.Legend = append(c.Legend, Mark{X: chartLeft + 6 + legendStep*float64(i), Y: c.LegendY, Shape: i, Label: t.Columns[column]})
	}
	for i, row := range t.Rows {
		line := Line{Name: t.label(row), Y: chartTop + lineHeight*(float64(i)+0.5), Peer: row.Name == t.Peer}
		for shape, column := range columns {
			if v, ok := figure(row, column); ok {
				line.Marks = append(line.Marks, Mark{x(v), line.Y, shape, fmt.Sprintf("%s: %s %s", line.Name, t.Columns[column], row.Figures[column])})
			}
		}
		for _, v := range row.Samples {
			line.Values = append(line.Values, x(v))
		}
		if len(line.Marks) > 0 {
			by := func(a, b Mark) int { return int(math.Copysign(1, a.X-b.X)) }
			line.From, line.To = slices.MinFunc(line.Marks, by).X, slices.MaxFunc(line.Marks, by).X
		}
		c.Lines = append(c.Lines, line)
	}
	c.Text = fmt.Sprintf("%d rows on a logarithmic axis; the table has the same figures.", len(c.Lines))
	return c
}

// label is the row's name, with its first figure where that tells it from others.
func (t *Table) label(row *Row) string {
	same := func(r *Row) bool { return r != row && r.Name == row.Name }
	if len(t.Columns) > 0 && len(row.Figures) > 0 && slices.ContainsFunc(t.Rows, same) {
		return fmt.Sprintf("%s, %s %s", row.Name, row.Figures[0], t.Columns[0])
	}
	return row.Name
}

// indexes are those of columns by their names.
func (t *Table) indexes(names []string) []int {
	var list []int
	for _, name := range names {
		if i := slices.Index(t.Columns, name); i >= 0 {
			list = append(list, i)
		}
	}
	return list
}

// bounds are the least and the greatest of all that is drawn.
func (t *Table) bounds(columns []int) (low, high float64) {
	low = math.Inf(1)
	note := func(v float64) {
		if v > 0 { // 0 has no place on the axis
			low, high = min(low, v), max(high, v)
		}
	}
	for _, row := range t.Rows {
		for _, column := range columns {
			if v, ok := figure(row, column); ok {
				note(v)
			}
		}
		for _, v := range row.Samples {
			note(v)
		}
	}
	return low, high
}

func figure(row *Row, column int) (float64, bool) {
	if column >= len(row.Figures) {
		return 0, false
	}
	v, err := strconv.ParseFloat(row.Figures[column], 64)
	return v, err == nil
}

// ticks are 1, 2 and 5 of each power of ten, or only 1 where there are many.
func ticks(low, high float64) []float64 {
	steps := []float64{1, 2, 5}
	if high/low > 2000 {
		steps = steps[:1]
	}
	var list []float64
	for e := math.Floor(math.Log10(low)); e <= math.Log10(high); e++ {
		for _, step := range steps {
			// By a division where there are decimals, for 0.2 and not 0.2000….1
			v := step * math.Pow(10, e)
			if e < 0 {
				v = step / math.Pow(10, -e)
			}
			if v >= low && v <= high {
				list = append(list, v)
			}
		}
	}
	return list
}

func round(v float64) float64 { return math.Round(v*10) / 10 }
