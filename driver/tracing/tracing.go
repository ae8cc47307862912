// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package tracing sends OpenTelemetry traces of requests, from the front-end to the
// execution, to where OpenTelemetry's own environment variables say:
// OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) by OTLP over HTTP, with
// OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES and the others as they are specified.
// Without an endpoint nothing is recorded, and nothing is spent on it.
package tracing

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.39.0"
	"go.opentelemetry.io/otel/trace"
)

// Attributes of spans that are not OpenTelemetry's own.
const (
	Session   = attribute.Key("buntime.session")
	Execution = attribute.Key("buntime.execution")
	Request   = attribute.Key("buntime.request")
	Account   = attribute.Key("buntime.account")
)

// tracer is whatever Start has set up, once it has.
var tracer = otel.Tracer("github.com/buntime/buntime")

// The form in which a trace goes from front-end to node: traceparent and tracestate.
var form = propagation.TraceContext{}

// Start has spans sent from now on, as those of a service, if the environment has an
// endpoint. What cannot be sent is dropped, and failed is told why. stop sends what is
// left, as long as its context lasts.
func Start(ctx context.Context, service string, failed func(error)) (stop func(context.Context) error, err error) {
	if !configured(os.Getenv) {
		return func(context.Context) error { return nil }, nil
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("set up traces: %w", err)
	}
	what, err := resource.New(ctx, resource.WithAttributes(semconv.ServiceName(service)), resource.WithHost(), resource.WithFromEnv())
	if err != nil {
		return nil, fmt.Errorf("set up traces: %w", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(failed))
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(what))
	otel.SetTracerProvider(provider)
	on.Store(true)
	return func(ctx context.Context) error {
		on.Store(false)
		return provider.Shutdown(ctx)
	}, nil
}

// on says whether anything is recorded.
var on atomic.Bool

// Past records a request that is over, of a stranger, that nothing was begun for.
func Past(name, method string, begin time.Time, status int, attributes ...attribute.KeyValue) {
	if !on.Load() {
		return
	}
	_, span := tracer.Start(context.Background(), name, trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithTimestamp(begin), trace.WithAttributes(append(attributes, semconv.HTTPRequestMethodKey.String(method))...))
	Answered(span, status)
}

func configured(env func(string) string) bool {
	return !strings.EqualFold(env("OTEL_SDK_DISABLED"), "true") &&
		(env("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || env("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != "")
}

// Root begins the trace of a stranger's request, which a link connects with the trace
// that the request says it belongs to: the stranger decides neither its id nor
// whether it is recorded.
func Root(ctx context.Context, r *http.Request) (context.Context, trace.Span) {
	options := []trace.SpanStartOption{trace.WithNewRoot(), trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(semconv.HTTPRequestMethodKey.String(r.Method))}
	if r.Header.Get("Traceparent") != "" {
		if theirs := trace.SpanContextFromContext(form.Extract(context.Background(), propagation.HeaderCarrier(r.Header))); theirs.IsValid() {
			options = append(options, trace.WithLinks(trace.Link{SpanContext: theirs}))
		}
	}
	return tracer.Start(ctx, r.Method, options...)
}

// Continue goes on with the trace of a front-end's request, if it has one.
func Continue(ctx context.Context, r *http.Request, name string) (context.Context, trace.Span) {
	if r.Header.Get("Traceparent") == "" {
		return ctx, trace.SpanFromContext(context.Background())
	}
	ctx = form.Extract(ctx, propagation.HeaderCarrier(r.Header))
	return tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer))
}

// Span begins a part of what is traced, and returns what ends it. Where nothing is, it
// does nothing.
func Span(ctx context.Context, name string, attributes ...attribute.KeyValue) (context.Context, func()) {
	if !trace.SpanFromContext(ctx).IsRecording() {
		return ctx, func() {}
	}
	ctx, span := tracer.Start(ctx, name, trace.WithAttributes(attributes...))
	return ctx, func() { span.End() }
}

// Send has a request carry the trace that it belongs to, if it does.
func Send(ctx context.Context, h http.Header) {
	if trace.SpanContextFromContext(ctx).IsValid() {
		form.Inject(ctx, propagation.HeaderCarrier(h))
	}
}

// Answered notes the answer to a request, and ends its span.
func Answered(span trace.Span, status int) {
	if span.IsRecording() && status != 0 { // 0: its client went away before
		span.SetAttributes(semconv.HTTPResponseStatusCode(status))
		if status >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, http.StatusText(status))
		}
	}
	span.End()
}

// Route names a server's span after its route, once that is known.
func Route(span trace.Span, method, route string) {
	if span.IsRecording() {
		span.SetName(method + " " + route)
		span.SetAttributes(semconv.HTTPRoute(route))
	}
}
