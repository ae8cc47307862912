// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox"
)

// guest is a connection to init that carries one request.
type guest struct {
	*wire.Conn
}

// askTimeout bounds a request to init that needs no process to start.
const askTimeout = 10 * time.Second

// guestHost reaches the init of a sandbox.
type guestHost struct {
	box *sandbox.Sandbox
}

// request sends req to init, with files.
func (h guestHost) request(ctx context.Context, req wire.Request, files []*os.File) (*guest, error) {
	conn, err := h.box.Dial(ctx)
	if err != nil {
		return nil, err
	}
	c := &guest{conn}
	if err := c.sendJSON(wire.KindRequest, req, files...); err != nil {
		c.Close()
		return nil, fmt.Errorf("send %s to init: %w", req.Op, err)
	}
	return c, nil
}

// requestIn is request for a process that joins the cgroup g.
func (h guestHost) requestIn(ctx context.Context, req wire.Request, g sandbox.Unit) (*guest, error) {
	files, err := g.JoinFiles()
	if err != nil {
		return nil, err
	}
	defer closeFiles(files)
	return h.request(ctx, req, files)
}

// ask sends req with files and returns init's first word.
func (h guestHost) ask(ctx context.Context, req wire.Request, files []*os.File) (wire.Event, error) {
	c, err := h.request(ctx, req, files)
	if err != nil {
		return wire.Event{}, err
	}
	defer c.Close()
	return c.event(ctx)
}

// exec runs a command with its input and output on the connection.
func (h guestHost) exec(ctx context.Context, unit string, g sandbox.Unit, opts driver.ExecOptions, dir string) (int, error) {
	c, err := h.requestIn(ctx, wire.Request{
		Op: wire.OpExec, ID: unit, Argv: opts.Command, TTY: opts.TTY, Stdin: opts.Stdin != nil, Dir: dir,
	}, g)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ev, err := c.event(ctx)
	if err != nil {
		return 0, err
	}
	if ev.Event != wire.EventStarted {
		return 0, fmt.Errorf("start command: %s", ev.Error)
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	ended := make(chan struct{})
	defer close(ended)
	if opts.Stdin != nil {
		go c.feed(opts.Stdin)
	}
	go c.resize(opts.Resize, ended)
	code := 0
	err = c.stream(func(s stream, p []byte) {
		w := opts.Stdout
		if s == stderr && !opts.TTY {
			w = opts.Stderr
		}
		// A reader that is gone does not end the command; its connection does.
		_, _ = w.Write(p)
	}, func(ev wire.Event) bool {
		code = ev.Code
		return ev.Event == wire.EventExited
	})
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return code, err
}

// feed passes input on until it ends or the connection does. A reader that
// never ends keeps its goroutine: that is the caller's to close.
func (c *guest) feed(in io.Reader) {
	buf := make([]byte, 32<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 && c.Write(wire.KindStdin, buf[:n]) != nil {
			return
		}
		if err != nil {
			_ = c.Write(wire.KindStdin, nil)
			return
		}
	}
}

func (c *guest) resize(sizes <-chan wire.Size, ended <-chan struct{}) {
	for {
		select {
		case size := <-sizes:
			if c.sendJSON(wire.KindResize, size) != nil {
				return
			}
		case <-ended:
			return
		}
	}
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func (c *guest) sendJSON(kind wire.Kind, v any, files ...*os.File) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.Write(kind, body, files...)
}

// event reads the next event; data frames before it are an error.
func (c *guest) event(ctx context.Context) (wire.Event, error) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, ok := ctx.Deadline(); !ok {
		_ = c.SetReadDeadline(time.Now().Add(askTimeout))
	}
	f, err := c.Read()
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return wire.Event{}, fmt.Errorf("read init's answer: %w", err)
	}
	_ = c.SetReadDeadline(time.Time{})
	if f.Kind != wire.KindEvent {
		return wire.Event{}, fmt.Errorf("read init's answer: unexpected frame %q", f.Kind)
	}
	return decodeEvent(f.Payload)
}

func decodeEvent(p []byte) (wire.Event, error) {
	var ev wire.Event
	if err := json.Unmarshal(p, &ev); err != nil {
		return ev, fmt.Errorf("parse init's event: %w", err)
	}
	return ev, nil
}

// stream reads frames until last returns true or the connection ends.
func (c *guest) stream(data func(stream, []byte), last func(wire.Event) bool) error {
	for {
		f, err := c.Read()
		if errors.Is(err, io.EOF) {
			return errors.New("init closed the connection before the end")
		}
		if err != nil {
			return fmt.Errorf("read from init: %w", err)
		}
		switch f.Kind {
		case wire.KindStdout:
			data(stdout, f.Payload)
		case wire.KindStderr:
			data(stderr, f.Payload)
		case wire.KindEvent:
			ev, err := decodeEvent(f.Payload)
			if err != nil {
				return err
			}
			if last(ev) {
				return nil
			}
		default:
			return fmt.Errorf("read from init: unexpected frame %q", f.Kind)
		}
	}
}

func encodeLabel(l label) string {
	b, _ := json.Marshal(l) // a struct of plain fields
	return string(b)
}
