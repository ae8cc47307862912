// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package relay passes plain HTTP requests from one connection to another on one
// goroutine, with no more copies than the kernel makes.
//
// It stands between a connection and net/http's server. When the server asks its
// connection for another request, and what comes is a plain one that the policy has
// a place for, the request is passed on and answered there and then; the server sees
// nothing of it. Whatever else comes (a head that is not of the strictest form, a
// large body, an upgrade, a session that is not there) goes to the server byte for
// byte, with all that its handlers know. So what is passed here has to be right, and
// need not be complete.
//
// A request is plain if it is HTTP/1.1 with one Host, an origin-form target, and a
// body, if any, of a known and small length that arrives with it. There are no hop-by-hop
// fields but "Connection: keep-alive", and no API key.
//
// Either connection may be one of TLS, which costs a buffer while it is waited for.
package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/door"
)

// Policy decides on a plain request. It fills in the trip and returns true, or has it
// go to net/http.
type Policy func(c *Conn, r *Request, t *Trip) bool

// Trip is what happens to a request.
type Trip struct {
	// Pool and Place say where it goes.
	Pool  *Pool
	Place Place
	// Keep are the kinds of header lines that go along, and Lines what is said besides.
	Keep  Kinds
	Lines []byte

	// Touch, if not nil, is called before bytes go in and after bytes have come out.
	// With an error of it nothing goes on.
	Touch func() error
	// Follow: an answer that bears door.MovedHeader is not the app's; the request was
	// not done and goes to net/http. Otherwise an app has said so, and the line is taken out.
	Follow bool
	// Attend, if not nil, is called when the answer is late. Once its context is done,
	// the request is given up, with the context's cause. answered is called when the
	// answer begins, or never will.
	Attend func(context.Context) (_ context.Context, answered func())
	// Answered, if not nil, is called when an answer has begun. Ended, if not nil, is called
	// when all is over: with the status of the answer that was passed, 0 if the client had
	// gone before it, or -1 if the request is net/http's.
	Answered func()
	Ended    func(status int)
}

// Server is an http.Server with a relay before it.
type Server struct {
	*http.Server
	policy Policy
	limits door.Limits

	draining, forced atomic.Bool // set with mu held

	mu    sync.Mutex
	conns map[*Conn]struct{}
	empty chan struct{} // closed when draining and no connection is left
}

// NewServer puts a relay before srv, which was made with these limits and is not
// serving yet.
func NewServer(srv *http.Server, limits door.Limits, policy Policy) *Server {
	s := &Server{Server: srv, policy: policy, limits: limits, conns: make(map[*Conn]struct{}), empty: make(chan struct{})}
	if s.limits.Header == 0 {
		s.limits.Header = door.MaxHeader
	}
	srv.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, c)
	}
	srv.ConnState = func(c net.Conn, state http.ConnState) {
		if c, ok := c.(*Conn); ok && state == http.StateIdle {
			c.idle()
		}
	}
	return s
}

type connKey struct{}

// ErrUnanswered is a request that was sent on a connection which broke before anything
// of an answer came: maybe it has been done.
var ErrUnanswered = errors.New("the connection broke before there was an answer")

// Failure is why a request that came to net/http could not be passed, although it was
// sent: it has to be answered so, and not sent again. nil: it was not sent.
func Failure(ctx context.Context) error {
	if c, ok := ctx.Value(connKey{}).(*Conn); ok {
		return c.failure
	}
	return nil
}

// Serve implements http.Server's.
func (s *Server) Serve(l net.Listener) error { return s.Server.Serve(listener{l, s}) }

// Shutdown is http.Server's, and waits for the relay's requests, too.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining.Store(true)
	if len(s.conns) == 0 {
		s.closeEmpty()
	}
	var all []*Conn
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	for _, c := range all {
		c.drain()
	}
	if err := s.Server.Shutdown(ctx); err != nil {
		return err
	}
	select {
	case <-s.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close is http.Server's, and cuts off the relay's requests, too.
func (s *Server) Close() error {
	s.mu.Lock()
	s.forced.Store(true)
	var all []*Conn
	for c := range s.conns {
		all = append(all, c)
	}
	s.mu.Unlock()
	err := s.Server.Close()
	for _, c := range all {
		c.Close()
	}
	return err
}

func (s *Server) closeEmpty() {
	select {
	case <-s.empty:
	default:
		close(s.empty)
	}
}

func (s *Server) add(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[c] = struct{}{}
}

func (s *Server) remove(c *Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, c)
	if s.draining.Load() && len(s.conns) == 0 {
		s.closeEmpty()
	}
}

