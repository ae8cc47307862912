// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"time"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/frontend"
	buntime "github.com/buntime/buntime/sdk/go"
	"github.com/buntime/buntime/sdk/mcp"
)

// mcpRoutes serve the Model Context Protocol. Its tools call the API as its clients do,
// with the key that the message came with, so that all that holds for those holds for
// them: what a key may, its limits, and how often.
func (s *Server) mcpRoutes() {
	h := mcp.NewHandler(mcp.HandlerConfig{
		Client: s.mcpClient, Origin: s.BaseURL, Log: s.Log,
		Cancels: func(r *http.Request) mcp.Cancels { return cancels{s, caller(r.Context()).Account} },
	})
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		s.private.Handle(method+" /mcp", h)
	}
}

// mcpClient is a client of this very server.
func (s *Server) mcpClient(r *http.Request) *buntime.Client {
	key, _ := door.Key(r.Header)
	c := buntime.New("http://inside", key)
	from := inside{to: s, remote: r.RemoteAddr}
	if w, ok := r.Context().Value(writerContext{}).(*writer); ok {
		from.request = w.request
	}
	c.HTTP = &http.Client{Transport: from}
	c.UserAgent = "buntime-mcp"
	return c
}

// cancels are cancelled calls, in receipts that all front-ends see.
type cancels struct {
	s       *Server
	account string
}

// cancelsKept is how long a cancellation counts: for longer than the front-end that runs
// the call takes to see it, and not so long that it hits a later call of a client that
// has begun to count anew.
const cancelsKept = time.Minute

func (c cancels) receipt(call string) string { return receiptName(c.account, "mcp cancelled\x00"+call) } // no key has a NUL

// Cancel implements mcp.Cancels.
func (c cancels) Cancel(ctx context.Context, call string) error {
	r := c.s.newReceipt(http.MethodPost, "/mcp", sha256.Sum256([]byte(call)))
	r.Ends = c.s.Sessions.Now().UTC().Truncate(time.Second).Add(cancelsKept)
	err := c.s.Sessions.Store.PutReceipt(ctx, c.receipt(call), r)
	if !errors.Is(err, frontend.ErrConflict) {
		return err
	}
	old, err := c.s.Sessions.Store.Receipt(ctx, c.receipt(call))
	if err != nil || c.s.Sessions.Now().Before(old.Ends) { // it is cancelled already
		return err
	}
	r.Version = old.Version
	return c.s.Sessions.Store.PutReceipt(ctx, c.receipt(call), r)
}

// Cancelled implements mcp.Cancels.
func (c cancels) Cancelled(ctx context.Context, call string) (bool, error) {
	r, err := c.s.Sessions.Store.Receipt(ctx, c.receipt(call))
	switch {
	case errors.Is(err, frontend.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	return c.s.Sessions.Now().Before(r.Ends), nil
}
