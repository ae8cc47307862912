// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/buntime/buntime/e2e/client"
)

// TestServerTiming: every answer says where the time went, that of every operation of
// the document, of every error before and behind the key, and of what needs none.
func TestServerTiming(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	other := newSession(t) // to be deleted
	made := s.execute(M{"code": "console.log(1)", "files": []M{{"path": "dir/a", "content": "x"}}})
	tar := s.get("/files/archive", "path", "dir")
	status(t, tar, 200)
	byNode := []string{"node", "total"}
	type call struct {
		client.Call
		spans []string
	}
	query := func(pairs ...string) url.Values { return s.query(pairs) }
	calls := map[string]call{
		"post /sessions/create":       {client.Call{JSON: M{"ttl": 300}}, []string{"kv", "total"}},
		"get /sessions":               {spans: []string{"kv", "total"}},
		"get /sessions/{id}":          {spans: []string{"info", "total"}},
		"post /sessions/{id}/extend":  {client.Call{JSON: M{"ttl": 600}}, []string{"kv", "node", "total"}},
		"post /sessions/{id}/sleep":   {client.Call{JSON: M{"state": "idle"}}, []string{"node", "total"}},
		"delete /sessions/{id}":       {client.Call{Path: "/sessions/" + other.id}, []string{"kv", "deregister", "total"}},
		"post /execute":               {client.Call{JSON: s.body(M{"code": "1"})}, []string{"auth", "node", "total", "exec"}},
		"post /execution/kill":        {client.Call{JSON: s.body(M{"pid": 1 << 22})}, byNode},
		"get /executions/{id}":        {client.Call{Path: "/executions/" + made.ExecutionID, Query: query()}, byNode},
		"get /executions/{id}/output": {client.Call{Path: "/executions/" + made.ExecutionID + "/output", Query: query()}, byNode},
		"get /processes":              {client.Call{Query: query()}, byNode},
		"get /account":                {spans: []string{"auth", "total"}},

		"post /sessions/{id}/terminal/ticket": {spans: []string{"auth", "total"}},
		"get /files/list":                     {client.Call{Query: query()}, byNode},
		"post /files/write":                   {client.Call{JSON: s.body(M{"path": "b", "content": "x"})}, byNode},
		"get /files/read":                     {client.Call{Query: query("path", "dir/a")}, byNode},
		"delete /files":                       {client.Call{Query: query("path", "b")}, byNode},
		"get /files/archive":                  {client.Call{Query: query("path", "dir")}, byNode},
		"put /files/archive":                  {client.Call{Query: query("path", "dir"), Body: strings.NewReader(string(tar.Body)), Header: map[string]string{"Content-Type": "application/x-tar"}}, byNode},
	}
	reply := send(t, s.ctx, s.api, client.Call{Method: "GET", Path: "/openapi.json"})
	var document struct{ Paths map[string]map[string]any }
	if err := json.Unmarshal(reply.Body, &document); err != nil {
		t.Fatal(err)
	}
	wantSpans(t, "openapi.json", reply.Header, "total")
	var operations []string
	for path, methods := range document.Paths {
		for method := range methods {
			operations = append(operations, method+" "+path)
		}
	}
	slices.Sort(operations)
	slices.Reverse(operations) // what writes comes before what deletes
	for _, operation := range operations {
		c, ok := calls[operation]
		if operation == "get /sessions/{id}/terminal" { // a WebSocket, whose refusal is below
			continue
		}
		if path, ok := strings.CutPrefix(operation, "get "); ok && strings.HasPrefix(path, "/operator/") {
			reply := send(t, s.ctx, s.api, client.Call{Method: "GET", Path: path})
			status(t, reply, 403)
			wantSpans(t, operation, reply.Header, "auth", "total")
			continue
		}
		if !ok {
			t.Errorf("this test does not know %s", operation)
			continue
		}
		method, path, _ := strings.Cut(operation, " ")
		c.Method = strings.ToUpper(method)
		if c.Path == "" {
			c.Path = strings.ReplaceAll(path, "{id}", s.id)
		}
		reply := send(t, s.ctx, s.api, c.Call)
		status(t, reply, 200)
		if operation == "post /sessions/create" {
			dropLater(t, s.api, decode[created](t, reply).SessionID)
		}
		wantSpans(t, operation, reply.Header, c.spans...)
		delete(calls, operation)
	}
	if len(calls) > 0 {
		t.Errorf("there are no operations %v", slices.Collect(maps.Keys(calls)))
	}

	for _, c := range []struct {
		status int
		client.Call
	}{
		{200, client.Call{Method: "GET", Path: "/healthz"}},
		{200, client.Call{Method: "GET", Path: "/readyz"}},
		{200, client.Call{Method: "GET", Path: "/docs"}},
		{400, client.Call{Method: "POST", Path: "/execute", JSON: s.body(M{"code": 1})}},
		{400, client.Call{Method: "GET", Path: "/files/list", Query: query("path", "../..")}},
		{400, client.Call{Method: "GET", Path: "/sessions/" + s.id + "/terminal"}},
		{401, client.Call{Method: "GET", Path: "/sessions", Header: map[string]string{"Authorization": ""}}},
		{404, client.Call{Method: "GET", Path: "/sessions/ses_unknown"}},
		{404, client.Call{Method: "GET", Path: "/files/read", Query: query("path", "none")}},
		{404, client.Call{Method: "GET", Path: "/unknown"}},
		{405, client.Call{Method: "PUT", Path: "/sessions"}},
		{415, client.Call{Method: "POST", Path: "/execute", Body: strings.NewReader("x"), Header: map[string]string{"Content-Type": "text/plain"}}},
	} {
		reply := send(t, s.ctx, s.api, c.Call)
		status(t, reply, c.status)
		wantSpans(t, c.Method+" "+c.Path, reply.Header, "total")
	}
}

// TestServerTimingOfStreams: the head says what was before it, such as the thaw of what
// stood still, the trailer how long the execution and the whole took.
func TestServerTimingOfStreams(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.print("console.log(1)")
	for _, stream := range []bool{false, true} {
		status(t, send(t, s.ctx, s.api, client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: M{"state": "idle"}}), 200)
		res, err := s.api.Open(s.ctx, client.Call{Method: "POST", Path: "/execute", JSON: s.body(M{"code": "1", "stream": stream})})
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		equal(t, "status", res.StatusCode, 200)
		if !stream {
			wantSpans(t, "answer", res.Header, "node", "total", "thaw", "exec")
			continue
		}
		contains(t, "stream", string(body), "event: result")
		wantSpans(t, "head", res.Header, "node", "total", "thaw")
		wantSpans(t, "trailer", res.Trailer, "total", "exec")
		if head := spansOf(res.Header); spansOf(res.Trailer)["total"] < head["total"] {
			t.Errorf("the whole took less than its head: %v, %v", res.Header, res.Trailer)
		}
	}
}

// wantSpans fails the test unless the header has exactly one value, with these spans.
func wantSpans(t *testing.T, what string, header http.Header, names ...string) {
	t.Helper()
	got := spansOf(header)
	for _, name := range names {
		if _, ok := got[name]; !ok {
			t.Errorf("%s: no %s in Server-Timing %q", what, name, header.Values("Server-Timing"))
		}
	}
	if len(header.Values("Server-Timing")) != 1 {
		t.Errorf("%s: Server-Timing %q", what, header.Values("Server-Timing"))
	}
}

func spansOf(header http.Header) map[string]float64 {
	var s spans
	s.note("", header)
	all := map[string]float64{}
	for name, took := range s.took {
		all[name] = took[0]
	}
	return all
}
