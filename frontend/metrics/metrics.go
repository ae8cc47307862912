// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package metrics counts what a front-end does, for Prometheus. All names begin with
// buntime_, times are in seconds, and no label has a value that a stranger can choose.
package metrics

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// buckets go from what an execute takes on an idle machine to what a request may take.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Metrics are those of one front-end.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	refusals *prometheus.CounterVec
	stages   *prometheus.HistogramVec
}

// New makes them, with those of the process and of Go's runtime.
func New() *Metrics {
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: histogram("buntime_request_seconds", "Requests of the API, by route and status; of a stream, until its end.", "route", "status"),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "buntime_errors_total", Help: "Answers of the API that are errors, by route and code.",
		}, []string{"route", "code"}),
		stages: histogram("buntime_stage_seconds", "Where requests' time went, by route and stage, as in Server-Timing.", "route", "stage"),
	}
	m.registry.MustRegister(
		m.requests, m.refusals, m.stages,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Register adds what counts by itself.
func (m *Metrics) Register(c ...prometheus.Collector) { m.registry.MustRegister(c...) }

// Handler answers with all of them.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
}

// Request counts a request of the API. route is one of the API's own; code is that of
// an error, or "".
func (m *Metrics) Request(route string, status int, code string, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
	if code != "" {
		m.refusals.WithLabelValues(route, code).Inc()
	}
}

// Stage counts a part of a request.
func (m *Metrics) Stage(route, stage string, took time.Duration) {
	m.stages.WithLabelValues(route, stage).Observe(took.Seconds())
}
