// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package swift

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// Proxy stands in front of a server and does what networks and busy servers do.
type Proxy struct {
	listener net.Listener
	server   *http.Server
	backward *httputil.ReverseProxy

	mu       sync.Mutex
	fault    Fault
	requests int
}

// Fault decides what happens to a request, the n-th, from 0, since the fault was
// set. Nil lets it pass.
type Fault func(n int, r *http.Request) Action

// Action is done with a request instead of passing it on; pass does that.
type Action func(w http.ResponseWriter, r *http.Request, pass http.Handler)

// NewProxy starts a proxy on a port of the loopback. It is to be closed.
func NewProxy(s *Server) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{listener: l}
	// The Host of a request stays: Swift tells clients the URL of their account by
	// it, and so they come here again.
	p.backward = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = "http", s.Address(), r.In.Host
		},
		Transport: &http.Transport{MaxIdleConnsPerHost: 32, DisableCompression: true},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			panic(http.ErrAbortHandler) // as if there were no proxy
		},
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	go p.server.Serve(l) //nolint:errcheck // ends with Close
	return p, nil
}

// Close ends it, and all connections through it.
func (p *Proxy) Close() error {
	p.backward.Transport.(*http.Transport).CloseIdleConnections()
	return p.server.Close()
}

// AuthURL is Server.AuthURL through the proxy.
func (p *Proxy) AuthURL() string {
	return (&url.URL{Scheme: "http", Host: p.listener.Addr().String(), Path: "/auth/v1.0"}).String()
}

// Set has a fault decide from now on; nil ends faults.
func (p *Proxy) Set(f Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fault, p.requests = f, 0
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	var action Action
	if p.fault != nil {
		action = p.fault(p.requests, r)
		p.requests++
	}
	p.mu.Unlock()
	if action == nil {
		p.backward.ServeHTTP(w, r)
		return
	}
	action(w, r, p.backward)
}

// Answer answers with a status of its own, without having read the body.
func Answer(status int) Action {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(status) }
}

// Cut breaks the connection before the server sees the request.
func Cut(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// CutAnswer breaks the connection once the server has done what was asked.
func CutAnswer(w http.ResponseWriter, r *http.Request, pass http.Handler) {
	pass.ServeHTTP(&answer{ResponseWriter: w, header: http.Header{}, most: 0}, r)
	panic(http.ErrAbortHandler)
}

// Delay holds the request up, for as long as the client waits at most.
func Delay(d time.Duration) Action {
	return func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		select {
		case <-time.After(d):
			pass.ServeHTTP(w, r)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

// Truncate breaks the connection after n bytes of the answer's body.
func Truncate(n int) Action {
	return func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		pass.ServeHTTP(&answer{ResponseWriter: w, most: n}, r)
	}
}

// CorruptAnswer changes the n-th byte of the answer's body.
func CorruptAnswer(n int) Action {
	return func(w http.ResponseWriter, r *http.Request, pass http.Handler) {
		pass.ServeHTTP(&answer{ResponseWriter: w, most: -1, flip: n, flips: true}, r)
	}
}

// CorruptRequest changes the first byte of the request's body.
func CorruptRequest(w http.ResponseWriter, r *http.Request, pass http.Handler) {
	r.Body = &flipped{ReadCloser: r.Body}
	pass.ServeHTTP(w, r)
}

// answer is an answer on its way back.
type answer struct {
	http.ResponseWriter
	header http.Header // if set, instead of the client's
	most   int         // bytes before it is cut; -1: all
	flips  bool
	flip   int // where, if it flips
	done   int
}

func (a *answer) Header() http.Header {
	if a.header != nil {
		return a.header
	}
	return a.ResponseWriter.Header()
}

func (a *answer) WriteHeader(status int) {
	if a.header == nil {
		a.ResponseWriter.WriteHeader(status)
	}
}

func (a *answer) Write(b []byte) (int, error) {
	if a.header != nil {
		return len(b), nil
	}
	if a.most >= 0 && a.done+len(b) > a.most {
		_, _ = a.ResponseWriter.Write(b[:a.most-a.done])
		_ = http.NewResponseController(a.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	if a.flips && a.flip >= a.done && a.flip < a.done+len(b) {
		b = append([]byte(nil), b...)
		b[a.flip-a.done] ^= 1
	}
	a.done += len(b)
	return a.ResponseWriter.Write(b)
}

type flipped struct {
	io.ReadCloser
	done bool
}

func (f *flipped) Read(b []byte) (int, error) {
	n, err := f.ReadCloser.Read(b)
	if n > 0 && !f.done {
		b[0] ^= 1
		f.done = true
	}
	if errors.Is(err, http.ErrBodyReadAfterClose) {
		err = io.EOF
	}
	return n, err
}
