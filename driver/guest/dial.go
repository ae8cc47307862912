// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
)

// dialTimeout bounds a connection to a program in the sandbox. It is local: only
// a full backlog makes it wait at all.
const dialTimeout = 5 * time.Second

// onDial makes c a connection to a port in the sandbox.
func (s *server) onDial(c *wire.Conn, req *wire.Request) {
	inner, err := dialPort(req.Port)
	if err != nil {
		ev := failed(err)
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			ev.Code = int(errno)
		}
		answer(c, ev)
		return
	}
	defer inner.Close()
	answer(c, wire.Event{Event: wire.EventConnected})
	_ = c.SetWriteDeadline(time.Time{})
	outer, early := c.Detach()
	if _, err := inner.Write(early); err != nil {
		return
	}
	var up sync.WaitGroup
	up.Go(func() { half(inner, outer) })
	half(outer, inner)
	up.Wait()
}

// dialPort connects to a port on whichever address the program is bound to.
func dialPort(port int) (*net.TCPConn, error) {
	hosts := []string{"127.0.0.1", "::1"}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() {
			hosts = append(hosts, ip.IP.String())
		}
	}
	d := net.Dialer{Timeout: dialTimeout}
	var err error
	for _, host := range hosts {
		var conn net.Conn
		if conn, err = d.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(port))); err == nil {
			return conn.(*net.TCPConn), nil
		}
	}
	return nil, err
}

// halves are what has an end of its own in each direction.
type halves interface {
	io.ReadWriteCloser
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
