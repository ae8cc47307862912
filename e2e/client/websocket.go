// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package client

import (
	"context"
	"fmt"
	"net/http"

	"github.com/coder/websocket"
)

// WebSocket opens a WebSocket at url (ws or http), offering the subprotocols.
// Nothing of the client's key is sent.
func (c *Client) WebSocket(ctx context.Context, url string, header http.Header, subprotocols ...string) (*websocket.Conn, error) {
	conn, _, err := websocket.Dial( //nolint:bodyclose // Dial closes it
		ctx, url, &websocket.DialOptions{HTTPClient: c.HTTP, HTTPHeader: header, Subprotocols: subprotocols})
	if err != nil {
		return nil, fmt.Errorf("open WebSocket %s: %w", url, err)
	}
	conn.SetReadLimit(32 << 20)
	return conn, nil
}
