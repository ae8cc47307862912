// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package client speaks the public HTTP API for tests. It sends exactly what
// it is told, repeats nothing, follows no redirect, unpacks no encoding, and
// hands back what came.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Client calls the API at one base URL with one key.
type Client struct {
	// Base is the URL of the front-end without a final slash.
	Base string
	// Key goes into the Authorization header; empty sends none.
	Key string
	// HTTP is also what previews are fetched with.
	HTTP *http.Client
}

// New is a client with connections of its own.
func New(base, key string) *Client {
	transport := &http.Transport{
		DialContext:         dial,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 64,
	}
	return &Client{
		Base: strings.TrimRight(base, "/"),
		Key:  key,
		HTTP: &http.Client{
			Transport:     transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// WithKey is the same client, connections included, with another key.
func (c *Client) WithKey(key string) *Client {
	return &Client{Base: c.Base, Key: key, HTTP: c.HTTP}
}

// dial resolves every name below localhost to the loopback address, as
// RFC 6761 says and as not every resolver does.
func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("split address %q: %w", addr, err)
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		host = "127.0.0.1"
	}
	var d net.Dialer
	return d.DialContext(ctx, network, net.JoinHostPort(host, port))
}

// Call is one request.
type Call struct {
	Method string
	// Path is sent as it stands, percent-encoding included.
	Path  string
	Query url.Values
	// Header wins over the defaults: Authorization with the client's key, and
	// Content-Type application/json where there is a body. An empty value
	// takes a default away.
	Header map[string]string
	// JSON, if not nil, is encoded as the body.
	JSON any
	// Body, if not nil, is the body as it stands.
	Body io.Reader
}

// Reply is an answer, read to its end.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
	// Took runs from before the dial to the last byte.
	Took time.Duration
}

// Do sends a call and reads the whole answer. Every status is an answer; an
// error means that none came.
func (c *Client) Do(ctx context.Context, call Call) (*Reply, error) {
	start := time.Now()
	res, err := c.Open(ctx, call)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, fmt.Errorf("read answer of %s %s: %w", call.Method, call.Path, err)
	}
	return &Reply{Status: res.StatusCode, Header: res.Header, Body: body, Took: time.Since(start)}, nil
}

// Open sends a call and returns as soon as the answer's head is there.
func (c *Client) Open(ctx context.Context, call Call) (*http.Response, error) {
	req, err := c.request(ctx, call)
	if err != nil {
		return nil, err
	}
	res, err := c.HTTP.Do(req)
	if err != nil {
		return nil, fmt.Errorf("send %s %s: %w", call.Method, call.Path, err)
	}
	return res, nil
}

func (c *Client) request(ctx context.Context, call Call) (*http.Request, error) {
	target := c.Base + call.Path
	if len(call.Query) > 0 {
		target += "?" + call.Query.Encode()
	}
	body := call.Body
	if call.JSON != nil {
		encoded, err := json.Marshal(call.JSON)
		if err != nil {
			return nil, fmt.Errorf("encode body of %s %s: %w", call.Method, call.Path, err)
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, call.Method, target, body)
	if err != nil {
		return nil, fmt.Errorf("make request %s %s: %w", call.Method, call.Path, err)
	}
	// Without it net/http cannot send the request a second time by itself.
	req.GetBody = nil
	if c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+c.Key)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range call.Header {
		if value == "" {
			req.Header.Del(name)
			continue
		}
		req.Header.Set(name, value)
	}
	return req, nil
}
