// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package metrics counts what a node does, for Prometheus. All names begin with
// buntime_node_; times are in seconds and sizes in bytes. No label has a value that
// a session, or a stranger, can choose: there are as many series on a busy node as on one
// that has just started.
//
// There is one plugin in a process, and so one of each metric.
package metrics

import (
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/buntime/buntime/driver/calls"
)

var registry = prometheus.NewRegistry()

func init() {
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

// The buckets of what takes milliseconds, of what may take minutes, and of bytes.
var (
	quick = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	slow  = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300}
)

func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	v := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "buntime_node_" + name, Help: help, Buckets: buckets}, labels)
	registry.MustRegister(v)
	return v
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "buntime_node_" + name, Help: help}, labels)
	registry.MustRegister(v)
	return v
}

func gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "buntime_node_" + name, Help: help})
	registry.MustRegister(g)
	return g
}

// Timer is how long something takes that ends well or not.
type Timer struct{ ok, failed prometheus.Observer }

// Since observes what began then and is over.
func (t Timer) Since(begin time.Time, err error) {
	if err == nil {
		t.ok.Observe(time.Since(begin).Seconds())
	} else {
		t.failed.Observe(time.Since(begin).Seconds())
	}
}

// timer makes the Timer of some labels, to which the result is added.
func timer(v *prometheus.HistogramVec, values ...string) Timer {
	with := func(result string) prometheus.Observer {
		return v.WithLabelValues(append(slices.Clip(values), result)...)
	}
	return Timer{with("ok"), with("error")}
}

// timers makes one for each value of the first of two labels.
func timers(v *prometheus.HistogramVec, values ...string) map[string]Timer {
	m := make(map[string]Timer, len(values))
	for _, value := range values {
		m[value] = timer(v, value)
	}
	return m
}

// counters makes a counter for each value of a label, and another for all other values.
func counters(v *prometheus.CounterVec, values ...string) func(value string) prometheus.Counter {
	m := make(map[string]prometheus.Counter, len(values))
	for _, value := range values {
		m[value] = v.WithLabelValues(value)
	}
	other := v.WithLabelValues("other")
	return func(value string) prometheus.Counter {
		if c, ok := m[value]; ok {
			return c
		}
		return other
	}
}

// The kinds of what is started.
const (
	Job     = "job"     // an ordinary job's sandbox
	Slot    = "slot"    // a session that is nobody's yet
	Session = "session" // a new session
	Wake    = "wake"    // a session that has lived before
)

// What the node does with sandboxes.
var (
	starts = timers(histogram("start_duration_seconds", "How long a sandbox takes from Nomad's word until its init serves, by kind; that of a wake with what is restored before.", slow, "kind", "result"), Job, Slot, Session, Wake)
	// Recovers is of sandboxes that an earlier process of the plugin has left.
	Recovers = timer(histogram("recover_duration_seconds", "How long it takes to find a sandbox of an earlier process again.", slow, "result"))
	// Freezes is of making processes stand still, Thaws of letting them go on.
	Freezes = timer(histogram("freeze_duration_seconds", "How long it takes until a session's processes stand still.", quick, "result"))
	Thaws   = timer(histogram("thaw_duration_seconds", "How long it takes until they go on.", quick, "result"))
	// Restores is of workspaces that are in use before all of them is there, from the
	// start until all is.
	Restores = timer(histogram("restore_duration_seconds", "How long it takes until all files of a session that has woken are on the node.", slow, "result"))
	// Ends is of sandboxes.
	Ends = counters(counter("sandbox_ends_total", "Sandboxes that have ended, by reason: asleep, expired, deleted, stopped (by Nomad), slot, over (noted as such while no plugin was there), exit, oom, killed, and died, of sessions' init.", "reason"),
		"asleep", "expired", "deleted", "stopped", "slot", "over", "exit", "oom", "killed", "died")
)

