// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package monitoring

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// step is between two samples, and two evaluations.
const step = time.Minute

// value is a sample.
type value struct {
	t int64
	f float64
}

func (v value) T() int64                      { return v.t }
func (v value) F() float64                    { return v.f }
func (v value) H() *histogram.Histogram       { return nil }
func (v value) FH() *histogram.FloatHistogram { return nil }
func (v value) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (v value) Copy() chunks.Sample           { return v }

// series are those of a test, in the notation of promtool's: "name{label="…"} 0+1x30".
type series []storage.Series

func parseSeries(t *testing.T, lines []string) (all series) {
	t.Helper()
	for _, line := range lines {
		set, values, err := parser.ParseSeriesDesc(line)
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		var samples []chunks.Sample
		for n, v := range values {
			if !v.Omitted {
				samples = append(samples, value{int64(n) * step.Milliseconds(), v.Value})
			}
		}
		all = append(all, storage.NewListSeries(set, samples))
	}
	return all
}

// Querier implements storage.Queryable.
func (s series) Querier(_, _ int64) (storage.Querier, error) { return querier{s}, nil }

type querier struct{ series }

func (querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) Close() error { return nil }

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	var found series
	for _, one := range q.series {
		matches := true
		for _, m := range matchers {
			matches = matches && m.Matches(one.Labels().Get(m.Name))
		}
		if matches {
			found = append(found, one)
		}
	}
	return &set{found, -1}
}

type set struct {
	series
	at int
}

func (s *set) Next() bool                        { s.at++; return s.at < len(s.series) }
func (s *set) At() storage.Series                { return s.series[s.at] }
func (s *set) Err() error                        { return nil }
func (s *set) Warnings() annotations.Annotations { return nil }

// fires says whether an alert with an expression that has to hold for so long would fire
// at some time in an hour.
func fires(t *testing.T, expr string, hold time.Duration, all series) bool {
	t.Helper()
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute})
	query, err := engine.NewRangeQuery(t.Context(), all, nil, expr, time.Unix(0, 0), time.Unix(0, 0).Add(time.Hour), step)
	if err != nil {
		t.Fatal(err)
	}
	defer query.Close()
	result := query.Exec(t.Context())
	matrix, err := result.Matrix()
	if err != nil {
		t.Fatal(err)
	}
	for _, one := range matrix {
		since := int64(0)
		for n, p := range one.Floats {
			if n == 0 || p.T-one.Floats[n-1].T > step.Milliseconds() {
				since = p.T
			}
			if p.T-since >= hold.Milliseconds() {
				return true
			}
		}
	}
	return false
}
