// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/coder/websocket"
)

// TerminalRequest is what to run in a terminal.
type TerminalRequest struct {
	// Command is a program and its arguments; a shell if it is empty.
	Command []string
	// Pipes has it run with pipes instead of a terminal device: standard error is
	// apart then, and the input can end.
	Pipes bool
	// Rows and Cols are the size of the terminal; 24 and 80 if they are 0.
	Rows, Cols int
	Env        map[string]string
	WorkingDir string
}

// Terminal is a command that runs in a session with its input and output on a
// connection. It ends with that. Read is for one goroutine, and so are all others.
type Terminal struct {
	ctx  context.Context
	conn *websocket.Conn
}

// The first byte of a terminal's binary messages, and the longest of them, in bytes.
const (
	terminalStdin  = 0
	terminalStderr = 2
	longestInput   = 32 << 10
	longestOutput  = 1 << 20
)

// Terminal opens a terminal, which wakes the session. ctx bounds all of its life.
func (c *Client) Terminal(ctx context.Context, session string, r TerminalRequest) (*Terminal, error) {
	q := url.Values{"command": r.Command}
	if r.Pipes {
		q.Set("tty", "false")
	}
	if r.Rows > 0 && r.Cols > 0 {
		q.Set("rows", strconv.Itoa(r.Rows))
		q.Set("cols", strconv.Itoa(r.Cols))
	}
	for name, value := range r.Env {
		q.Add("env", name+"="+value)
	}
	if r.WorkingDir != "" {
		q.Set("workingDir", r.WorkingDir)
	}
	what := "open terminal of " + session
	// A connection of its own, without the client's time-outs.
	conn, res, err := websocket.Dial(ctx, c.BaseURL+sessionPath(session)+"/terminal?"+q.Encode(), &websocket.DialOptions{ //nolint:bodyclose // Dial has closed it
		HTTPClient: c.HTTP, HTTPHeader: http.Header{"Authorization": {"Bearer " + c.Key}, "User-Agent": {c.UserAgent}},
	})
	if err != nil {
		if res != nil && res.StatusCode >= http.StatusMultipleChoices {
			return nil, refusal(what, res)
		}
		return nil, broken(ctx, what, err)
	}
	conn.SetReadLimit(longestOutput)
	return &Terminal{ctx, conn}, nil
}

// Write sends input.
func (t *Terminal) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), longestInput)]
		if err := t.conn.Write(t.ctx, websocket.MessageBinary, append([]byte{terminalStdin}, part...)); err != nil {
			return n, fmt.Errorf("send input: %w", err)
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// CloseInput ends the input; a terminal device takes it for Ctrl-D.
func (t *Terminal) CloseInput() error { return t.tell(map[string]any{"type": "end"}) }

// Resize tells the terminal device its size.
func (t *Terminal) Resize(rows, cols int) error {
	return t.tell(map[string]any{"type": "resize", "rows": rows, "cols": cols})
}

// Signal sends a signal such as SIGINT to the command's process group.
func (t *Terminal) Signal(name string) error {
	return t.tell(map[string]any{"type": "signal", "signal": name})
}

func (t *Terminal) tell(word map[string]any) error {
	body, err := json.Marshal(word)
	if err != nil {
		return err
	}
	if err := t.conn.Write(t.ctx, websocket.MessageText, body); err != nil {
		return fmt.Errorf("speak to the terminal: %w", err)
	}
	return nil
}

// Copy writes the output until the command ends, and returns its exit code. An error says
// what else has ended the terminal.
func (t *Terminal) Copy(stdout, stderr io.Writer) (exitCode int, err error) {
	for {
		kind, p, err := t.conn.Read(t.ctx)
		if end, ok := errors.AsType[websocket.CloseError](err); ok && end.Reason != "" {
			return 0, &Error{Code: CodeTerminalClosed, Message: "the terminal was closed: " + end.Reason, cause: err}
		}
		if err != nil {
			return 0, broken(t.ctx, "read from the terminal", err)
		}
		if kind == websocket.MessageText {
			var word struct {
				Type     string
				ExitCode int
			}
			if err := json.Unmarshal(p, &word); err != nil {
				return 0, fmt.Errorf("read from the terminal: %w", err)
			}
			if word.Type == "exit" {
				return word.ExitCode, nil
			}
			continue // of a newer server
		}
		if len(p) == 0 {
			continue
		}
		to := stdout
		if p[0] == terminalStderr {
			to = stderr
		}
		if _, err := to.Write(p[1:]); err != nil {
			return 0, fmt.Errorf("write output: %w", err)
		}
	}
}

// Close ends the terminal, and what runs in it.
func (t *Terminal) Close() { _ = t.conn.Close(websocket.StatusNormalClosure, "") }
