// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"context"
	"errors"
	"runtime/debug"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	buntime "github.com/buntime/buntime/sdk/go"
)

const instructions = `Buntime runs code in an isolated Bun sandbox ("session") on a remote machine. Files in /workspace and servers stay between calls; nothing of the user's own machine is visible in it.
- execute_code runs TypeScript/JavaScript with Bun; imports of npm packages are installed on the fly. run_command runs a shell command.
- A web server goes to port 8080 (or any other); execute_code returns once it listens and it keeps running. get_preview_url tells its public URL.
- Every call uses the session of this conversation unless it has a sessionId. An unused session sleeps: its files stay, processes end after a while.
- A result that is an error says what to do.`

// caller is on whose behalf a tool is called.
type caller struct {
	client *buntime.Client
	talk   conversation
	// cancelled, if not nil, ends when the client cancels the call elsewhere.
	cancelled <-chan struct{}
	// begun, if not nil, is told that a tool has begun.
	begun func()
}

// conversation finds the session of calls that name none.
type conversation interface {
	// session is it; note is what the model should be told about that.
	session(ctx context.Context) (id, note string, err error)
	// gone is told that there is no such session any more.
	gone(id string)
}

// newServer makes the server of the protocol, with all tools. find tells whose call it is.
func newServer(find func(context.Context) (*caller, error)) *mcp.Server {
	s := mcp.NewServer(&mcp.Implementation{Name: "buntime", Title: "Buntime: isolated Bun sessions", Version: version()},
		&mcp.ServerOptions{Instructions: instructions, Capabilities: &mcp.ServerCapabilities{Tools: &mcp.ToolCapabilities{}}})
	t := tools{s, find}
	t.addExecutions()
	t.addFiles()
	t.addSessions()
	return s
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "devel"
}

type tools struct {
	server *mcp.Server
	find   func(context.Context) (*caller, error)
}

// Session is the part of a tool's input that names its session.
type Session struct {
	SessionID string `json:"sessionId,omitempty" jsonschema:"another session of the account (ses_…); leave it out to use the session of this conversation"`
}

func (s Session) named() string { return s.SessionID }

// call is one call of a tool.
type call struct {
	*caller
	request *mcp.CallToolRequest
	session string
	note    string // what the model should be told of the session
}

// answer is what a tool says: text and structured to the model, and images.
type answer[Out any] struct {
	text  string
	out   Out
	image *mcp.ImageContent
}

// add adds a tool that works in a session.
func add[In interface{ named() string }, Out any](t tools, tool mcp.Tool, do func(*call, context.Context, In) (*answer[Out], error)) {
	mcp.AddTool(t.server, &tool, func(ctx context.Context, r *mcp.CallToolRequest, in In) (*mcp.CallToolResult, Out, error) {
		var none Out
		who, err := t.find(ctx)
		if err != nil {
			return nil, none, err
		}
		if who.begun != nil {
			who.begun()
		}
		c := &call{caller: who, request: r, session: in.named()}
		own := c.session == ""
		if own {
			if c.session, c.note, err = who.talk.session(ctx); err != nil {
				return nil, none, explain(err, own)
			}
		}
		a, err := do(c, ctx, in)
		if err != nil {
			if own && buntime.Is(err, "session_not_found") {
				who.talk.gone(c.session)
			}
			return nil, none, c.noted(explain(err, own))
		}
		result := &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: withNote(a.text, c.note)}}}
		if a.image != nil {
			result.Content = append(result.Content, a.image)
		}
		return result, a.out, nil
	})
}

// noted adds what is to be told of the session.
func (c *call) noted(err error) error {
	if c.note == "" {
		return err
	}
	return errors.New(withNote(err.Error(), c.note))
}

func withNote(text, note string) string {
	switch {
	case note == "":
		return text
	case text == "":
		return "[" + note + "]"
	}
	return text + "\n[" + note + "]"
}

// hints describe a tool to a client that asks before it lets a model use one.
func hints(readOnly, destroys, repeatable bool) *mcp.ToolAnnotations {
	return &mcp.ToolAnnotations{ReadOnlyHint: readOnly, DestructiveHint: &destroys, IdempotentHint: repeatable, OpenWorldHint: new(false)}
}

// open says that a tool reaches other machines.
func open(h *mcp.ToolAnnotations) *mcp.ToolAnnotations {
	h.OpenWorldHint = new(true)
	return h
}
