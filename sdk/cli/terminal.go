// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"golang.org/x/term"

	buntime "github.com/buntime/buntime/sdk/go"
)

// rawTerminal makes standard input pass each key on, and fills in what the other side
// has to know of the terminal. restore makes it as it was.
func (a *app) rawTerminal(r *buntime.TerminalRequest) (restore func(), err error) {
	fd, ok := terminal(a.In)
	if !ok {
		return nil, errors.New("-t wants a terminal, which standard input is not; leave it out")
	}
	if out, ok := terminal(a.Out); ok {
		if cols, rows, err := term.GetSize(out); err == nil {
			r.Rows, r.Cols = rows, cols
		}
	}
	if r.Env == nil {
		r.Env = map[string]string{}
	}
	if _, said := r.Env["TERM"]; !said {
		r.Env["TERM"] = first(a.Getenv("TERM"), "xterm-256color")
	}
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("prepare the terminal: %w", err)
	}
	return func() { _ = term.Restore(fd, before) }, nil
}

// watchSize passes changes of the terminal's size on until stop is called.
func (a *app) watchSize(ctx context.Context, t *buntime.Terminal) (stop func()) {
	fd, ok := terminal(a.Out)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	var task sync.WaitGroup
	task.Go(func() {
		defer signal.Stop(changed)
		for {
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
			if cols, rows, err := term.GetSize(fd); err == nil && t.Resize(rows, cols) != nil {
				return
			}
		}
	})
	return func() { cancel(); task.Wait() }
}

var errEscaped = errors.New("disconnected")

// escape reads what a user types and ends at Enter ~ . as ssh does: the way out of
// a terminal that does not answer.
type escape struct {
	io.Reader
	last [2]byte
}

// Read implements io.Reader.
func (e *escape) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	for _, b := range p[:n] {
		if b == '.' && e.last[1] == '~' && bytes.IndexByte([]byte("\r\n\x00"), e.last[0]) >= 0 {
			return 0, errEscaped
		}
		e.last = [2]byte{e.last[1], b}
	}
	return n, err
}
