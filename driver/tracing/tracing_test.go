// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package tracing

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/tracing/tracingtest"
)

// TestTrace: a request's trace is ours, linked with what its client said, and goes from
// one process to the next.
func TestTrace(t *testing.T) {
	for _, env := range []map[string]string{{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}} {
		if configured(func(name string) string { return env[name] }) {
			t.Errorf("spans are sent with %v", env)
		}
	}
	bare := httptest.NewRequest(http.MethodGet, "/", nil)
	ctx, span := Root(t.Context(), bare)
	h := http.Header{}
	Send(ctx, h)
	if span.IsRecording() || len(h) > 0 {
		t.Errorf("without an endpoint: %v, %v", span, h)
	}

	Past("too early", http.MethodGet, time.Now(), http.StatusOK)

	c := tracingtest.Start(t)
	for _, kv := range c.Env() {
		name, value, _ := strings.Cut(kv, "=")
		t.Setenv(name, value)
	}
	stop, err := Start(t.Context(), "service", func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	const theirs = "0af7651916cd43dd8448eb211c80319c"
	r := httptest.NewRequest(http.MethodPost, "/a", nil)
	r.Header.Set("Traceparent", "00-"+theirs+"-b7ad6b7169203331-00") // which says not to record it
	ctx, root := Root(r.Context(), r)
	Route(root, http.MethodPost, "/a")
	ctx, done := Span(ctx, "node", Session.String("ses_1"))
	next := httptest.NewRequest(http.MethodPost, "/b", nil)
	Send(ctx, next.Header)
	_, far := Continue(next.Context(), next, "far")
	Answered(far, http.StatusOK)
	done()
	Answered(root, http.StatusBadGateway)
	if _, none := Continue(t.Context(), bare, "bare"); none.IsRecording() {
		t.Error("what no front-end traces is traced")
	}
	begin := time.Now().Add(-time.Minute)
	Past("past", http.MethodGet, begin, http.StatusNotFound, Session.String("ses_2"))
	if err := stop(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	spans := map[string]tracingtest.Span{}
	for _, s := range c.Spans() {
		spans[s.Name] = s
	}
	first, node, last := spans["POST /a"], spans["node"], spans["far"]
	Past("too late", http.MethodGet, time.Now(), http.StatusOK)
	if past := spans["past"]; past.Parent != "" || past.Trace == first.Trace || past.Attributes[string(Session)] != "ses_2" {
		t.Errorf("%+v", past)
	}
	if len(spans) != 4 || first.Service != "service" || first.Parent != "" || node.Parent != first.ID || last.Parent != node.ID || last.Trace != first.Trace {
		t.Errorf("%+v", spans)
	}
	if first.Trace == theirs || len(first.Links) != 1 || first.Links[0] != theirs || node.Attributes[string(Session)] != "ses_1" {
		t.Errorf("%+v", spans)
	}
}
