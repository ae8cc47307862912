// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// sessionPath is that of a session, whatever its id is made of.
func sessionPath(id string) string { return "/sessions/" + url.PathEscape(id) }

// Create makes a session.
func (c *Client) Create(ctx context.Context, r CreateRequest) (*Created, error) {
	var out Created
	_, err := c.json(ctx, keyed(call{method: http.MethodPost, path: "/sessions/create", body: r}, r.IdempotencyKey), &out)
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// Info tells of a session. It does not wake it.
func (c *Client) Info(ctx context.Context, id string) (*Session, error) {
	var out Session
	if _, err := c.json(ctx, call{method: http.MethodGet, path: sessionPath(id)}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// List lists the account's sessions. It wakes none.
func (c *Client) List(ctx context.Context, o ListOptions) (*Page[Listed], error) {
	q := page(o.Limit, o.Offset)
	if o.State != "" {
		q.Set("state", o.State)
	}
	for name, value := range o.Metadata {
		q.Set("metadata."+name, value)
	}
	var out struct{ Sessions []Listed }
	header, err := c.json(ctx, call{method: http.MethodGet, path: "/sessions", query: q}, &out)
	if err != nil {
		return nil, err
	}
	return &Page[Listed]{out.Sessions, total(header, len(out.Sessions))}, nil
}

func page(limit, offset int) url.Values {
	q := url.Values{}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	if offset > 0 {
		q.Set("offset", strconv.Itoa(offset))
	}
	return q
}

func total(header http.Header, least int) int {
	n, err := strconv.Atoi(header.Get("X-Total-Count"))
	if err != nil {
		return least
	}
	return n
}

// Delete ends a session for good. That it is gone already is no error after a try of
// which nobody knows what became of it.
func (c *Client) Delete(ctx context.Context, id string) error {
	_, err := c.json(ctx, call{method: http.MethodDelete, path: sessionPath(id), gone: "session_not_found"}, nil)
	return err
}

// Sleep brings a session to a state, idle or deep-sleep, and returns once it is there. A
// session that is in use is refused (session_busy), or interrupted with force.
func (c *Client) Sleep(ctx context.Context, id, state string, force bool) error {
	body := map[string]any{"state": state}
	if force {
		body["force"] = true
	}
	_, err := c.json(ctx, call{method: http.MethodPost, path: sessionPath(id) + "/sleep", body: body}, nil)
	return err
}

// Extend has a session end ttl seconds from now.
func (c *Client) Extend(ctx context.Context, id string, ttl int) (*Created, error) {
	var out Created
	if _, err := c.json(ctx, call{method: http.MethodPost, path: sessionPath(id) + "/extend", body: map[string]any{"ttl": ttl}}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}
