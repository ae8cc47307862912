// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package calls measures, for Prometheus, how long others take to answer this process:
// Consul, Nomad and the object store. Its labels have the few values that are named here,
// whatever was asked for and answered.
package calls

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/buntime/buntime/driver/snapshot/store"
)

// buckets go from what Consul takes on an idle machine to what anybody waits for it.
var buckets = []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}

// Histogram is of calls, by operation and status.
func Histogram(name, help string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, []string{"operation", "status"})
}

// Class is an HTTP status as a label: "2xx" and so on, or "none" where there was no
// answer.
func Class(status int) string {
	if status < 100 || status > 599 {
		return "none"
	}
	return classes[status/100-1]
}

var classes = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx"}

// Classes are all that Class returns.
var Classes = append(classes[:], "none")

// Measured is next with its calls observed. operation names what a request is for.
func Measured(next http.RoundTripper, operation func(*http.Request) string, to prometheus.ObserverVec) http.RoundTripper {
	return &measured{next, operation, to}
}

type measured struct {
	next      http.RoundTripper
	operation func(*http.Request) string
	to        prometheus.ObserverVec
}

// RoundTrip implements http.RoundTripper.
func (m *measured) RoundTrip(r *http.Request) (*http.Response, error) {
	operation, begin := m.operation(r), time.Now()
	res, err := m.next.RoundTrip(r)
	status := 0
	if err == nil {
		status = res.StatusCode
	} else if r.Context().Err() != nil && operation == watch {
		return res, err // who waited has gone, as always in the end
	}
	m.to.WithLabelValues(operation, Class(status)).Observe(time.Since(begin).Seconds())
	return res, err
}

// CloseIdleConnections is for http.Client's.
func (m *measured) CloseIdleConnections() {
	if c, ok := m.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// watch is a question that is answered when something happens: it takes as long as that.
const watch = "watch"

// watches says whether a request is one.
func watches(r *http.Request) bool {
	return r.Method == http.MethodGet && (strings.HasPrefix(r.URL.RawQuery, "index=") || strings.Contains(r.URL.RawQuery, "&index="))
}

// Consul names what a request to Consul is for.
func Consul(r *http.Request) string {
	path := r.URL.Path
	switch {
	case watches(r):
		return watch
	case path == "/v1/txn":
		return "txn"
	case strings.HasPrefix(path, "/v1/session/"):
		return "session"
	case strings.HasPrefix(path, "/v1/agent/"):
		return "agent"
	case !strings.HasPrefix(path, "/v1/kv/"):
		return "other"
	}
	switch r.Method {
	case http.MethodPut:
		return "put"
	case http.MethodDelete:
		return "delete"
	}
	if strings.Contains(r.URL.RawQuery, "recurse=") || strings.Contains(r.URL.RawQuery, "keys=") {
		return "list"
	}
	return "get"
}

// Nomad names what a request to Nomad is for.
func Nomad(r *http.Request) string {
	path := r.URL.Path
	switch {
	case watches(r):
		return watch
	case path == "/v1/jobs/parse":
		return "parse"
	case path == "/v1/jobs" && r.Method != http.MethodGet:
		return "register"
	case path == "/v1/jobs", path == "/v1/nodes":
		return "list"
	case r.Method == http.MethodDelete:
		return "deregister"
	case r.Method == http.MethodGet:
		return "read"
	}
	return "other"
}

// Result is how a call of an object store ended, as a label.
func Result(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, store.ErrNotExist):
		return "missing"
	}
	return "error"
}
