// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// page is the preview's URL of a path, which is sent as it stands.
func (s *session) page(path string) string {
	return s.pageAt(s.host(), path)
}

// pageAt is the same with another host label.
func (s *session) pageAt(label, path string) string {
	return "http://" + label + "." + system.previewDomain + path
}

// open sends a request to a preview, with no key of the API.
func (s *session) open(method, url string, header http.Header, body io.Reader) *http.Response {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.ctx, method, url, body)
	if err != nil {
		s.t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	res, err := s.api.HTTP.Do(req)
	if err != nil {
		s.t.Fatalf("%v (%v)", err, context.Cause(s.ctx))
	}
	s.t.Cleanup(func() { res.Body.Close() })
	return res
}

// visit is open with the whole answer.
func (s *session) visit(method, url string, header http.Header, body io.Reader) *client.Reply {
	s.t.Helper()
	begin := time.Now()
	res := s.open(method, url, header, body)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatalf("read %s: %v", url, err)
	}
	return &client.Reply{Status: res.StatusCode, Header: res.Header, Body: text, Took: time.Since(begin)}
}

// fetch gets a path of the preview.
func (s *session) fetch(path string) *client.Reply {
	s.t.Helper()
	return s.visit("GET", s.page(path), nil, nil)
}

// fetchPort gets a path from a port other than the preview's own.
func (s *session) fetchPort(port int, path string) *client.Reply {
	s.t.Helper()
	return s.visit("GET", s.pageAt(fmt.Sprintf("%d-%s", port, s.host()), path), nil, nil)
}

// fetchURL gets a URL that is none of a session's.
func fetchURL(t *testing.T, ctx context.Context, url string) *client.Reply {
	t.Helper()
	return (&session{t: t, ctx: ctx, api: shared}).visit("GET", url, nil, nil)
}
