// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/buntime/buntime/frontend"
)

// readyTimeout is how long Nomad and Consul may take to say that they are there.
const readyTimeout = 2 * time.Second

// publicRoutes are those that need no key.
func (s *Server) publicRoutes(document, page []byte) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { status(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := s.askReady(r.Context()); err != nil {
			logger(r.Context()).Warn("not ready", "err", err)
			fail(w, frontend.Unavailable("sessions cannot be created at the moment"))
			return
		}
		status(w, "ready")
	})
	mux.HandleFunc("GET /docs", serveDocs(page))
	mux.HandleFunc("GET /openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// A client that is gone does not read the answer; nothing is to be done.
		_, _ = w.Write(document)
	})
	return mux
}

// readiness is what Nomad and Consul have last said.
type readiness struct {
	mu  sync.Mutex
	at  time.Time
	err error
}

// askReady asks Nomad and Consul for all who wait, whether or not the one who
// was first still does. The answer holds for ReadyFor, so that strangers who
// ask us do not have us ask those as often.
func (s *Server) askReady(ctx context.Context) error {
	s.ready.mu.Lock()
	defer s.ready.mu.Unlock()
	if time.Since(s.ready.at) >= s.ReadyFor {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), readyTimeout, fmt.Errorf("no answer within %v", readyTimeout))
		defer cancel()
		s.ready.err = s.Sessions.Ready(ctx)
		s.ready.at = time.Now()
	}
	return s.ready.err
}

func status(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "application/json")
	// As above.
	_ = json.MarshalWrite(w, map[string]string{"status": text})
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
