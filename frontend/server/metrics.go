// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package server

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/keys"
)

// state tells how many sessions and slots there are, when it is asked.
type state struct{ *frontend.Service }

var (
	sessionsDesc = prometheus.NewDesc("buntime_sessions", "Sessions by state and plan, as the leading front-end counted them last.", []string{"state", "plan"}, nil)
	reapedDesc   = prometheus.NewDesc("buntime_reap_timestamp_seconds", "When this front-end's last round of the reaper began, in Unix seconds; 0 if it has not led.", nil, nil)
	reapDesc     = prometheus.NewDesc("buntime_reap_duration_seconds", "How long that round took.", nil, nil)
	slotsDesc    = prometheus.NewDesc("buntime_slots_ready", "Slots that are ready: of the default shape, or another.", []string{"shape"}, nil)
	waitingDesc  = prometheus.NewDesc("buntime_creates_waiting", "Creates that wait for their turn.", nil, nil)
)

// staleKeys is whether the API keys that are known are out of date.
func staleKeys(ring *keys.Ring) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "buntime_keys_stale", Help: "1 while the API keys in Consul cannot be read, so that those of before count; else 0.",
	}, func() float64 {
		if ring.Stale() {
			return 1
		}
		return 0
	})
}

// Describe implements prometheus.Collector.
func (s state) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sessionsDesc, reapedDesc, reapDesc, slotsDesc, waitingDesc} {
		c <- d
	}
}

// Collect implements prometheus.Collector.
func (s state) Collect(c chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	census := s.Census()
	for kind, n := range census.Sessions {
		gauge(sessionsDesc, float64(n), string(kind.State), kind.Plan)
	}
	reaped := 0.0
	if !census.At.IsZero() {
		reaped = float64(census.At.UnixMilli()) / 1000
	}
	gauge(reapedDesc, reaped)
	gauge(reapDesc, census.Took.Seconds())
	usual, others := 0, 0
	for shape, n := range s.Slots() {
		if shape == frontend.DefaultLimits.Shape() {
			usual = n
		} else {
			others += n
		}
	}
	gauge(slotsDesc, float64(usual), "default")
	gauge(slotsDesc, float64(others), "other")
	gauge(waitingDesc, float64(s.Waiting()))
}
