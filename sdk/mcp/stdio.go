// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	buntime "github.com/buntime/buntime/sdk/go"
)

// StdioOptions are those of ServeStdio.
type StdioOptions struct {
	// Session is one that exists, for calls that name none. It is left as it is at the
	// end. Without it, one is made when it is first needed, and deleted at the end.
	Session string
	// Keep has the session that was made left to sleep instead of deleted.
	Keep bool
	// Log gets a line for people about the session that was kept.
	Log io.Writer
}

// endTimeout bounds the deletion of the session.
const endTimeout = 15 * time.Second

// longestMessage is in bytes: the largest file in base64, and much else.
const longestMessage = 160 << 20

// ServeStdio serves one client, until in ends or ctx does. The session that was made
// for it ends with it.
func ServeStdio(ctx context.Context, client *buntime.Client, in io.ReadCloser, out io.WriteCloser, o StdioOptions) error {
	talk := &connection{client: client, id: o.Session, given: o.Session != ""}
	// What runs when the client goes is cancelled: nobody is there for its result.
	here, leave := context.WithCancel(ctx)
	defer leave()
	who := &caller{client: client, talk: talk, cancelled: here.Done()}
	server := newServer(func(context.Context) (*caller, error) { return who, nil })
	err := server.Run(ctx, &mcp.IOTransport{Reader: &watched{in, leave}, Writer: out, MaxLineLength: longestMessage})
	if errors.Is(err, io.EOF) || ctx.Err() != nil { // that is how it ends
		err = nil
	}
	return errors.Join(err, talk.end(ctx, o))
}

// end ends the session, if it was made for the connection.
func (c *connection) end(ctx context.Context, o StdioOptions) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.id == "" || c.given {
		return nil
	}
	if o.Keep {
		if o.Log != nil {
			fmt.Fprintf(o.Log, "buntime: the session %s is kept\n", c.id)
		}
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), endTimeout, fmt.Errorf("no answer in %v", endTimeout))
	defer cancel()
	if err := c.client.Delete(ctx, c.id); err != nil && !buntime.Is(err, "session_not_found") {
		return fmt.Errorf("delete session %s: %w", c.id, err)
	}
	return nil
}

// watched tells of the end of a stream.
type watched struct {
	io.ReadCloser
	ended func()
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if err != nil {
		w.ended()
	}
	return n, err
}
