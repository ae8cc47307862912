// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/go-json-experiment/json"
	"go.opentelemetry.io/otel/trace"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/tracing"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/audit"
	"github.com/buntime/buntime/frontend/logging"
	"github.com/buntime/buntime/frontend/metrics"
	"github.com/buntime/buntime/frontend/node"
	"github.com/buntime/buntime/frontend/timing"
)

// Forwarder sends requests to the node that carries a session.
type Forwarder interface {
	// Do is that of node.Client, whose errors it returns.
	Do(ctx context.Context, s *frontend.Session, r node.Request) (*http.Response, error)
}

// Config is what a Server needs.
type Config struct {
	Sessions *frontend.Service
	Node     Forwarder
	Keys     Keys
	// BaseURL is where clients find the API, for the OpenAPI document.
	BaseURL string
	// PreviewScheme and PreviewDomain (with a port, if it is not the scheme's
	// own) make preview URLs.
	PreviewScheme, PreviewDomain string
	// Secret is what the front-ends share; it signs tickets.
	Secret []byte
	Log    *slog.Logger
	// Metrics count the requests. Default: new ones.
	Metrics *metrics.Metrics
	// Audit is told who has done what; nil: nobody is.
	Audit *audit.Log
}

// Server is the API as an http.Handler.
type Server struct {
	Config
	// NodeWait is how long a request waits for a node agent that is not there,
	// as one that is being restarted.
	NodeWait time.Duration
	// ReadyFor is how long it is believed that Nomad and Consul are there, or
	// are not.
	ReadyFor time.Duration

	public  *http.ServeMux // for everyone
	private *http.ServeMux // for those with a key
	limits  limiter
	bodies  bodies
	ready   readiness
	leaving leaving
	// draining says that requests are to go to another front-end.
	draining atomic.Bool
	// Requests without a valid key are counted by address, against this.
	strangers int
}

// New makes a Server.
func New(c Config) (*Server, error) {
	free, err := frontend.FindPlan("free")
	if err != nil {
		return nil, err
	}
	if c.Metrics == nil {
		c.Metrics = metrics.New()
	}
	s := &Server{Config: c, NodeWait: frontend.NodeWait, ReadyFor: 500 * time.Millisecond, private: http.NewServeMux(), strangers: free.Requests}
	s.leaving.begin()
	document, page, err := s.routes()
	if err != nil {
		return nil, err
	}
	s.public, err = s.publicRoutes(document, page)
	return s, err
}

// format writes answers; bodies are read by JSON.
var format = huma.Format{
	Marshal: func(w io.Writer, v any) error { return json.MarshalWrite(w, v) },
}

// routes registers all operations that need a key, and returns the OpenAPI
// document that they make, and the page of it.
func (s *Server) routes() (document, page []byte, err error) {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	api := humago.New(s.private, huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "Buntime", Version: "1",
				Description: "Isolated Bun sessions that keep their files and processes between executions.",
			},
			Servers: []*huma.Server{{URL: s.BaseURL}},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{
					"key": {Type: "http", Scheme: "bearer", Description: "An API key: btk_…"},
				},
			},
			Security: []map[string][]string{{"key": {}}},
		},
		Formats:       map[string]huma.Format{"application/json": format},
		DefaultFormat: "application/json",
	})
	s.accountRoutes(api)
	s.sessionRoutes(api)
	s.executionRoutes(api)
	s.fileRoutes(api)
	s.archiveRoutes(api)
	s.terminalRoutes(api)
	s.ticketRoutes(api)
	s.operatorRoutes(api)
	documentHeaders(api.OpenAPI())
	s.private.HandleFunc("GET /metrics", s.serveMetrics)
	s.mcpRoutes()
	if document, err = api.OpenAPI().MarshalJSON(); err != nil {
		return nil, nil, fmt.Errorf("encode OpenAPI document: %w", err)
	}
	page, err = renderDocs(api.OpenAPI())
	return document, page, err
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	spans := new(timing.Recorder)
	out := &writer{ResponseWriter: w, spans: spans, begin: time.Now()}
	id := door.RequestID(r.Header)
	if id == "" {
		id = frontend.NewRequestID()
	}
	out.request, out.remote = id, r.RemoteAddr
	out.Header().Set(door.RequestHeader, id)
	secure(out.Header())
	log := s.Log.With("request", id, "method", r.Method, "path", r.URL.Path)
	ctx, span := tracing.Root(r.Context(), r)
	span.SetAttributes(tracing.Request.String(id))
	defer func() {
		tracing.Answered(span, out.status)
		s.count(ctx, out)
	}()
	defer recoverPanic(out, log)

	ctx = timing.With(ctx, spans)
	ctx = context.WithValue(ctx, logContext{}, log)
	ctx = logging.With(ctx, id)
	ctx = context.WithValue(ctx, writerContext{}, out)
	r = r.WithContext(ctx)
	if err := s.serve(out, r); err != nil {
		fail(out, err)
	}
}

