// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/plugins/drivers"
	"github.com/hashicorp/nomad/plugins/drivers/proto"
	"github.com/shoenig/test/must"
)

func TestExecTask(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		result, err := p.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "echo out; echo err >&2; cat; exit 4"}, 5*time.Second)
		must.NoError(t, err)
		must.Eq(t, 4, result.ExitResult.ExitCode)
		must.StrContains(t, string(result.Stdout), "out\n")
		must.StrContains(t, string(result.Stdout), "err\n")

		// Of much output the end is kept.
		result, err = p.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "head -c 1000000 /dev/zero; echo end"}, 5*time.Second)
		must.NoError(t, err)
		must.Eq(t, 40<<10, len(result.Stdout))
		must.True(t, bytes.HasSuffix(result.Stdout, []byte("end\n")))

		began := time.Now()
		_, err = p.ExecTask(cfg.ID, []string{"/bin/sleep", "1000"}, 200*time.Millisecond)
		must.ErrorContains(t, err, "still running after 200ms")
		must.Less(t, 5*time.Second, time.Since(began))

		_, err = p.ExecTask(cfg.ID, nil, time.Second)
		must.ErrorContains(t, err, "no command")
	})
}

// callerStream is the caller's side of `nomad alloc exec`.
type callerStream struct {
	input chan *drivers.ExecTaskStreamingRequestMsg
	ctx   context.Context //nolint:containedctx // Recv has no other

	mu             sync.Mutex
	stdout, stderr bytes.Buffer
	closed         int
	exit           *proto.ExitResult
	wrote          chan struct{} // one for each Send with data
}

func newCallerStream(ctx context.Context) *callerStream {
	return &callerStream{
		input: make(chan *drivers.ExecTaskStreamingRequestMsg, 100),
		ctx:   ctx,
		wrote: make(chan struct{}, 1000),
	}
}

func (s *callerStream) Recv() (*drivers.ExecTaskStreamingRequestMsg, error) {
	select {
	case msg, ok := <-s.input:
		if !ok {
			return nil, errors.New("connection lost")
		}
		return msg, nil
	case <-s.ctx.Done():
		return nil, io.EOF
	}
}

func (s *callerStream) Send(msg *drivers.ExecTaskStreamingResponseMsg) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, part := range []struct {
		buffer *bytes.Buffer
		op     *proto.ExecTaskStreamingIOOperation
	}{{&s.stdout, msg.Stdout}, {&s.stderr, msg.Stderr}} {
		if part.op != nil {
			part.buffer.Write(part.op.Data)
			if part.op.Close {
				s.closed++
			} else {
				s.wrote <- struct{}{}
			}
		}
	}
	if msg.Exited {
		s.exit = msg.Result
	}
	return nil
}

func stdinMsg(text string) *drivers.ExecTaskStreamingRequestMsg {
	return &drivers.ExecTaskStreamingRequestMsg{Stdin: &proto.ExecTaskStreamingIOOperation{Data: []byte(text)}}
}

// execStreaming runs a command by the driver itself. Nomad's side of gRPC may
// fail with what it could not send any more, whatever the driver does;
// TestConformance goes through it.
func (p *plugin) execStreaming(ctx context.Context, id string, stream drivers.ExecTaskStream, command ...string) error {
	return p.Impl().(drivers.ExecTaskStreamingRawDriver).ExecTaskStreamingRaw(ctx, id, command, false, stream)
}

func TestExecStreamingUnreadInput(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		stream := newCallerStream(t.Context())
		for range 50 {
			stream.input <- stdinMsg(strings.Repeat("nobody reads this ", 5000))
			stream.input <- new(drivers.ExecTaskStreamingRequestMsg) // a heartbeat
		}
		must.NoError(t, p.execStreaming(t.Context(), cfg.ID, stream, "/bin/sh", "-c", "exit 5"))
		must.NotNil(t, stream.exit)
		must.Eq(t, 5, stream.exit.ExitCode)
		must.Eq(t, 2, stream.closed)
	})
}

func TestExecStreamingManyBytes(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		stream := newCallerStream(t.Context())
		go func() {
			for range stream.wrote {
			}
		}()
		defer close(stream.wrote)
		must.NoError(t, p.execStreaming(t.Context(), cfg.ID, stream, "/bin/sh", "-c", "head -c 20000000 /dev/zero & head -c 20000000 /dev/zero >&2; wait"))
		must.Eq(t, 20000000, stream.stdout.Len())
		must.Eq(t, 20000000, stream.stderr.Len())
	})
}

func TestExecStreamingNotFound(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		stream := newCallerStream(t.Context())
		err := p.execStreaming(t.Context(), cfg.ID, stream, "/none/such")
		must.True(t, err != nil || stream.exit.ExitCode == 127)
		must.ErrorContains(t, p.execStreaming(t.Context(), cfg.ID, stream), "no command")
	})
}

// TestExecStreamingCallerGone checks that a command ends with its caller.
func TestExecStreamingCallerGone(t *testing.T) {
	eachRuntime(t, func(t *testing.T, r runtimeUnderTest) {
		p := newPlugin(t, r, nil)
		cfg := p.task(t, sleeper, nil)
		p.start(t, cfg)
		running := func() bool {
			result, err := p.ExecTask(cfg.ID, []string{"/bin/sh", "-c", "for p in /proc/[0-9]*; do cat $p/cmdline; done 2>/dev/null | tr '\\0' ' '"}, 5*time.Second)
			must.NoError(t, err)
			return strings.Contains(string(result.Stdout), "sleep 4242 ")
		}
		for name, leave := range map[string]func(*callerStream, context.CancelFunc){
			"cancel":       func(_ *callerStream, cancel context.CancelFunc) { cancel() },
			"broken input": func(s *callerStream, _ context.CancelFunc) { close(s.input) },
		} {
			ctx, cancel := context.WithCancel(t.Context())
			stream := newCallerStream(t.Context())
			ended := make(chan error, 1)
			go func() {
				ended <- p.execStreaming(ctx, cfg.ID, stream, "/bin/sh", "-c", "echo started; exec sleep 4242")
			}()
			<-stream.wrote
			must.True(t, running(), must.Sprint(name))
			leave(stream, cancel)
			must.Error(t, <-ended, must.Sprint(name))
			eventually(t, name, func() bool { return !running() })
			cancel()
		}
	})
}
