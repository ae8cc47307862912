// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package node talks to the node agents that carry sessions.
package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/tracing"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/logging"
)

var (
	// ErrUnreachable says that nothing listens where the session should be.
	// Nothing of the request was sent.
	ErrUnreachable = fmt.Errorf("node agent cannot be reached: %w", frontend.ErrAway)
	// ErrMoved says that what listens there does not carry the session. Nothing
	// of the request was done.
	ErrMoved = fmt.Errorf("session is not on this node any more: %w", frontend.ErrAway)
	// ErrLost says that the connection broke after the request was sent, so
	// that nobody knows what was done.
	ErrLost = fmt.Errorf("connection to the node agent broke: %w", frontend.ErrAway)
)

// DoneHeader says in an error's answer, with the value DoneNo, that nothing of the
// request was done.
const (
	DoneHeader = "Buntime-Done"
	DoneNo     = "no"
)

// CodeHeader has, in an error's answer, its code.
const CodeHeader = "Buntime-Code"

// Client calls node agents. The zero value is not ready; see NewClient.
type Client struct {
	// Failed, if set, is told of each call that the session's node has not answered:
	// "unreachable", "moved" or "lost".
	Failed func(reason string)

	secret []byte
	http   *http.Transport
	dial   credentials.DialFunc
}

var _ frontend.Node = (*Client)(nil)

