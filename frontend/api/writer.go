// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"fmt"
	"net/http"
	"time"

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
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter. What a node has said about its
// own time stands after ours.
func (w *writer) WriteHeader(status int) {
	if !w.wrote {
		w.wrote, w.status = true, status
		ours := fmt.Sprintf("%s, total;dur=%.3f", w.spans, float64(time.Since(w.begin))/float64(time.Millisecond))
		if node := w.Header().Get("Server-Timing"); node != "" {
			ours += ", " + node
		}
		w.Header().Set("Server-Timing", ours)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	if !w.wrote {
		w.WriteHeader(http.StatusOK)
	}
	return w.ResponseWriter.Write(p)
}
