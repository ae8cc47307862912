// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/armon/circbuf"
	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"

	"github.com/buntime/buntime/driver/guest/wire"
)

// maxExecOutput is how much of a script check's output is kept, its end: ten
// times what Nomad and Consul show of it.
const maxExecOutput = 40 << 10

// ExecTask runs a command in a task, as script checks do. As with Nomad's exec
// driver both outputs come back as one.
func (d *Driver) ExecTask(taskID string, cmd []string, timeout time.Duration) (*drivers.ExecTaskResult, error) {
	if len(cmd) == 0 {
		return nil, errors.New("exec in task: no command")
	}
	h, err := d.runningTask(taskID)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(d.ctx, timeout, fmt.Errorf("still running after %s", timeout))
	defer cancel()
	buffer, err := circbuf.NewBuffer(maxExecOutput)
	if err != nil {
		return nil, err
	}
	output := &lockedWriter{w: buffer}
	code, err := h.instance.Exec(ctx, ExecOptions{
		Command: cmd,
		Stdin:   strings.NewReader(""),
		Stdout:  output,
		Stderr:  output,
		Resize:  make(chan wire.Size),
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("exec %q in task: %w", cmd[0], err)
	}
	return &drivers.ExecTaskResult{
		Stdout:     buffer.Bytes(),
		ExitResult: &drivers.ExitResult{ExitCode: code},
	}, nil
}

// ExecTaskStreamingRaw is `nomad alloc exec`. It is the raw form because the
// helper behind the other one takes input that a command does not read for
// a failure of the command.
func (d *Driver) ExecTaskStreamingRaw(ctx context.Context, taskID string, command []string, tty bool, stream drivers.ExecTaskStream) error {
	if len(command) == 0 {
		return errors.New("exec in task: no command")
	}
	h, err := d.runningTask(taskID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stdin, feed := io.Pipe()
	defer stdin.Close() // what still writes to it gives up
	resize := make(chan wire.Size, 1)
	// Ends with the stream, which ends with this call.
	go receive(stream, feed, resize, cancel)

	out := &execOutput{stream: stream}
	code, err := h.instance.Exec(ctx, ExecOptions{
		Command: command,
		TTY:     tty,
		Stdin:   stdin,
		Stdout:  writerFunc(out.stdout),
		Stderr:  writerFunc(out.stderr),
		Resize:  resize,
	})
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("exec %q in task: %w", command[0], err)
	}
	return out.exit(code)
}

// receive hands on what the caller sends. A stream that breaks cancels the
// command; its regular end does not, nor does it close the input: there may be
// a terminal.
func receive(stream drivers.ExecTaskStream, feed *io.PipeWriter, resize chan wire.Size, cancel context.CancelCauseFunc) {
	for {
		msg, err := stream.Recv()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				cancel(fmt.Errorf("receive input: %w", err))
			}
			return
		}
		switch {
		case msg.Stdin != nil && msg.Stdin.Close:
			feed.Close()
		case msg.Stdin != nil && len(msg.Stdin.Data) > 0: // a pipe hands empty writes on
			// The command may have closed its input or be over: not an error.
			_, _ = feed.Write(msg.Stdin.Data)
		case msg.TtySize != nil:
			size := wire.Size{Rows: uint16(msg.TtySize.Height), Cols: uint16(msg.TtySize.Width)}
			select { // only the latest size matters
			case <-resize:
			default:
			}
			resize <- size
		default: // a heartbeat
		}
	}
}

// execOutput sends both outputs over one stream, which takes one message at
// a time.
type execOutput struct {
	mu     sync.Mutex
	stream drivers.ExecTaskStream
}

func (o *execOutput) send(msg *drivers.ExecTaskStreamingResponseMsg) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.stream.Send(msg); err != nil {
		return fmt.Errorf("send output: %w", err)
	}
	return nil
}

func (o *execOutput) stdout(p []byte) (int, error) {
	return len(p), o.send(&drivers.ExecTaskStreamingResponseMsg{
		Stdout: &proto.ExecTaskStreamingIOOperation{Data: p},
	})
}

func (o *execOutput) stderr(p []byte) (int, error) {
	return len(p), o.send(&drivers.ExecTaskStreamingResponseMsg{
		Stderr: &proto.ExecTaskStreamingIOOperation{Data: p},
	})
}

// exit ends both outputs and tells the exit code.
func (o *execOutput) exit(code int) error {
	end := &proto.ExecTaskStreamingIOOperation{Close: true}
	return errors.Join(
		o.send(&drivers.ExecTaskStreamingResponseMsg{Stdout: end}),
		o.send(&drivers.ExecTaskStreamingResponseMsg{Stderr: end}),
		o.send(drivers.NewExecStreamingResponseExit(code)),
	)
}

// writerFunc is a function as an io.Writer, for no more than wire.MaxData
// bytes at a time: a gRPC message is bounded.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 {
		n, err := f(p[:min(len(p), wire.MaxData)])
		if err != nil {
			return written, err
		}
		written += n
		p = p[n:]
	}
	return written, nil
}

// lockedWriter is for both outputs of a command at once.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