// stages of a start; see Stage.
var stages = func() map[string]map[string]prometheus.Observer {
	v := histogram("start_stage_duration_seconds", "Where the time of a start goes, by kind and stage: claim (ports, and Consul's word that it is this node's), image (what has to be restored first, of a wake), sandbox (with image), serve.", slow, "kind", "stage")
	m := map[string]map[string]prometheus.Observer{}
	for _, kind := range []string{Job, Slot, Session, Wake} {
		m[kind] = map[string]prometheus.Observer{"sandbox": v.WithLabelValues(kind, "sandbox"), "serve": v.WithLabelValues(kind, "serve")}
		if kind != Job {
			m[kind]["claim"] = v.WithLabelValues(kind, "claim")
		}
		if kind == Wake {
			m[kind]["image"] = v.WithLabelValues(kind, "image")
		}
	}
	return m
}()

// Stage observes a part of a start of a kind, and returns when it ended, which is when the
// next began.
func Stage(kind, stage string, begin time.Time) time.Time {
	now := time.Now()
	if o := stages[kind][stage]; o != nil {
		o.Observe(now.Sub(begin).Seconds())
	}
	return now
}

// Start is of starts of a kind.
func Start(kind string) Timer { return starts[kind] }

// What the node does with sessions' workspaces.
var (
	sleeps    = histogram("sleep_duration_seconds", "How long a session takes to go to deep sleep, by what it does so for: idle, request, stop. interrupted: somebody came.", slow, "cause", "result")
	snapshots = timers(histogram("snapshot_duration_seconds", "How long a snapshot takes, by kind: checkpoint, or final before a deep sleep.", slow, "kind", "result"), "checkpoint", "final")
	snapBytes = counters(counter("snapshot_bytes_total", "Bytes of snapshots, by part: read of the images, changed since the last, stored after compression.", "part"), "read", "changed", "stored")
	// Pauses is how long checkpoints hold up who writes.
	Pauses = func() prometheus.Observer {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "buntime_node_snapshot_pause_seconds", Help: "How long checkpoints hold up who writes to the workspace.", Buckets: quick})
		registry.MustRegister(h)
		return h
	}()
	// Fenced counts sessions that this node had and that live elsewhere by now.
	Fenced = counter("fenced_total", "Sessions that the node had to let go of because they live elsewhere, or are over.").WithLabelValues()
)

func init() {
	for _, cause := range []string{"idle", "request", "stop"} {
		for _, result := range []string{"ok", "error", "interrupted"} {
			sleeps.WithLabelValues(cause, result)
		}
	}
}

// Slept observes a try to bring a session to deep sleep. interrupted: it was not to be.
func Slept(cause string, begin time.Time, err error, interrupted bool) {
	result := "ok"
	switch {
	case interrupted:
		result = "interrupted"
	case err != nil:
		result = "error"
	}
	sleeps.WithLabelValues(cause, result).Observe(time.Since(begin).Seconds())
}

// Snapshot is of snapshots of a kind.
func Snapshot(kind string) Timer { return snapshots[kind] }

// Stored counts what a snapshot took.
func Stored(read, changed, stored int64) {
	for part, n := range map[string]int64{"read": read, "changed": changed, "stored": stored} {
		snapBytes(part).Add(float64(n))
	}
}

// The object store and Consul.
var (
	storeCalls = calls.Histogram("buntime_node_store_request_duration_seconds", "How long the object store takes for the plugin, tries included, by operation and status: ok, missing, error.")
	storeBytes = counter("store_bytes_total", "Bytes that went to the object store (put) or came from it (get).", "operation")
	consul     = calls.Histogram("buntime_node_consul_request_duration_seconds", "How long Consul takes to answer the plugin, by operation and class of status.")
)

func init() {
	registry.MustRegister(storeCalls, consul)
	for _, operation := range []string{"put", "get"} {
		storeBytes.WithLabelValues(operation)
		for _, status := range []string{"ok", "error"} {
			storeCalls.WithLabelValues(operation, status)
		}
	}
}

// Consul is what calls of Consul are observed by.
func Consul() prometheus.ObserverVec { return consul }

// Store is told of calls of the object store: a store.Observer.
func Store(operation string, bytes int, took time.Duration, err error) {
	storeCalls.WithLabelValues(operation, calls.Result(err)).Observe(took.Seconds())
	if bytes > 0 {
		storeBytes.WithLabelValues(operation).Add(float64(bytes))
	}
}

