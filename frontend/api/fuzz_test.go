// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"encoding/json"
	"io"
	"net/http"
	"path"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

// fuzzBody sends anything as the body of an operation: the answer is a success
// or an error of the contract's form, never a panic or a fault of our own, and
// what goes to the node is valid.
func fuzzBody(f *testing.F, target string, seeds ...string) {
	fuzzBodyAt(f, says("{}"), target, seeds...)
}

// fuzzBodyAt is fuzzBody with a node that says something else.
func fuzzBodyAt(f *testing.F, node http.HandlerFunc, target string, seeds ...string) {
	w := newWorld(f)
	id := w.create(paid)
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		body = strings.ReplaceAll(body, "ID", id)
		w.t = t
		w.node.answers(node)
		r := w.send(paid, "POST", strings.ReplaceAll(target, "ID", id), body)
		if r.Code != http.StatusOK {
			if r.Code >= 500 {
				t.Errorf("%d %s\n%s", r.Code, r.Body, w.log)
			}
			var got struct{ Error failure }
			if err := json.Unmarshal(r.Body.Bytes(), &got); err != nil || got.Error.Code == "" {
				t.Errorf("%d %s", r.Code, r.Body)
			}
			return
		}
		for _, got := range w.node.requests() {
			if got.body == "" {
				continue
			}
			var sent struct {
				Path  string
				Files []struct{ Path string }
			}
			if err := json.Unmarshal([]byte(got.body), &sent); err != nil {
				t.Errorf("%v: node got %s", err, got.body)
			}
			checkInside(t, sent.Path)
			for _, file := range sent.Files {
				checkInside(t, file.Path)
			}
		}
	})
}

func checkInside(t *testing.T, p string) {
	t.Helper()
	if p != "" && (path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../")) {
		t.Errorf("path %q goes to the node", p)
	}
}

func FuzzCreate(f *testing.F) {
	w := newWorld(f)
	for _, seed := range []string{`{"ttl":600,"metadata":{"a":[1,null]},"resourceLimits":{"memory":512,"cpu":0.5,"timeout":5,"disk":100}}`, `[]`, `{"ttl":1e9}`, `{"metadata":{"":{"":[]}}}`, "\x00", ``} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		w.t = t
		r := w.send(other, "POST", "/sessions/create", body)
		if r.Code >= 500 {
			t.Errorf("%d %s", r.Code, r.Body)
		}
		var got struct{ SessionID string }
		if r.Code != http.StatusOK {
			return
		}
		if err := json.Unmarshal(r.Body.Bytes(), &got); err != nil {
			t.Fatalf("%v: %s", err, r.Body)
		}
		info := w.send(other, "GET", "/sessions/"+got.SessionID, "")
		if info.Code != http.StatusOK || !json.Valid(info.Body.Bytes()) {
			t.Errorf("%d %s", info.Code, info.Body)
		}
		w.send(other, "DELETE", "/sessions/"+got.SessionID, "")
	})
}

func FuzzExecute(f *testing.F) {
	fuzzBody(f, "/execute",
		`{"sessionId":"ID","code":"1","files":[{"path":"./a/../b","content":"x"}],"env":{"A":"1"},"timeout":5,"workingDir":"a","stream":true}`,
		`{"sessionId":"ID","command":"ls"}`, `{"sessionId":"ID","code":"\ud800"}`, `{`, `{"sessionId":"ID","code":"","files":[{"path":"/workspace/./x//y","content":""}]}`)
}

func FuzzKill(f *testing.F) {
	fuzzBody(f, "/execution/kill", `{"sessionId":"ID","pid":1,"signal":"SIGTERM"}`, `{"sessionId":"ID","signal":9}`, `{"sessionId":"ID","signal":"\u0000"}`)
}

func FuzzWrite(f *testing.F) {
	fuzzBody(f, "/files/write", `{"sessionId":"ID","path":"a/../b","content":"AA==","encoding":"base64"}`, `{"sessionId":"ID","path":"/workspace/a","content":"\u0000"}`)
}