// count counts a request that is over, and has it written down.
func (s *Server) count(ctx context.Context, w *writer) {
	if w.route == "" {
		w.route = "none" // whatever its path was
	}
	if w.code == "" && w.status >= http.StatusBadRequest { // what huma itself finds wrong
		w.code = string(frontend.CodeInvalidRequest)
	}
	s.Metrics.Request(w.route, w.status, w.code, time.Since(w.begin))
	w.spans.Each(func(name string, took time.Duration) { s.Metrics.Stage(w.route, name, took) })
	s.record(w)
	if log := logger(ctx); log.Enabled(ctx, slog.LevelDebug) {
		log.Debug("request", "route", w.route, "status", w.status, "code", w.code, "took", time.Since(w.begin),
			"account", w.key.Account, "key", w.key.ID, "session", w.session, "execution", w.execution, "remote", w.remote)
	}
}

// serve answers a request, or says why it does not.
func (s *Server) serve(w *writer, r *http.Request) error {
	key, name, known, unsure := s.find(r)
	w.spans.Add("auth", time.Since(w.begin))
	var at standing
	if known {
		at = s.limits.take(name, 1, key.Allowed.Requests, w.begin)
	} else {
		at = s.limits.take(address(r), 0, s.strangers, w.begin)
	}
	at.write(w.Header())

	if path.Clean(r.URL.Path) != r.URL.Path { // the mux would redirect
		return notFound(r)
	}
	if _, pattern := s.public.Handler(r); pattern != "" {
		s.public.ServeHTTP(w, r)
		return nil
	}
	_, pattern := s.private.Handler(r)
	if pattern == "" {
		return s.unrouted(w, r)
	}
	_, route, _ := strings.Cut(pattern, " ")
	span := trace.SpanFromContext(r.Context())
	w.route, w.key = pattern, key
	tracing.Route(span, r.Method, route)
	span.SetAttributes(tracing.Account.String(key.Account))
	if !known {
		at = s.limits.take(address(r), 1, s.strangers, w.begin)
		at.write(w.Header())
	}
	if at.over() {
		e := frontend.Errorf(frontend.CodeRateLimit, "more than %d requests in a minute; try again later", at.limit)
		e.RetryAfter = max(at.end.Sub(w.begin), time.Second)
		return e
	}
	if unsure != nil {
		return unsure
	}
	if !known {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return frontend.Errorf(frontend.CodeUnauthorized, "send a valid API key as Authorization: Bearer btk_…")
	}
	limit := bodyLimit(key)
	if streams(r) {
		limit = int64(key.Allowed.Disk)<<20 + archiveSlack
	}
	if r.ContentLength > limit { // before any of it is read
		return tooLarge(limit)
	}
	if !streams(r) {
		if err := s.bodies.enter(name, r.ContentLength, limit); err != nil {
			return err
		}
		defer s.bodies.leave(name, r.ContentLength, limit)
	}
	r.Body = http.MaxBytesReader(w.ResponseWriter, r.Body, limit)
	s.private.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), keyContext{}, key)))
	return nil
}

// bodyLimit leaves room for one file of the largest size in whatever encoding,
// and for much else.
func bodyLimit(key frontend.Key) int64 { return 2*int64(key.Allowed.FileSize) + 8<<20 }

// address names who has no key.
func address(r *http.Request) string { return "address " + door.Client(r.RemoteAddr).String() }

// secure tells browsers that answers are data: not to be shown as a page,
// whatever a session has put in them, nor to be kept. There are no headers that
// let pages of other origins read them, and no cookie means anything here.
func secure(h http.Header) {
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'; sandbox")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
}

func notFound(r *http.Request) error {
	return frontend.Errorf(frontend.CodeNotFound, "there is no %s here; see /openapi.json for what there is", r.URL.Path)
}

// unrouted is the error for a request that no route takes: its path is
// unknown, or known with other methods.
func (s *Server) unrouted(w http.ResponseWriter, r *http.Request) error {
	var allowed []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete} {
		other := &http.Request{Method: method, URL: r.URL, Host: r.Host}
		_, private := s.private.Handler(other)
		_, public := s.public.Handler(other)
		if private+public != "" {
			allowed = append(allowed, method)
		}
	}
	if allowed == nil {
		return notFound(r)
	}
	w.Header().Set("Allow", strings.Join(allowed, ", "))
	return frontend.Errorf(frontend.CodeMethodNotAllowed, "%s takes %s, not %s", r.URL.Path, strings.Join(allowed, " and "), r.Method)
}

// recoverPanic answers a request whose handler panicked.
func recoverPanic(w *writer, log *slog.Logger) {
	switch p := recover(); p {
	case nil:
	case http.ErrAbortHandler: // how net/http is told to break the connection
		panic(p)
	default:
		log.Error("panic", "value", p, "stack", string(debug.Stack()))
		if w.wrote {
			panic(http.ErrAbortHandler)
		}
		fail(w, internal())
	}
}

// fail writes an error.
func fail(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*frontend.Error](err)
	if !ok {
		e = internal()
	}
	if out, ok := w.(*writer); ok {
		out.code = string(e.Code)
	}
	f := &Failure{Err: e}
	maps.Copy(w.Header(), f.GetHeaders())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(f.GetStatus())
	// A client that is gone does not read the answer; nothing is to be done.
	_ = json.MarshalWrite(w, f)
}

type (
	logContext    struct{}
	writerContext struct{}
)

// logger is that of the request that a context belongs to.
func logger(ctx context.Context) *slog.Logger {
	if log, ok := ctx.Value(logContext{}).(*slog.Logger); ok {
		return log
	}
	return slog.Default()
}
