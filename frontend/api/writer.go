// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/timing"
)

// writer adds to an answer where its time went, when its head is written.
type writer struct {
	http.ResponseWriter
	spans *timing.Recorder
	begin time.Time
	wrote bool
	// status is that of the answer, once its head is written.
	status int
	// route is the pattern that took the request, and code that of an error.
	route, code string

	// Who asks for what: for the audit log.
	request, remote    string
	key                frontend.Key
	session, execution string
	recorded           bool
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter. What a node has said about its
// own time stands after ours.
func (w *writer) WriteHeader(status int) {
	if !w.wrote {
		w.wrote, w.status = true, status
		w.time(w.spans.String()+", "+w.total(), w.Header().Values(timingHeader))
	}
	w.ResponseWriter.WriteHeader(status)
}

const timingHeader = "Server-Timing"

func (w *writer) time(ours string, node []string) {
	w.Header().Set(timingHeader, strings.Join(append([]string{ours}, node...), ", "))
}

func (w *writer) total() string {
	return fmt.Sprintf("total;dur=%.3f", float64(time.Since(w.begin))/float64(time.Millisecond))
}

// trail ends an answer whose head announced the header as a trailer, too: the times
// until the end, with what the node says at its own.
func (w *writer) trail(node http.Header) { w.time(w.total(), node.Values(timingHeader)) }

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}