// The restorer, a process of its own.
var (
	// RestorerUp is 1 while there is one, RestorerStarts counts them.
	RestorerUp     = gauge("restorer_up", "1 while the restorer is there, 0 while it is not, or there is to be none.")
	RestorerStarts = counter("restorer_starts_total", "How often the plugin has started a restorer.").WithLabelValues()
	fetches        = counters(counter("restorer_fetches_total", "What the restorer has fetched from the object store, by result.", "result"), "ok", "error")
	fetchedBytes   = counter("restorer_fetched_bytes_total", "Bytes that the restorer has fetched from the object store.").WithLabelValues()
	fetchSeconds   = counter("restorer_fetch_seconds_total", "Seconds that those fetches took together.").WithLabelValues()
)

// Fetched counts what the restorer says it has fetched.
func Fetched(ok, failed, bytes int64, took time.Duration) {
	fetches("ok").Add(float64(max(ok, 0)))
	fetches("error").Add(float64(max(failed, 0)))
	fetchedBytes.Add(float64(max(bytes, 0)))
	fetchSeconds.Add(max(took.Seconds(), 0))
}

// Executions and what they need.
var (
	executions = counter("executions_total", "Executions that are over for their callers, by kind (code, command) and reason: exit, signal, timeout, oom, killed, interrupted, or background for what stays.", "kind", "reason")
	execCPU    = counter("execution_cpu_seconds_total", "CPU time of executions until their answer.").WithLabelValues()
	// RunnerStarts is of Bun processes that wait for code, Taken of those that code was
	// given to: there was one, one was starting, or none was.
	RunnerStarts = timer(histogram("runner_start_duration_seconds", "How long a runner takes to be ready.", quick, "result"))
	taken        = counters(counter("runners_taken_total", "Runners that code was given to, by whether one was ready, starting, or none.", "state"), "ready", "starting", "none")
	// Stale counts runners that could not take code any more.
	Stale = counter("runners_stale_total", "Runners that turned out to be of no use for the code that came.").WithLabelValues()
)

// The reasons of executions, as answers have them, and that of those that stay.
var reasons = []string{"exit", "signal", "timeout", "oom", "killed", "interrupted", "background"}

// ended has the counters of executions, by kind and reason.
var ended = func() map[[2]string]prometheus.Counter {
	m := map[[2]string]prometheus.Counter{}
	for _, kind := range []string{"code", "command"} {
		for _, reason := range reasons {
			m[[2]string{kind, reason}] = executions.WithLabelValues(kind, reason)
		}
	}
	return m
}()

// Executed counts an execution that its caller has the answer of.
func Executed(code bool, reason string, cpu time.Duration) {
	kind := "command"
	if code {
		kind = "code"
	}
	if c := ended[[2]string{kind, reason}]; c != nil {
		c.Inc()
	}
	execCPU.Add(max(cpu.Seconds(), 0))
}

// Taken counts a runner that code was given to.
func Taken(state string) { taken(state).Inc() }

// Requests of front-ends, and of previews.
var (
	requests = histogram("request_duration_seconds", "How long requests of front-ends take, by route; a stream until its end.", slow, "route")
	refusals = counters(counter("errors_total", "Answers to front-ends that are errors, by the code that clients see.", "code"),
		"invalid_request", "session_not_found", "file_not_found", "execution_not_found", "session_busy", "file_too_large",
		"service_unavailable", "internal_error", "memory_limit_exceeded", "disk_full", "execution_timeout", "request_timeout")
	previews = func() (list [6]prometheus.Counter) {
		v := counter("preview_requests_total", "Requests of previews, by the class of the answer's status; none: the visitor had gone before it.", "status")
		for i, class := range calls.Classes {
			list[i] = v.WithLabelValues(class)
		}
		return list
	}()
)

// Route is what requests of a route are observed by. Routes are the node's own.
func Route(pattern string) prometheus.Observer { return requests.WithLabelValues(pattern) }

// Refused counts an answer that is an error.
func Refused(code string) { refusals(code).Inc() }

// Previewed counts a request of a preview by its answer's status, 0 if there was none.
func Previewed(status int) {
	i := status/100 - 1
	if i < 0 || i >= len(previews)-1 {
		i = len(previews) - 1
	}
	previews[i].Inc()
}