// NewClient makes a Client that derives session tokens from the cluster's node secret.
func NewClient(secret []byte) *Client {
	dial := (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext
	return &Client{secret: secret, http: NewTransport(dial), dial: dial}
}

// Secure has the calls of a client that is not in use yet made over TLS, with nodes that
// show a certificate of theirs.
func (c *Client) Secure(certs *credentials.Certificates) {
	c.http = NewTransport(credentials.Telling(certs.Dial(c.dial, credentials.Node)))
}

const (
	// dialTimeout is long for one hop in a data centre, and short enough to try
	// again within a request's deadline.
	dialTimeout = 2 * time.Second
	keepAlive   = 15 * time.Second
	// Connections that are kept ready: for one session, and in all. They are
	// few for one session because there are many sessions.
	idlePerSession = 64
	idleInAll      = 8192
	idleFor        = 90 * time.Second
)

// NewTransport makes a transport for calls to nodes: connections are kept,
// nothing is compressed or unpacked on the way.
func NewTransport(dial func(ctx context.Context, network, addr string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext:         dial,
		MaxIdleConns:        idleInAll,
		MaxIdleConnsPerHost: idlePerSession,
		IdleConnTimeout:     idleFor,
		DisableCompression:  true,
		WriteBufferSize:     32 << 10,
		ReadBufferSize:      32 << 10,
		// More than what a node takes from an app.
		MaxResponseHeaderBytes: 2 * door.MaxAnswerHeader,
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Request is one call of a session's API on its node.
type Request struct {
	Method string
	Path   string // escaped
	Query  url.Values
	Header http.Header // may be nil
	Body   []byte      // JSON, or nil
	// Stream, if not nil, is the body instead, of Length bytes or, if that is -1, of
	// as many as there are. It can be sent once.
	Stream Once
	Length int64
}

// Once is a body that can be read once.
type Once interface {
	io.Reader
	// Used says whether any of it was read.
	Used() bool
}

// Do sends a request to the node that carries a session. Any status but the
// ones that say that the node does not carry it is an answer, whose body the
// caller closes.
func (c *Client) Do(ctx context.Context, s *frontend.Session, r Request) (*http.Response, error) {
	target := "http://" + s.Claim.API + r.Path
	if len(r.Query) > 0 {
		target += "?" + r.Query.Encode()
	}
	var body io.Reader
	if r.Body != nil {
		body = bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make request for node of %s: %w", s.ID, err)
	}
	if r.Stream != nil {
		req.Body, req.ContentLength = io.NopCloser(r.Stream), r.Length
	}
	if r.Header != nil {
		req.Header = r.Header.Clone()
	}
	req.Host = door.NodeHost
	req.Header.Set("Authorization", "Bearer "+claim.Token(c.secret, s.ID, s.Claim.Epoch))
	tracing.Send(ctx, req.Header)
	if id := logging.Request(ctx); id != "" {
		req.Header.Set(door.RequestHeader, id)
	}
	if r.Body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.RoundTrip(req)
	if err != nil {
		err = classify(ctx, err)
		c.failed(err)
		return nil, fmt.Errorf("%s %s on node of %s at %s: %w", r.Method, r.Path, s.ID, s.Claim.API, err)
	}
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusGone, http.StatusMisdirectedRequest: // the last is of another's previews
		res.Body.Close()
		c.failed(ErrMoved)
		return nil, fmt.Errorf("%s %s on node of %s at %s: %w (status %d)", r.Method, r.Path, s.ID, s.Claim.API, ErrMoved, res.StatusCode)
	}
	return res, nil
}

func (c *Client) failed(err error) {
	switch {
	case c.Failed == nil:
	case errors.Is(err, ErrUnreachable):
		c.Failed("unreachable")
	case errors.Is(err, ErrMoved):
		c.Failed("moved")
	case errors.Is(err, ErrLost):
		c.Failed("lost")
	}
}

func classify(ctx context.Context, err error) error {
	var op *net.OpError
	switch {
	case errors.As(err, &op) && op.Op == "dial", credentials.Refused(err):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w", ErrLost, err)
}

// Info implements frontend.Node.
func (c *Client) Info(ctx context.Context, s *frontend.Session) (frontend.Info, error) {
	var info frontend.Info
	res, err := c.Do(ctx, s, Request{Method: http.MethodGet, Path: "/v1/info"})
	if err != nil {
		return info, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return info, fmt.Errorf("read info of %s: %w", s.ID, err)
	}
	if res.StatusCode != http.StatusOK {
		return info, fmt.Errorf("read info of %s: status %d: %.200s", s.ID, res.StatusCode, body)
	}
	if err := json.Unmarshal(body, &info); err != nil {
		return info, fmt.Errorf("decode info of %s: %w", s.ID, err)
	}
	return info, nil
}

// Alive implements frontend.Node.
func (c *Client) Alive(ctx context.Context, s *frontend.Session) error {
	res, err := c.Do(ctx, s, Request{Method: http.MethodGet, Path: "/v1/health"})
	if err != nil {
		return err
	}
	return res.Body.Close()
}

// Sleep implements frontend.Node.
func (c *Client) Sleep(ctx context.Context, s *frontend.Session, state frontend.State, force bool) error {
	body, err := json.Marshal(map[string]any{"state": state, "force": force})
	if err != nil {
		return fmt.Errorf("encode sleep: %w", err)
	}
	return c.tell(ctx, s, "sleep", body)
}

// Extend implements frontend.Node.
func (c *Client) Extend(ctx context.Context, s *frontend.Session) error {
	return c.tell(ctx, s, "extend", nil)
}

// End implements frontend.Node.
func (c *Client) End(ctx context.Context, s *frontend.Session) error {
	return c.tell(ctx, s, "end", nil)
}

// Prepared implements frontend.Node.
func (c *Client) Prepared(ctx context.Context, s *frontend.Session) error {
	res, err := c.Do(ctx, s, Request{Method: http.MethodGet, Path: "/v1/prepared"})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000)) // it says why, at best
		return fmt.Errorf("wait for slot %s: status %d: %s", s.ID, res.StatusCode, text)
	}
	return nil
}

// Begin implements frontend.Node.
func (c *Client) Begin(ctx context.Context, s *frontend.Session) error {
	body, err := json.Marshal(map[string]any{"expiresAt": s.Expires})
	if err != nil {
		return fmt.Errorf("encode begin: %w", err)
	}
	return c.tell(ctx, s, "begin", body)
}

// tell has the node do something to a session.
func (c *Client) tell(ctx context.Context, s *frontend.Session, what string, body []byte) error {
	res, err := c.Do(ctx, s, Request{Method: http.MethodPost, Path: "/v1/" + what, Body: body})
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read answer of %s of %s: %w", what, s.ID, err)
	}
	if res.StatusCode == http.StatusOK {
		return nil
	}
	var failure struct {
		Error *frontend.Error `json:"error"`
	}
	if err := json.Unmarshal(text, &failure); err != nil || failure.Error == nil {
		return fmt.Errorf("%s of %s: status %d: %.200s", what, s.ID, res.StatusCode, text)
	}
	if res.Header.Get("Retry-After") != "" {
		failure.Error.RetryAfter = time.Second
	}
	return failure.Error
}