type listener struct {
	net.Listener
	server *Server
}

// Accept implements net.Listener.
func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	inner := c
	for {
		u, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner = u.NetConn()
	}
	tcp, ok := inner.(*net.TCPConn)
	if !ok {
		return c, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil { // closed already
		return c, nil
	}
	return newConn(l.server, c, tcp, raw), nil
}

// underTLS says whether a connection's bytes are not those of its socket.
func underTLS(c net.Conn) bool {
	_, ok := c.(*tls.Conn)
	return ok
}

// socket reads from a TCP connection without holding a buffer while it waits, or from
// a connection of TLS over it with one of a record's size.
type socket struct {
	raw syscall.RawConn
	tls net.Conn // nil: there is none
	// buffers are for what is waited for over TLS.
	buffers *sync.Pool
	try     func(fd uintptr) bool
	page    *page // where to read to, from its byte full; nil: one is taken when there is something to read
	n       int
	err     error

	peek func(fd uintptr) bool
	byte [1]byte
}

func newSocket(raw syscall.RawConn, conn net.Conn, buffers *sync.Pool) *socket {
	s := &socket{raw: raw}
	if underTLS(conn) {
		s.tls, s.buffers = conn, buffers
	}
	s.try = s.attempt
	s.peek = s.look
	return s
}

func (s *socket) attempt(fd uintptr) bool {
	taken := s.page == nil
	if taken {
		s.page = newPage()
	}
	for {
		s.n, s.err = syscall.Read(int(fd), s.page.b[s.page.full:])
		if !errors.Is(s.err, syscall.EINTR) {
			break
		}
	}
	if errors.Is(s.err, syscall.EAGAIN) {
		if taken {
			s.page.release()
			s.page = nil
		}
		return false
	}
	s.n = max(s.n, 0)
	s.page.full += s.n
	return true
}

// read reads at least a byte to the end of p, or of a new page if p is nil.
func (s *socket) read(p *page) (*page, error) {
	if s.tls != nil {
		return s.readRecord(p)
	}
	s.page = p
	err := s.raw.Read(s.try)
	p, s.page = s.page, nil
	switch {
	case err != nil:
		return p, err
	case s.err != nil:
		return p, &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", s.err)}
	case s.n == 0:
		return p, errEnd
	}
	return p, nil
}

// Buffers for readRecord: of what a record holds at most, and for requests, which are
// waited for on many connections at a time.
var (
	records  = sync.Pool{New: func() any { return newBuffer(16 << 10) }}
	requests = sync.Pool{New: func() any { return newBuffer(4 << 10) }}
)

func newBuffer(size int) *[]byte {
	b := make([]byte, size)
	return &b
}

// readRecord is read for TLS, which does not tell whether it has something without being
// given room for it.
func (s *socket) readRecord(p *page) (*page, error) {
	if p != nil {
		n, err := s.tls.Read(p.b[p.full:])
		p.full += n
		return p, whole(n, err)
	}
	r := s.buffers.Get().(*[]byte)
	defer s.buffers.Put(r)
	n, err := s.tls.Read(*r)
	if n > 0 {
		p = newPage()
		p.full += copy(p.b[p.full:], (*r)[:n])
	}
	return p, whole(n, err)
}

// whole is the error of a read that brought n bytes: what ended the connection after them
// comes with the next.
func whole(n int, err error) error {
	switch {
	case n > 0:
		return nil
	case err == nil, errors.Is(err, io.EOF):
		return errEnd
	}
	return err
}

// closeWait is the state of a TCP connection whose other side has ended it.
const closeWait = 8

func (s *socket) look(fd uintptr) bool {
	for {
		n, _, err := syscall.Recvfrom(int(fd), s.byte[:], syscall.MSG_PEEK)
		switch {
		case err == syscall.EINTR:
			continue
		case err == nil && n > 0 && s.tls != nil:
			// TLS says that it ends before TCP does.
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			return err == nil && info.State == closeWait
		case err == syscall.EAGAIN, err == nil && n > 0:
			return false
		}
		return true
	}
}

// awaitEnd returns nil when the other side has ended the connection, an error if it was
// closed here or its deadline has come. It reads nothing.
func (s *socket) awaitEnd() error { return s.raw.Read(s.peek) }

// coarse is a deadline that is put off often: only when an eighth of the time is over.
func coarse(set *time.Time, now time.Time, d time.Duration) bool {
	if set.Sub(now) >= d-d/8 {
		return false
	}
	*set = now.Add(d)
	return true
}
