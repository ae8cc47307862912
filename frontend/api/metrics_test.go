// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"net/http"
	"strings"
	"testing"
)

// TestMetrics: an operator's key reads how requests went; nobody else does, and nothing
// that a stranger says becomes a name there.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`).ok(nil)
	w.send(paid, "POST", "/execute", `{"sessionId":"none","code":"1"}`).refused(http.StatusNotFound, "session_not_found")
	w.send(paid, "POST", "/sessions/create", `{"ttl":1}`).refused(http.StatusBadRequest, "invalid_request")
	w.send(paid, "GET", "/sessions?limit=x", "").refused(http.StatusBadRequest, "invalid_request")
	w.send(paid, "GET", "/stranger-chose-this", "").refused(http.StatusNotFound, "not_found")
	w.send("btk_nobody", "GET", "/sessions", "").refused(http.StatusUnauthorized, "unauthorized")

	w.send(paid, "GET", "/metrics", "").refused(http.StatusForbidden, "forbidden")
	w.send("", "GET", "/metrics", "").refused(http.StatusUnauthorized, "unauthorized")
	r := w.send(op, "GET", "/metrics", "")
	if r.Code != http.StatusOK {
		t.Fatalf("%d %s", r.Code, r.Body)
	}
	text := r.Body.String()
	for _, line := range []string{
		`buntime_request_duration_seconds_count{route="POST /execute",status="200"} 1`,
		`buntime_request_duration_seconds_count{route="POST /execute",status="404"} 1`,
		`buntime_errors_total{code="session_not_found",route="POST /execute"} 1`,
		`buntime_errors_total{code="invalid_request",route="POST /sessions/create"} 1`,
		`buntime_errors_total{code="invalid_request",route="GET /sessions"} 1`,
		`buntime_errors_total{code="not_found",route="none"} 1`,
		`buntime_errors_total{code="unauthorized",route="GET /sessions"} 1`,
		`buntime_errors_total{code="forbidden",route="GET /metrics"} 1`,
		`buntime_stage_duration_seconds_count{route="POST /execute",stage="node"} 1`,
		`go_goroutines`, `process_resident_memory_bytes`,
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %s", line)
		}
	}
	for _, word := range []string{"stranger", id, "btk_", "paid"} {
		if strings.Contains(text, word) {
			t.Errorf("%q is in the metrics", word)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
