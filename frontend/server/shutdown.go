// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package server

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/buntime/buntime/driver/relay"
)

// lastWords is how long streams have to end that were told to.
const lastWords = time.Second

// shutDown ends a front-end so that nobody's request fails who can be helped: it says that
// it is not ready, and serves until proxies have noticed; then it takes no more connections
// and lets requests under way finish; streams and terminals that outlast that are told
// to go on elsewhere.
func (p *parts) shutDown(ctx context.Context, c Config, srv *relay.Server, log *slog.Logger) error {
	log.Info("shutting down", "connections in", time.Duration(*c.ShutdownDelay), "requests in", time.Duration(c.ShutdownTimeout))
	p.api.Drain()
	time.Sleep(time.Duration(*c.ShutdownDelay)) // proxies do not say when they have noticed; a second signal ends the process
	grace, cancel := context.WithTimeoutCause(ctx, time.Duration(c.ShutdownTimeout), errors.New("requests outlasted the shutdown"))
	defer cancel()
	err := srv.Shutdown(grace)
	p.api.Leave()
	if err == nil {
		return nil
	}
	log.Warn("cut off requests under way", "err", context.Cause(grace))
	grace, cancel = context.WithTimeoutCause(ctx, lastWords, errors.New("streams outlasted their end"))
	defer cancel()
	if srv.Shutdown(grace) == nil {
		return nil
	}
	return srv.Close()
}

// lastAnswers is the handler, whose answers end their connections once the front-end is
// to end: who keeps one would send the next request into its end.
func (p *parts) lastAnswers() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if p.api.Draining() && r.Header.Get("Upgrade") == "" {
			w.Header().Set("Connection", "close")
		}
		p.handler.ServeHTTP(w, r)
	})
}

// relay is the policy of the relay, which leaves last answers to net/http.
func (p *parts) relay(c *relay.Conn, r *relay.Request, t *relay.Trip) bool {
	return !p.api.Draining() && p.handler.Relay(c, r, t)
}

// tell tells systemd, if that has started the process, how it is.
func tell(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("tell systemd", "state", state, "err", err)
	}
}
