// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"io"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
	"github.com/buntime/buntime/sdk/mcp"
)

// newMCP serves the Model Context Protocol on standard input and output.
func (a *app) newMCP() *cobra.Command {
	o := mcp.StdioOptions{Log: a.Err}
	cmd := &cobra.Command{
		Use:   "mcp",
		Short: "Serve sessions to an AI agent (Model Context Protocol, on stdio)",
		Long: `Serve sessions to an AI agent: the Model Context Protocol on standard input and
output. An agent starts this itself; docs/mcp.md says how to configure that.

The first call makes a session, which is deleted when the agent goes.`,
		Args: exactly(0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			url, key, err := a.where()
			if err != nil {
				return err
			}
			client := buntime.New(url, key)
			client.UserAgent = "buntime-mcp"
			return mcp.ServeStdio(cmd.Context(), client, readCloser(a.In), writeCloser{a.Out}, o)
		},
	}
	cmd.Flags().StringVar(&o.Session, "session", "", "use this session, and leave it as it is at the end")
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "leave the session that was made to sleep at the end, instead of deleting it")
	return cmd
}

// readCloser is a stream that can be closed, as files are, so that nobody waits for it
// any more.
func readCloser(r io.Reader) io.ReadCloser {
	if c, ok := r.(io.ReadCloser); ok {
		return c
	}
	return io.NopCloser(r)
}

type writeCloser struct{ io.Writer }

// Close implements io.Closer: standard output is not ours to close.
func (writeCloser) Close() error { return nil }
