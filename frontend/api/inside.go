// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"

	"github.com/buntime/buntime/driver/door"
)

// inside makes requests of a handler in this process. The answer comes as it is written.
type inside struct {
	to              http.Handler
	remote, request string // whose requests they are, and of which one of theirs
}

// RoundTrip implements http.RoundTripper.
func (i inside) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	in := r.Clone(ctx)
	in.RequestURI, in.RemoteAddr, in.Host = r.URL.RequestURI(), i.remote, r.URL.Host
	if i.request != "" {
		in.Header.Set(door.RequestHeader, i.request)
	}
	if in.Body == nil {
		in.Body = http.NoBody
	}
	body, out := io.Pipe()
	w := &insideWriter{header: http.Header{}, head: make(chan struct{}), body: out}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		defer func() {
			if p := recover(); p != nil { // as the server's own, which then breaks the connection
				out.CloseWithError(fmt.Errorf("the answer broke off: %w", io.ErrUnexpectedEOF))
				return
			}
			w.WriteHeader(http.StatusOK)
			out.Close()
		}()
		defer in.Body.Close()
		i.to.ServeHTTP(w, in)
	}()
	res := func() *http.Response {
		return &http.Response{
			Status: fmt.Sprintf("%d %s", w.status, http.StatusText(w.status)), StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: w.sent, Body: &insideBody{body, cancel}, ContentLength: length(w.sent), Request: r,
		}
	}
	select {
	case <-w.head:
		return res(), nil
	case <-gone:
	case <-r.Context().Done():
		cancel()
		body.CloseWithError(r.Context().Err())
		return nil, r.Context().Err()
	}
	select {
	case <-w.head:
		return res(), nil
	default:
		cancel()
		return nil, fmt.Errorf("there is no answer: %w", io.ErrUnexpectedEOF)
	}
}

// length is that of a body, if its header says it.
func length(h http.Header) int64 {
	var n int64
	if _, err := fmt.Sscan(h.Get("Content-Length"), &n); err != nil {
		return -1
	}
	return n
}

// insideWriter is the http.ResponseWriter of a request from inside.
type insideWriter struct {
	header, sent http.Header
	status       int
	head         chan struct{} // closed when status and sent are there
	once         sync.Once
	body         *io.PipeWriter
}

// Header implements http.ResponseWriter.
func (w *insideWriter) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *insideWriter) WriteHeader(status int) {
	w.once.Do(func() {
		w.status, w.sent = status, w.header.Clone()
		close(w.head)
	})
}

// Write implements http.ResponseWriter.
func (w *insideWriter) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// Flush implements http.Flusher: nothing is held back but the head.
func (w *insideWriter) Flush() { w.WriteHeader(http.StatusOK) }

// insideBody ends the request when nobody reads on.
type insideBody struct {
	io.ReadCloser
	cancel func()
}

// Close implements io.Closer.
func (b *insideBody) Close() error {
	defer b.cancel()
	return b.ReadCloser.Close()
}
