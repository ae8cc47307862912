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

	"github.com/buntime/buntime/driver/calls"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/frontend"
)

// buckets go from what an execute takes on an idle machine to what a request may take.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Metrics are those of one front-end.
type Metrics struct {
	registry *prometheus.Registry
	requests *prometheus.HistogramVec
	refusals *prometheus.CounterVec
	stages   *prometheus.HistogramVec

	previews  map[string]prometheus.Observer
	creates   *prometheus.HistogramVec
	wakes     *prometheus.HistogramVec
	slots     *prometheus.HistogramVec
	ended     *prometheus.CounterVec
	fallbacks prometheus.Counter
	reapFails prometheus.Counter

	consul, nomad *prometheus.HistogramVec
	store         *prometheus.HistogramVec
	nodes         *prometheus.CounterVec

	// Leads is 1 while this front-end leads.
	Leads       prometheus.Gauge
	connections prometheus.Gauge
	refused     map[bool]prometheus.Counter // whether for all clients together

	// AuditLost counts events that the audit log has not taken.
	AuditLost prometheus.Counter
}

var _ frontend.Observer = (*Metrics)(nil)

// New makes them, with those of the process and of Go's runtime.
func New() *Metrics {
	histogram := func(name, help string, labels ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		requests: histogram("buntime_request_duration_seconds", "Requests of the API, by route and status; of a stream, until its end.", "route", "status"),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "buntime_errors_total", Help: "Answers of the API that are errors, by route and code.",
		}, []string{"route", "code"}),
		stages:  histogram("buntime_stage_duration_seconds", "Where requests' time went, by route and stage, as in Server-Timing.", "route", "stage"),
		creates: histogram("buntime_create_duration_seconds", "Creates of sessions, by what they came from (slot, job: a cold start, none) and result.", "from", "result"),
		wakes:   histogram("buntime_wake_duration_seconds", "Wakes from deep sleep until a node has the session, by result. What the node takes then is its own buntime_node_start_duration_seconds.", "result"),
		slots:   histogram("buntime_slot_duration_seconds", "How long slots take until they are ready, by result.", "result"),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "buntime_sessions_ended_total", Help: "Sessions that have ended, by reason: deleted, expired, not_started, or lost (with nothing to fall back on).",
		}, []string{"reason"}),
		fallbacks: counter("buntime_fallbacks_total", "Sessions that lost their node and fell back to their last checkpoint."),
		reapFails: counter("buntime_reap_failures_total", "Rounds of the reaper that have failed."),
		consul:    calls.Histogram("buntime_consul_request_duration_seconds", "How long Consul takes to answer, by operation and class of status; watch waits for news."),
		nomad:     calls.Histogram("buntime_nomad_request_duration_seconds", "How long Nomad takes to answer, by operation and class of status; watch waits for news."),
		store:     calls.Histogram("buntime_store_request_duration_seconds", "How long the object store takes, tries included, by operation and status: ok, missing, error."),
		nodes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "buntime_node_call_failures_total", Help: "Calls of nodes that the session's node has not answered: unreachable, moved (the session is elsewhere by now) or lost (the connection broke).",
		}, []string{"reason"}),
		Leads:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "buntime_leader", Help: "1 if this front-end leads, else 0."}),
		AuditLost: counter("buntime_audit_lost_total", "Events that are not in the audit log, as it could not be written, or not fast enough."),
	}
	previews := histogram("buntime_preview_duration_seconds", "Requests of previews, by class of the status; a stream until its end. none: the visitor had gone before an answer.", "status")
	m.previews = map[string]prometheus.Observer{}
	for _, class := range calls.Classes {
		m.previews[class] = previews.WithLabelValues(class)
	}
	for _, result := range []frontend.Outcome{frontend.OutcomeOK, frontend.OutcomeRefused, frontend.OutcomeError} {
		m.creates.WithLabelValues(frontend.FromSlot, string(result))
		m.creates.WithLabelValues(frontend.FromJob, string(result))
		m.wakes.WithLabelValues(string(result))
		m.slots.WithLabelValues(string(result))
	}
	m.creates.WithLabelValues(frontend.FromNone, string(frontend.OutcomeError))
	m.connections = prometheus.NewGauge(prometheus.GaugeOpts{Name: "buntime_connections", Help: "Connections of clients that are open."})
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "buntime_connections_refused_total", Help: "Connections that were closed at once, by reason: total, there were connections.total of all clients, or client, there were connections.per_client of one.",
	}, []string{"reason"})
	m.refused = map[bool]prometheus.Counter{true: refused.WithLabelValues("total"), false: refused.WithLabelValues("client")}
	for _, why := range []string{frontend.EndDeleted, frontend.EndExpired, frontend.EndNotStarted, frontend.EndLost} {
		m.ended.WithLabelValues(why)
	}
	for _, reason := range []string{"unreachable", "moved", "lost"} {
		m.nodes.WithLabelValues(reason)
	}
	m.registry.MustRegister(
		m.requests, m.refusals, m.stages, previews, m.creates, m.wakes, m.slots, m.ended, m.fallbacks, m.reapFails,
		m.consul, m.nomad, m.store, m.nodes, m.Leads, m.AuditLost, m.connections, refused,
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

// Preview counts a request of a preview by the status of its answer, 0 if there was none.
func (m *Metrics) Preview(status int, took time.Duration) {
	m.previews[calls.Class(status)].Observe(took.Seconds())
}

// Room has connections counted; see door.Room.
func (m *Metrics) Room(r door.Room) door.Room {
	r.Open = func(change int) { m.connections.Add(float64(change)) }
	r.Refused = func(all bool) { m.refused[all].Inc() }
	return r
}

// Consul has calls of Consul counted.
func (m *Metrics) Consul(next http.RoundTripper) http.RoundTripper {
	return calls.Measured(next, calls.Consul, m.consul)
}

// Nomad has calls of Nomad counted.
func (m *Metrics) Nomad(next http.RoundTripper) http.RoundTripper {
	return calls.Measured(next, calls.Nomad, m.nomad)
}

// Store is told of calls of the object store: a store.Observer.
func (m *Metrics) Store(operation string, _ int, took time.Duration, err error) {
	m.store.WithLabelValues(operation, calls.Result(err)).Observe(took.Seconds())
}

// NodeFailed counts a call that a node has not answered; see node.Client.
func (m *Metrics) NodeFailed(reason string) { m.nodes.WithLabelValues(reason).Inc() }

// Created implements frontend.Observer.
func (m *Metrics) Created(from string, took time.Duration, result frontend.Outcome) {
	m.creates.WithLabelValues(from, string(result)).Observe(took.Seconds())
}

// Woke implements frontend.Observer.
func (m *Metrics) Woke(took time.Duration, result frontend.Outcome) {
	m.wakes.WithLabelValues(string(result)).Observe(took.Seconds())
}

// MadeSlot implements frontend.Observer.
func (m *Metrics) MadeSlot(took time.Duration, result frontend.Outcome) {
	m.slots.WithLabelValues(string(result)).Observe(took.Seconds())
}

// Ended implements frontend.Observer.
func (m *Metrics) Ended(why string) { m.ended.WithLabelValues(why).Inc() }

// FellBack implements frontend.Observer.
func (m *Metrics) FellBack() { m.fallbacks.Inc() }

// Reaped implements frontend.Observer.
func (m *Metrics) Reaped(err error) {
	if err != nil {
		m.reapFails.Inc()
	}
}
