// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"encoding/json"
	"net/http"
	"path"
	"strings"
	"testing"
)

// fuzzBody sends anything as the body of an operation: the answer is a success
// or an error of the contract's form, never a panic or a fault of our own, and
// what goes to the node is valid.
func fuzzBody(f *testing.F, target string, seeds ...string) {
	w := newWorld(f)
	id := w.create(paid)
	for _, seed := range seeds {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		body = strings.ReplaceAll(body, "ID", id)
		w.t = t
		w.node.answers(says("{}"))
		r := w.send(paid, "POST", target, body)
		if r.Code != http.StatusOK {
			if r.Code >= 500 {
				t.Errorf("%d %s", r.Code, r.Body)
			}
			var got struct{ Error failure }
			if err := json.Unmarshal(r.Body.Bytes(), &got); err != nil || got.Error.Code == "" {
				t.Errorf("%d %s", r.Code, r.Body)
			}
			return
		}
		for _, got := range w.node.requests() {
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
