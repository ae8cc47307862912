// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Errors of Read that have net/http close the connection without a word.
var (
	errEnd = io.EOF
	// errCut is for an answer that could not be passed to its end.
	errCut = &net.OpError{Op: "read", Net: "tcp", Err: errors.New("the answer was cut off")}
)

// bodyPatience is how long the small body of a request may take to follow its head, to be
// passed without net/http, which has to do with slow clients.
const bodyPatience = 20 * time.Millisecond

// Conn is a client's connection. It is net/http's, but for the time in which net/http
// waits for a request.
type Conn struct {
	net.Conn // what net/http would have otherwise
	tcp      *net.TCPConn
	out      halves // tcp, or TLS over it
	server   *Server
	client   *socket
	watch    watch
	ctx      context.Context // done when the connection is closed, or its client gone
	cancel   context.CancelCauseFunc
	ip       string

	// What follows belongs to the goroutine that serves the connection: net/http calls
	// Read on others only while it serves a request, and has them end before it is idle.

	fresh   bool  // the next Read is for the start of a request
	left    int64 // of the request that net/http has; -1: it has the connection for good
	desk    *desk // nil: nothing of the client's is here
	read    int   // of desk.in has gone to net/http
	request Request
	answer  answer
	trip    Trip
	failure error

	readBy, writeBy time.Time // deadlines, if set here
	served, shaken  bool

	mu       sync.Mutex
	upstream *upstream // in use
	cause    error     // of the request's end before its time
	turn     uint64    // counts the requests that were to be passed
	busy     bool      // passing a request
	waiting  bool      // for another
	draining bool
	closed   bool
}

func newConn(s *Server, outer net.Conn, tcp *net.TCPConn, raw syscall.RawConn) *Conn {
	c := &Conn{Conn: outer, tcp: tcp, out: tcp, server: s, client: newSocket(raw, outer, &requests), fresh: true}
	if secured, ok := outer.(*tls.Conn); ok {
		c.out = secured
	}
	c.watch.conn = c
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	c.ip, _, _ = net.SplitHostPort(tcp.RemoteAddr().String())
	s.add(c)
	return c
}

// halves are connections that can end in one direction.
type halves interface {
	net.Conn
	CloseWrite() error
}

// Read implements net.Conn for net/http.
func (c *Conn) Read(p []byte) (int, error) {
	if c.fresh {
		if err := c.shake(); err != nil {
			return 0, err
		}
		if err := c.run(); err != nil {
			return 0, err
		}
		c.fresh = false
	}
	if c.left == 0 { // net/http looks whether its client is there still
		if err := c.client.awaitEnd(); err != nil {
			return 0, err
		}
		return 0, io.EOF
	}
	if c.left > 0 && int64(len(p)) > c.left {
		p = p[:c.left]
	}
	var n int
	var err error
	if c.desk != nil && c.read < len(c.desk.in) {
		n = copy(p, c.desk.in[c.read:])
		c.read += n
		if c.read == len(c.desk.in) {
			c.clear()
		}
	} else {
		n, err = c.Conn.Read(p)
	}
	if c.left > 0 {
		c.left -= int64(n)
	}
	return n, err
}

// shake does what net/http would where it sees that a connection is one of TLS. The time
// for it is that for the first head.
func (c *Conn) shake() error {
	secured, ok := c.out.(*tls.Conn)
	if !ok || c.shaken {
		return nil
	}
	c.shaken = true
	err := secured.Handshake()
	if err != nil && c.server.ErrorLog != nil {
		c.server.ErrorLog.Printf("TLS handshake error from %s: %v", c.ip, err)
	}
	return err
}

// Context is done when the connection is closed, or its client is gone.
func (c *Conn) Context() context.Context { return c.ctx }

// IP is the client's address.
func (c *Conn) IP() string { return c.ip }

// idle says that net/http has answered, and will wait for a request. If it has taken all
// of the one that it was given, and nothing else, the next is looked at here.
func (c *Conn) idle() {
	if c.fresh = c.left == 0; !c.fresh {
		c.left = -1
	}
}

func (c *Conn) clear() {
	if c.desk != nil {
		c.desk.release()
		c.desk = nil
	}
	c.read = 0
}

// run passes requests until one comes that is net/http's.
func (c *Conn) run() error {
	c.failure = nil
	for {
		found, err := c.await()
		if err != nil {
			c.clear()
			return err
		}
		if found == strange {
			c.left = -1
			break
		}
		c.left = int64(c.request.head + c.request.length)
		if found == otherHead {
			break
		}
		passed, err := c.enter()
		if err != nil {
			c.clear()
			return err
		}
		if !passed {
			break
		}
		c.consume(c.request.head + c.request.length)
	}
	// net/http may believe that it is waiting for the first head, or for the next request.
	_ = c.tcp.SetReadDeadline(time.Now().Add(c.server.limits.Head))
	c.readBy = time.Time{}
	return nil
}

// consume takes a request that was passed off the desk, and the desk if it is empty.
func (c *Conn) consume(n int) {
	if c.read+n == len(c.desk.in) {
		c.clear()
		return
	}
	c.read += n
}

