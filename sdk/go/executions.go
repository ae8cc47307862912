// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// archiveTimeout is the server's for an archive, and a little more.
const archiveTimeout = 11 * time.Minute

// Execute runs code, or a command, and returns what it came to. An exit code other than
// 0 is no error.
func (c *Client) Execute(ctx context.Context, r ExecuteRequest) (*Result, error) {
	var out Result
	call := keyed(call{method: http.MethodPost, path: "/execute", body: r}, r.IdempotencyKey)
	call.limit = max(c.limit(), executionLimit(r))
	if _, err := c.json(ctx, call, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

func executionLimit(r ExecuteRequest) time.Duration {
	if r.Timeout == 0 {
		return longestExecution + executionSlack
	}
	return time.Duration(r.Timeout)*time.Second + executionSlack
}

// Execution looks an execution up.
func (c *Client) Execution(ctx context.Context, session, id string) (*Result, error) {
	var out Result
	if _, err := c.json(ctx, call{method: http.MethodGet, path: "/executions/" + url.PathEscape(id), query: in(session, "")}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Processes lists the processes of a session.
func (c *Client) Processes(ctx context.Context, session string) ([]Process, error) {
	var out struct{ Processes []Process }
	if _, err := c.json(ctx, call{method: http.MethodGet, path: "/processes", query: in(session, "")}, &out); err != nil {
		return nil, err
	}
	return out.Processes, nil
}

// Kill ends one process of a session and what it has started, or all with pid 0, by a
// signal such as SIGTERM; "" is SIGKILL. That there is none is no error.
func (c *Client) Kill(ctx context.Context, session string, pid int, signal string) (*Killed, error) {
	body := map[string]any{"sessionId": session}
	if pid != 0 {
		body["pid"] = pid
	}
	if signal != "" {
		body["signal"] = signal
	}
	var out Killed
	if _, err := c.json(ctx, call{method: http.MethodPost, path: "/execution/kill", body: body}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}
