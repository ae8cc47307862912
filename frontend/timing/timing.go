// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package timing notes where the time of a request went: for its client, in the answer,
// and for the operator, in a trace.
package timing

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	"github.com/buntime/buntime/driver/tracing"
)

// Recorder sums up the spans of one request. The zero value is ready.
type Recorder struct {
	mu    sync.Mutex
	spans []span
}

type span struct {
	name string
	took time.Duration
}

type key struct{}

// With is a context whose spans go to r.
func With(ctx context.Context, r *Recorder) context.Context {
	return context.WithValue(ctx, key{}, r)
}

// Start begins a span and returns what ends it. Without a Recorder in the
// context nothing is noted but in a trace.
func Start(ctx context.Context, name string) func() {
	_, stop := Span(ctx, name)
	return stop
}

// Span is Start for what has parts of its own, or goes on elsewhere. Attributes are the
// trace's.
func Span(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, func()) {
	ctx, traced := tracing.Span(ctx, name, attributes...)
	r, ok := ctx.Value(key{}).(*Recorder)
	if !ok {
		return ctx, traced
	}
	begin := time.Now()
	return ctx, func() {
		r.Add(name, time.Since(begin))
		traced()
	}
}

// Add adds to a span.
func (r *Recorder) Add(name string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.spans {
		if r.spans[i].name == name {
			r.spans[i].took += took
			return
		}
	}
	r.spans = append(r.spans, span{name, took})
}

// Each calls f with each span.
func (r *Recorder) Each(f func(name string, took time.Duration)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		f(s.name, s.took)
	}
}

// String is the spans in the form of a Server-Timing header, in milliseconds.
func (r *Recorder) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var b strings.Builder
	for i, s := range r.spans {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s;dur=%.3f", s.name, float64(s.took)/float64(time.Millisecond))
	}
	return b.String()
}