func FuzzExtend(f *testing.F) {
	fuzzBody(f, "/sessions/ID/extend", `{"ttl":600}`, `{"ttl":1e999}`, `{"ttl":"600"}`, `{"ttl":600,"ttl":700}`, `[600]`)
}

// FuzzSleep has a node that is busy: one that says it has brought a session to rest has
// to have noted it, too.
func FuzzSleep(f *testing.F) {
	busy := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusConflict)
		io.WriteString(w, `{"error":{"code":"session_busy","message":"busy"}}`)
	}
	fuzzBodyAt(f, busy, "/sessions/ID/sleep", `{"state":"idle"}`, `{"state":"deep-sleep","force":true}`, `{"state":null}`, `{"force":0}`)
}

// FuzzHeaders sends any headers that the API reads.
func FuzzHeaders(f *testing.F) {
	w := newWorld(f)
	id := w.create(paid)
	for _, seed := range []string{"0", "12-34", "-1", "18446744073709551616", "exec_a:1", "bytes=0-", "application/x-tar, application/zstd;q=0.5", "\t", "\"a b\""} {
		f.Add(seed, seed, seed, seed)
	}
	f.Fuzz(func(t *testing.T, key, event, accept, bytes string) {
		w.t = t
		for _, value := range []string{key, event, accept, bytes} {
			if !httpguts.ValidHeaderFieldValue(value) {
				return // which net/http's server refuses
			}
		}
		for _, target := range []string{"POST /execute", "POST /sessions/create", "GET /executions/exec_a/output", "GET /files/archive", "GET /files/read"} {
			method, path, _ := strings.Cut(target, " ")
			body, query := "", "?sessionId="+id+"&path=a"
			switch path {
			case "/execute":
				body, query = `{"sessionId":"`+id+`","code":"1"}`, ""
			case "/sessions/create", "/executions/exec_a/output":
				query = strings.TrimSuffix(query, "&path=a")
				if method == "POST" {
					body, query = "{}", ""
				}
			}
			r := newRequest(method, path+query, body, "application/json", paid)
			r.Header["Idempotency-Key"], r.Header["Last-Event-Id"], r.Header["Accept"], r.Header["Range"] = []string{key}, []string{event}, []string{accept}, []string{bytes}
			w.node.answers(says("{}"))
			out := w.serve(r)
			if out.Code >= 500 {
				t.Errorf("%s: %d %s", target, out.Code, out.Body)
			}
			var got struct{ SessionID string }
			if path == "/sessions/create" && json.Unmarshal(out.Body.Bytes(), &got) == nil && got.SessionID != "" {
				w.send(paid, "DELETE", "/sessions/"+got.SessionID, "")
			}
		}
	})
}

// FuzzTarget sends any path and query.
func FuzzTarget(f *testing.F) {
	w := newWorld(f)
	id := w.create(paid)
	for _, seed := range []string{
		"/sessions", "/sessions/ID", "/sessions?limit=1&metadata.a=b", "/files/list?sessionId=ID&path=a", "/files/read?sessionId=ID&path=../x",
		"/executions/a%2fb/output?sessionId=ID", "/processes?sessionId=ID", "//", "/%2e%2e/", "/sessions/%00", "/sessions?%", "/files?sessionId=ID&path=%ff",
	} {
		f.Add("GET", seed)
		f.Add("DELETE", seed)
	}
	f.Fuzz(func(t *testing.T, method, target string) {
		if method != "GET" && method != "DELETE" || target == "/sessions/ID" {
			return
		}
		target = strings.ReplaceAll(target, "ID", id)
		r, err := http.NewRequest(method, "http://api.test"+target, nil)
		if err != nil || !strings.HasPrefix(target, "/") || r.URL.Path == "/sessions/"+id {
			return
		}
		r.RemoteAddr = "192.0.2.1:1"
		r.Header.Set("Authorization", "Bearer "+paid)
		w.node.answers(says("{}"))
		out := w.serve(r)
		if out.Code >= 500 {
			t.Errorf("%s %q: %d %s", method, target, out.Code, out.Body)
		}
		for _, got := range w.node.requests() {
			if !strings.HasPrefix(got.path, "/v1/") {
				t.Errorf("%s %q: node got %s", method, target, got.path)
			}
		}
	})
}
