// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/sandbox"
)

// forward passes connections to a port of the host on to a port of a sandbox.
type forward struct {
	box  *sandbox.Sandbox
	port driver.Port
	log  hclog.Logger

	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	tasks    sync.WaitGroup
}

func listenForward(ctx context.Context, box *sandbox.Sandbox, port driver.Port, log hclog.Logger) (*forward, error) {
	soon, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	l, err := listenSoon(soon, port.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for port %q: %w", port.Label, err)
	}
	f := &forward{box: box, port: port, log: log, listener: l}
	f.ctx, f.cancel = context.WithCancel(context.WithoutCancel(ctx))
	f.tasks.Go(f.accept)
	return f, nil
}

// acceptPause lets descriptors come free when there are none.
const acceptPause = 100 * time.Millisecond

func (f *forward) close() {
	f.cancel()
	f.listener.Close()
	f.tasks.Wait()
}

func (f *forward) accept() {
	for {
		c, err := f.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			f.log.Warn("could not accept a connection for a task", "port", f.port.Label, "error", err)
			select {
			case <-time.After(acceptPause):
			case <-f.ctx.Done():
			}
			continue
		}
		f.tasks.Go(func() { f.pass(c.(*net.TCPConn)) })
	}
}

// pass copies both ways until both sides have said all, or either is broken.
// What the program does not accept is closed, as if nothing listened.
func (f *forward) pass(outer *net.TCPConn) {
	defer outer.Close()
	conn, err := f.box.DialPort(f.ctx, f.port.Port)
	if err != nil {
		return
	}
	inner := conn.(halves)
	defer inner.Close()
	stop := context.AfterFunc(f.ctx, func() {
		outer.Close()
		inner.Close()
	})
	defer stop()
	var up sync.WaitGroup
	up.Go(func() { half(inner, outer) })
	half(outer, inner)
	up.Wait()
}

// halves are connections that can end in one direction.
type halves interface {
	net.Conn
	CloseWrite() error
}

// half copies one direction and hands the end of it on.
func half(to, from halves) {
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		from.Close()
		return
	}
	_ = to.CloseWrite() // fails where the other side is gone, which ends both
}
