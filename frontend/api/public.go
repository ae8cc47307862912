// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/console"
)

// readyTimeout is how long Nomad and Consul may take to say that they are there.
const readyTimeout = 2 * time.Second

// publicRoutes are those that need no key.
func (s *Server) publicRoutes(document, page []byte) (*http.ServeMux, error) {
	pages, err := console.New(s.PreviewScheme + "://*." + s.PreviewDomain)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /console", pages.ServePage)
	mux.HandleFunc("GET /console/{file}", func(w http.ResponseWriter, r *http.Request) {
		if !pages.ServeFile(w, r, r.PathValue("file")) {
			fail(w, notFound(r))
		}
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { tell(w, map[string]any{"status": "ok"}) })
	mux.HandleFunc("GET /readyz", s.serveReady)
	mux.HandleFunc("GET /docs", serveDocs(page))
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// A client that is gone does not read the answer; nothing is to be done.
		_, _ = w.Write(document)
	})
	return mux, nil
}

// readiness is what was last found.
type readiness struct {
	mu     sync.Mutex
	at     time.Time
	checks []frontend.Check
}

// serveReady says whether requests are welcome here, and if not, why. What is told is
// for everybody.
func (s *Server) serveReady(w http.ResponseWriter, r *http.Request) {
	told, wrong := map[string]string{}, ""
	for _, c := range s.askReady(r.Context()) {
		told[c.Name] = "ok"
		if c.Wrong == "" {
			continue
		}
		told[c.Name] = c.Wrong
		if wrong == "" {
			wrong = c.Name + ": " + c.Wrong
		}
		if c.Err != nil {
			logger(r.Context()).Warn("not ready", "check", c.Name, "err", c.Err)
		}
	}
	if wrong != "" {
		e := frontend.Unavailable("not ready: %s", wrong)
		e.Details["checks"] = told
		fail(w, e)
		return
	}
	tell(w, map[string]any{"status": "ready", "checks": told})
}

// askReady asks Nomad and Consul for all who wait, whether or not the one who
// was first still does. The answer holds for ReadyFor, so that strangers who
// ask us do not have us ask those as often. Of a front-end that ends nothing is asked.
func (s *Server) askReady(ctx context.Context) []frontend.Check {
	if s.draining.Load() {
		return []frontend.Check{{Name: "front-end", Wrong: "it ends; requests are to go to another"}}
	}
	s.ready.mu.Lock()
	defer s.ready.mu.Unlock()
	if time.Since(s.ready.at) >= s.ReadyFor {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), readyTimeout, fmt.Errorf("no answer within %v", readyTimeout))
		defer cancel()
		s.ready.checks = s.Sessions.Ready(ctx)
		s.ready.at = time.Now()
	}
	keys := frontend.Check{Name: "keys"}
	if !s.Keys.Loaded() {
		keys.Wrong = "they have not been read from Consul yet"
	}
	return append(slices.Clip(s.ready.checks), keys)
}

// Drain has the front-end say that it is not ready, and be left by those whose requests
// it goes on serving: answers end their connections.
func (s *Server) Drain() { s.draining.Store(true) }

// Draining says whether Drain was called.
func (s *Server) Draining() bool { return s.draining.Load() }

func tell(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	// A client that is gone does not read the answer; nothing is to be done.
	_ = json.MarshalWrite(w, v)
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// serveMetrics answers who runs the front-ends.
func (s *Server) serveMetrics(w http.ResponseWriter, r *http.Request) {
	if !caller(r.Context()).Operator {
		fail(w, frontend.Errorf(frontend.CodeForbidden, "metrics are for operators' keys: buntime-frontend keys create -operator"))
		return
	}
	s.Metrics.Handler().ServeHTTP(w, r)
}
