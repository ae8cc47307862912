// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package metrics

import (
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// Times is how long something took, each time since the start.
type Times struct {
	Count uint64
	Sum   float64 // seconds
	// Below has, for each of Bounds, how many took at most so many seconds.
	Bounds []float64
	Below  []uint64
}

// RequestTimes are those of the requests of a route that were answered with a status.
func (m *Metrics) RequestTimes(route, status string) Times {
	return times(m.requests, map[string]string{"route": route, "status": status})
}

// StageTimes are those of a stage of the requests of a route, or of all with "".
func (m *Metrics) StageTimes(route, stage string) Times {
	want := map[string]string{"stage": stage}
	if route != "" {
		want["route"] = route
	}
	return times(m.stages, want)
}

// times sums up the histograms with these labels.
func times(of prometheus.Collector, want map[string]string) Times {
	t := Times{Bounds: buckets, Below: make([]uint64, len(buckets))}
	c := make(chan prometheus.Metric)
	go func() {
		of.Collect(c)
		close(c)
	}()
	for metric := range c {
		var one dto.Metric
		if metric.Write(&one) != nil || one.Histogram == nil || !labelled(&one, want) {
			continue
		}
		t.Count += one.Histogram.GetSampleCount()
		t.Sum += one.Histogram.GetSampleSum()
		for _, b := range one.Histogram.Bucket {
			if i := slices.Index(buckets, b.GetUpperBound()); i >= 0 {
				t.Below[i] += b.GetCumulativeCount()
			}
		}
	}
	return t
}

func labelled(m *dto.Metric, want map[string]string) bool {
	found := 0
	for _, l := range m.Label {
		if v, ok := want[l.GetName()]; ok {
			if l.GetValue() != v {
				return false
			}
			found++
		}
	}
	return found == len(want)
}
