// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package door is what the front-end and the node agents have in common where
// strangers knock: how slow a client may be and how much it may hold, which
// session a host names, and what of a visitor's request goes inward.
package door

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// MaxHeader is how many bytes the head of a request may have, its target
	// included: as many as Bun takes. net/http answers 431 beyond (and takes
	// 4 KB more). What there is of a head is held in memory, in the worst case
	// some fifteen times over.
	MaxHeader = 16 << 10
	// MaxFields is how many lines of header a request may have. Each costs a
	// hundred bytes or so beside its text, and apps have limits of that size.
	MaxFields = 100
	// MaxAnswerHeader is how many bytes the head of an app's answer may have.
	MaxAnswerHeader = 256 << 10
	// leftover is how long what the handler has not read of a request may take
	// to arrive. net/http waits for it, to use the connection again.
	leftover = 2 * time.Second
)

// Limits are what a client may take of a server.
type Limits struct {
	// Header is how many bytes a request's head may have; 0 is MaxHeader.
	Header int

	// Head is for the head of a request to arrive, Idle for the next request.
	Head, Idle time.Duration
	// Stall is how long a client may send nothing of a body, or take nothing
	// of an answer.
	Stall time.Duration
}

// NewServer is an HTTP/1 server for h whose clients are strangers.
func NewServer(h http.Handler, l Limits, log *log.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler:           &guard{next: h, stall: l.Stall},
		ReadHeaderTimeout: l.Head,
		IdleTimeout:       l.Idle,
		MaxHeaderBytes:    cmp.Or(l.Header, MaxHeader),
		Protocols:         protocols,
		ErrorLog:          log,
		// net/http's own answer to OPTIONS * reads a body without any of this.
		DisableGeneralOptionsHandler: true,
	}
}

// guard keeps slow clients and ambiguous requests from a handler.
type guard struct {
	next  http.Handler
	stall time.Duration
}

// ServeHTTP implements http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 { // the preface of HTTP/2
		refuse(w, http.StatusHTTPVersionNotSupported)
		return
	}
	if !plausible(r) {
		refuse(w, http.StatusBadRequest)
		return
	}
	if fields(r.Header) > MaxFields {
		refuse(w, http.StatusRequestHeaderFieldsTooLarge)
		return
	}
	if r.TransferEncoding != nil || !r.ProtoAtLeast(1, 1) {
		// A request with chunks may have had a Content-Length, too, and one of
		// HTTP/1.0 a Transfer-Encoding: net/http tells neither. A proxy before us
		// may have read its end elsewhere, so what follows it on the connection
		// is not taken for another request (RFC 9112, 6.1).
		w.Header().Set("Connection", "close")
	}
	out := &writer{ResponseWriter: w, conn: http.NewResponseController(w), stall: g.stall}
	defer out.last()
	if r.ContentLength == 0 {
		g.next.ServeHTTP(out, r)
		return
	}
	if r.Header.Get("Upgrade") != "" { // what follows an upgrade must not be a body
		refuse(w, http.StatusBadRequest)
		return
	}
	b := &body{ReadCloser: r.Body, conn: out.conn, stall: g.stall}
	b.extend()
	defer b.leave()
	// A copy: net/http looks at the original's body when it ends.
	in := r.WithContext(context.WithValue(r.Context(), bodyKey{}, b))
	in.Body = b
	g.next.ServeHTTP(out, in)
}

// plausible says whether a request's target is of one of the forms that HTTP
// has (RFC 9112, 3.2); net/http takes any URI.
func plausible(r *http.Request) bool {
	switch {
	case r.Method == http.MethodConnect:
		return true
	case r.RequestURI == "*":
		return r.Method == http.MethodOptions
	}
	return strings.HasPrefix(r.RequestURI, "/") || r.URL.Host != "" && (r.URL.Scheme == "http" || r.URL.Scheme == "https")
}

// fields counts the lines of a header.
func fields(h http.Header) int {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	return n
}

// refuse answers what is not served, and closes the connection.
func refuse(w http.ResponseWriter, status int) {
	w.Header().Set("Connection", "close")
	http.Error(w, http.StatusText(status), status)
}

// writer gives the client of an answer time anew with each piece of it.
type writer struct {
	http.ResponseWriter
	conn  *http.ResponseController
	stall time.Duration
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Write implements http.ResponseWriter.
func (w *writer) Write(p []byte) (int, error) {
	w.extend()
	return w.ResponseWriter.Write(p)
}

// extend fails on a connection without deadlines, which then has none.
func (w *writer) extend() { _ = w.conn.SetWriteDeadline(time.Now().Add(w.stall)) }

// last gives time to what net/http has yet to send, once it has waited for the
// rest of the request.
func (w *writer) last() { _ = w.conn.SetWriteDeadline(time.Now().Add(leftover + w.stall)) }

// body is that of a request: its next byte has to come in time.
type body struct {
	io.ReadCloser
	conn  *http.ResponseController
	stall time.Duration
	by    time.Time // when all has to be there; zero: never

	over, stalled atomic.Bool // over: read to its end
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	// Who passes the body on looks once more whether it is over. By then net/http may
	// have closed it, as it does when the answer begins, and its error for that would
	// have the connection cut that the answer comes on.
	if b.over.Load() {
		return 0, io.EOF
	}
	b.extend()
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		b.over.Store(true)
		// From here on net/http waits for the client to go away, or for its next
		// request, with deadlines of its own.
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		b.stalled.Store(true)
	}
	return n, err
}

func (b *body) extend() {
	at := time.Now().Add(b.stall)
	if !b.by.IsZero() && b.by.Before(at) {
		at = b.by
	}
	_ = b.conn.SetReadDeadline(at)
}

// leave gives the rest of the body little time.
func (b *body) leave() {
	if !b.over.Load() {
		_ = b.conn.SetReadDeadline(time.Now().Add(leftover))
	}
}

// Stalled says whether the client of the request that ctx belongs to has not
// sent its body in time. net/http cancels ctx then.
func Stalled(ctx context.Context) bool {
	b, ok := ctx.Value(bodyKey{}).(*body)
	return ok && b.stalled.Load()
}

type bodyKey struct{}

// ArriveBy says when the whole body of the request that ctx belongs to has to
// be there. Without it, it may come as slowly as Limits allow.
func ArriveBy(ctx context.Context, at time.Time) {
	if b, ok := ctx.Value(bodyKey{}).(*body); ok {
		b.by = at
	}
}
