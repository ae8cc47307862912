// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package preview

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/relay"
	"github.com/buntime/buntime/driver/tracing"
	"github.com/buntime/buntime/frontend"
)

// newPool keeps connections to nodes for the relay. A front-end shows who it is with each
// request, in words that belong to the connection.
func (h *Handler) newPool() *relay.Pool {
	return &relay.Pool{
		Each: 64, All: 8192, For: 30 * time.Second,
		Dial: func(ctx context.Context, p relay.Place) (net.Conn, []byte, error) {
			conn, err := h.dialNode(ctx, p.ID, p.Number)
			if err != nil {
				return nil, nil, err
			}
			return conn, []byte(door.TokenHeader + ": " + claim.PreviewToken(h.secret, p.ID, p.Number) + "\r\n"), nil
		},
	}
}

// Relay is the relay's policy: what becomes of a plain request whose session is awake.
// ServeHTTP has the others.
func (h *Handler) Relay(c *relay.Conn, r *relay.Request, t *relay.Trip) bool {
	host, ok := h.Session(r.Host)
	if !ok || host.Port == 0 || r.Has(relay.Token) {
		return false
	}
	sess, err := h.sessions.ResolvePreview(c.Context(), frontend.FromLabel(host.Session))
	if err != nil {
		return false
	}
	client := c.IP()
	if len(h.Proxies) > 0 {
		if behind := h.Proxies.Client(client, r.Values(relay.ForwardedFor)); behind != "" {
			client = behind
		}
	}
	t.Pool, t.Place = h.pool, relay.Place{ID: sess.ID, Number: sess.Epoch}
	t.Keep, t.Follow = relay.Plain, true
	t.Lines = append(t.Lines, "X-Forwarded-For: "...)
	t.Lines = append(t.Lines, client...)
	t.Lines = append(t.Lines, "\r\nX-Forwarded-Host: "...)
	t.Lines = append(t.Lines, r.Host...)
	t.Lines = append(t.Lines, "\r\nX-Forwarded-Proto: "...)
	t.Lines = append(t.Lines, h.scheme...)
	t.Lines = append(t.Lines, "\r\n"...)
	begin, method := time.Now(), r.Method
	t.Ended = func(status int) {
		if status >= 0 { // else ServeHTTP has it
			h.observe(status, time.Since(begin))
			tracing.Past("preview", method, begin, status, tracing.Session.String(sess.ID))
		}
	}
	t.Attend = func(ctx context.Context) (context.Context, func()) { return h.sessions.Attend(ctx, sess) }
	return true
}

// unpassed is for a request that the relay has sent and has no answer to. It is nil if
// the request may be sent again.
func (h *Handler) unpassed(r *http.Request, id string) error {
	err := relay.Failure(r.Context())
	silent := errors.Is(err, frontend.ErrSilent)
	if !silent && !errors.Is(err, relay.ErrUnanswered) {
		return err
	}
	h.sessions.Forget(id)
	switch {
	case harmless(r):
		return nil
	case silent:
		return errLost()
	}
	return err
}