// await waits for a request, and says what it is.
func (c *Conn) await() (verdict, error) {
	begun := false
	for {
		if c.desk != nil && c.read < len(c.desk.in) {
			c.request.lines = c.desk.lines
			found := parseRequest(c.desk.in[c.read:], c.server.limits.Header, &c.request)
			c.desk.lines = c.request.lines
			switch {
			case found == plainHead && !c.arrived():
				return otherHead, nil
			case found != incomplete:
				return found, nil
			}
		} else if c.server.draining.Load() || c.server.forced.Load() {
			return incomplete, errEnd
		}
		if err := c.more(&begun); err != nil {
			return incomplete, err
		}
	}
}

// more reads more of a request's head.
func (c *Conn) more(begun *bool) error {
	now := time.Now()
	switch {
	case c.desk != nil && !*begun: // all of it has little time
		*begun = true
		c.readBy = now.Add(c.server.limits.Head)
		_ = c.tcp.SetReadDeadline(c.readBy) // fails on a closed connection, as reading does
	case c.desk == nil && c.served:
		if coarse(&c.readBy, now, c.server.limits.Idle) {
			_ = c.tcp.SetReadDeadline(c.readBy)
		}
		if !c.wait(true) {
			return errEnd
		}
		defer c.wait(false)
	}
	return c.receive()
}

// receive adds to what there is of the client's.
func (c *Conn) receive() error {
	p, err := c.client.read(nil)
	if err != nil {
		if p != nil {
			p.release()
		}
		return err
	}
	if c.desk == nil {
		c.desk, c.read = newDesk(), 0
	}
	c.desk.in = append(c.desk.in, p.b[pageRoom:p.full]...)
	p.release()
	return nil
}

// arrived says whether all of the request's body is there, in a moment at the latest.
func (c *Conn) arrived() bool {
	whole := c.read + c.request.head + c.request.length
	if len(c.desk.in) >= whole {
		return true
	}
	if c.request.head+c.request.length > keptSize {
		return false
	}
	c.readBy = time.Time{}
	_ = c.tcp.SetReadDeadline(time.Now().Add(bodyPatience))
	for len(c.desk.in) < whole {
		if c.receive() != nil {
			break // net/http meets it again
		}
	}
	_ = c.tcp.SetReadDeadline(time.Time{})
	c.request.in = c.desk.in[c.read:]
	return len(c.desk.in) >= whole
}

// enter passes a request, unless the connection is being closed.
func (c *Conn) enter() (passed bool, err error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false, net.ErrClosed
	}
	c.busy, c.cause = true, nil
	c.turn++
	turn := c.turn
	c.mu.Unlock()
	c.watch.begin(time.Now(), turn)
	defer func() {
		c.watch.end()
		c.served = true
		c.trip = Trip{Lines: c.trip.Lines[:0]}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.busy = false
		if passed && err == nil && c.draining {
			err = errEnd
		}
	}()
	return c.pass()
}

// abandon ends a request, if it is under way.
func (c *Conn) abandon(turn uint64, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if turn != c.turn || !c.busy {
		return
	}
	if c.cause == nil {
		c.cause = cause
	}
	if errors.Is(cause, context.Canceled) { // the client is gone
		c.cancel(cause)
	}
	if c.upstream != nil {
		c.upstream.close()
	}
}

// use says over what the request goes, nil for nothing. It fails when the request was
// abandoned.
func (c *Conn) use(u *upstream) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.upstream = u
	return c.cause
}

// abandoned is why the request under way was, or nil.
func (c *Conn) abandoned() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// write sends a part of an answer, for which the client has time anew.
func (c *Conn) write(p []byte) error {
	if coarse(&c.writeBy, time.Now(), c.server.limits.Stall) {
		_ = c.tcp.SetWriteDeadline(c.writeBy) // fails on a closed connection, as writing does
	}
	_, err := c.out.Write(p)
	return err
}

// wait says whether the connection waits for another request. It must not if it is to end.
func (c *Conn) wait(waiting bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = waiting && !c.draining
	return !c.draining
}

// drain ends the connection once it is idle. One that is new is net/http's to end.
func (c *Conn) drain() {
	c.mu.Lock()
	c.draining = true
	waiting := c.waiting
	c.mu.Unlock()
	if waiting {
		c.Close()
	}
}

// Close implements net.Conn. net/http closes what it takes for idle when it shuts down;
// a request that is being passed comes to its end before.
func (c *Conn) Close() error {
	forced := c.server.forced.Load()
	c.mu.Lock()
	if c.busy && !forced {
		c.draining = true
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	if c.upstream != nil {
		c.upstream.close()
	}
	if c.cause == nil {
		c.cause = net.ErrClosed
	}
	c.mu.Unlock()
	c.cancel(net.ErrClosed)
	c.watch.stop()
	c.server.remove(c)
	return c.Conn.Close()
}

// CloseWrite is how net/http lets a client read an answer to its end.
func (c *Conn) CloseWrite() error { return c.out.CloseWrite() }

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	c.readBy, c.writeBy = time.Time{}, time.Time{}
	return c.Conn.SetDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.writeBy = time.Time{}
	return c.Conn.SetWriteDeadline(t)
}
