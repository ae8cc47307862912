// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
)

// passed are the headers of a node's answer that clients get to see, in the form
// that net/http keeps them in.
var passed = []string{
	"Content-Type", "Content-Length", "Content-Range", "Content-Disposition", "Accept-Ranges", "Etag",
	"Last-Modified", "Cache-Control", "X-Total-Count", "Retry-After", timingHeader,
}

const chunk = 32 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// relay passes a node's answer on, each piece as it comes.
func relay(ctx context.Context, w http.ResponseWriter, res *http.Response) {
	defer res.Body.Close()
	for _, name := range passed {
		if values, ok := res.Header[name]; ok {
			w.Header()[name] = values
		}
	}
	events := strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream")
	if events {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Accel-Buffering", "no") // proxies of nginx's kind wait for more otherwise
	}
	out, ours := w.(*writer)
	trails := ours && res.ContentLength < 0 // it may take long, or be a stream
	if trails {
		w.Header().Set("Trailer", timingHeader)
	}
	if ours && res.StatusCode >= http.StatusBadRequest {
		out.code = codeOf(res)
	}
	w.WriteHeader(res.StatusCode)
	err := pass(w, res.Body, events)
	if trails {
		out.trail(res.Trailer)
	}
	leaving := errors.Is(context.Cause(ctx), errLeaving)
	if err == nil || errors.Is(err, errGone) || ctx.Err() != nil && !leaving {
		return
	}
	logger(ctx).Warn("node's answer broke off", "err", cmp.Or(context.Cause(ctx), err))
	if !events {
		panic(http.ErrAbortHandler) // the client must not take a part for the whole
	}
	e := frontend.Unsure("the connection to the session broke; the execution may still run, see GET /executions/{executionId}")
	if leaving {
		e = frontend.Unsure("the front-end ends, and the execution goes on: read on at another, by GET /executions/{executionId}/output with Last-Event-ID")
	}
	body, _ := json.Marshal(&Failure{Err: e}) // a struct of strings
	_, _ = w.Write([]byte("\n\nevent: error\ndata: " + string(body) + "\n\n"))
}

// codes are all that there are.
var codes = frontend.Codes()

// codeOf is the code of a node's error.
func codeOf(res *http.Response) string {
	if said := res.Header.Get(node.CodeHeader); slices.Contains(codes, frontend.Code(said)) {
		return said
	}
	if res.StatusCode >= http.StatusInternalServerError {
		return string(frontend.CodeInternal)
	}
	return string(frontend.CodeInvalidRequest)
}

// errGone says that the client does not take any more.
var errGone = errors.New("client is gone")

// pass copies from a node to a client, which package door gives up when it
// takes nothing for a while. The head of a stream goes out at once,
// even when nothing follows for a while.
func pass(w http.ResponseWriter, from io.Reader, stream bool) error {
	conn := http.NewResponseController(w)
	if stream {
		if conn.Flush() != nil {
			return errGone
		}
	}
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return errGone
			}
			if stream && conn.Flush() != nil {
				return errGone
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
