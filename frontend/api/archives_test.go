// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func (w *world) put(key, target, kind string, body io.Reader) reply {
	r := httptest.NewRequest("PUT", target, body)
	r.Header.Set("Authorization", "Bearer "+key)
	r.Header.Set("Content-Type", kind)
	return reply{w.serve(r), w.t}
}

// breaks reads as something and then as an error.
type breaks struct{ left int }

func (b *breaks) Read(p []byte) (int, error) {
	if b.left--; b.left < 0 {
		return 0, errors.New("connection reset")
	}
	return copy(p, "some"), nil
}

// TestArchives: archives pass in both directions, with their limits.
func TestArchives(t *testing.T) {
	w := newWorld(t)
	id := w.create(free)
	target := "/files/archive?sessionId=" + id + "&path=/workspace/a"
	for accept, want := range map[string]string{
		"": "application/x-tar", "*/*": "application/x-tar", "application/zstd": "application/zstd",
		"text/html, application/zstd;q=0.5": "application/zstd", "application/x-tar;q=0, application/zstd": "application/zstd",
	} {
		w.node.answers(func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Type", want)
			_, _ = io.WriteString(rw, "archive")
		})
		r := w.send(free, "GET", target, "", "Accept", accept)
		r.ok(nil)
		if got := w.node.last(t); r.Body.String() != "archive" || r.Header().Get("Content-Type") != want || got.path != "/v1/files/archive" || got.query != "kind="+strings.ReplaceAll(want, "/", "%2F")+"&path=a" {
			t.Errorf("%q: %s %v; node got %+v", accept, r.Body, r.Header(), got)
		}
	}
	w.send(free, "GET", target, "", "Accept", "text/html").refused(415, "unsupported_media_type")
	w.send(other, "GET", target, "").refused(404, "session_not_found")
	w.send(free, "GET", "/files/archive?sessionId="+id+"&path=../x", "").field("path")

	w.node.answers(says(`{"path":"a","files":1,"size":2}`))
	w.put(free, target, "application/zstd", strings.NewReader("body")).ok(nil)
	if got := w.node.last(t); got.body != "body" || got.header.Get("Content-Type") != "application/zstd" || got.query != "maxFile=10485760&maxFiles=10000&path=a" {
		t.Errorf("node got %+v", got)
	}
	w.put(free, target, "application/json", strings.NewReader("{}")).refused(415, "unsupported_media_type")
	w.put(other, target, "application/x-tar", strings.NewReader("body")).refused(404, "session_not_found")
	w.put(free, target+"/../../../x", "application/x-tar", strings.NewReader("body")).field("path")
	f := w.put(free, target, "application/x-tar", &breaks{left: 3}).refused(400, "invalid_request")
	if f.Details["done"] != "unknown" {
		t.Errorf("details %v", f.Details)
	}
	r := httptest.NewRequest("PUT", target, strings.NewReader("x"))
	r.ContentLength = 2 << 30
	r.Header.Set("Authorization", "Bearer "+free)
	r.Header.Set("Content-Type", "application/x-tar")
	reply{w.serve(r), t}.refused(413, "file_too_large")
}

// TestArchiveToMovedSession: a body that was begun to be read cannot be sent again.
func TestArchiveToMovedSession(t *testing.T) {
	w := newWorld(t)
	target := "/files/archive?sessionId=" + w.create(free)
	w.node.answers(func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusGone) })
	f := w.put(free, target, "application/x-tar", strings.NewReader("body")).refused(503, "service_unavailable")
	if n := len(w.node.requests()); n != 1 || f.Details["done"] != "no" {
		t.Errorf("%d requests, %v", n, f)
	}
}
