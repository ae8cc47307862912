// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// TestEdges: the free plan's limits, at their edges.
func TestEdges(t *testing.T) {
	w := newWorld(t)
	id := w.create(free)
	metadata := func(bytes int) string {
		return `{"metadata":{"a":"` + strings.Repeat("x", bytes-len(`{"a":""}`)) + `"}}`
	}
	list := func(n int, format string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = fmt.Sprintf(format, i)
		}
		return strings.Join(all, ",")
	}
	execute := func(more string) string { return `{"sessionId":"` + id + `","code":"1",` + more + `}` }
	write := func(bytes int) string {
		return `{"sessionId":"` + id + `","path":"a","content":"` + strings.Repeat("x", bytes) + `"}`
	}
	base := func(bytes int) string {
		return `{"sessionId":"` + id + `","path":"a","encoding":"base64","content":"` + base64.StdEncoding.EncodeToString(make([]byte, bytes)) + `"}`
	}
	const size = 10 << 20
	for _, c := range []struct {
		target, at, beyond, field string
		status                    int
	}{
		{"/sessions/create", `{"ttl":300}`, `{"ttl":299}`, "ttl", 400},
		{"/sessions/create", `{"ttl":86400}`, `{"ttl":86401}`, "ttl", 400},
		{"/sessions/create", metadata(16384), metadata(16385), "metadata", 400},
		{"/sessions/" + id + "/extend", `{"ttl":300}`, `{"ttl":299}`, "ttl", 400},
		{"/sessions/" + id + "/extend", `{"ttl":86400}`, `{"ttl":86401}`, "ttl", 400},
		{"/execute", execute(`"timeout":1`), execute(`"timeout":0`), "timeout", 400},
		{"/execute", execute(`"timeout":30`), execute(`"timeout":31`), "timeout", 400},
		{"/execute", execute(`"files":[` + list(100, `{"path":"%d","content":""}`) + `]`), execute(`"files":[` + list(101, `{"path":"%d","content":""}`) + `]`), "files", 400},
		{"/execute", execute(`"env":{` + list(100, `"V%d":""`) + `}`), execute(`"env":{` + list(101, `"V%d":""`) + `}`), "env", 400},
		{
			"/execute", execute(`"files":[{"path":"a","content":"` + strings.Repeat("x", size) + `"}]`),
			execute(`"files":[{"path":"a","content":"` + strings.Repeat("x", size+1) + `"}]`), "files[0]", 413,
		},
		{"/files/write", write(size), write(size + 1), "content", 413},
		{"/files/write", base(size), base(size + 1), "content", 413},
	} {
		w.send(free, "POST", c.target, c.at).ok(nil)
		r := w.send(free, "POST", c.target, c.beyond)
		var got struct{ Error failure }
		if err := json.Unmarshal(r.Body.Bytes(), &got); err != nil || r.Code != c.status || got.Error.Details["field"] != c.field {
			t.Errorf("%s beyond the edge of %s: %d %.300s", c.target, c.field, r.Code, r.Body)
		}
	}
}

// TestLastRequest: of 101 requests in a minute the last is refused, as is the eleventh
// session.
func TestLastRequest(t *testing.T) {
	w := newWorld(t)
	for i := range 100 {
		r := w.send(plain, "POST", "/sessions/create", "")
		if want := map[bool]int{true: 200, false: 429}[i < 10]; r.Code != want {
			t.Fatalf("create %d: status %d: %s", i+1, r.Code, r.Body)
		}
		if i == 10 {
			r.refused(http.StatusTooManyRequests, "session_limit_exceeded")
		}
		if got, want := r.Header().Get("X-RateLimit-Remaining"), fmt.Sprint(99-i); got != want || r.Header().Get("X-RateLimit-Limit") != "100" {
			t.Errorf("request %d: %s remain, want %s", i+1, got, want)
		}
	}
	r := w.send(plain, "GET", "/sessions", "")
	r.refused(http.StatusTooManyRequests, "rate_limit_exceeded")
	if r.Header().Get("Retry-After") == "" || r.Header().Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("%v", r.Header())
	}
}
