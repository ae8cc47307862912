// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
)

func TestCreate(t *testing.T) {
	w := newWorld(t)
	r := w.send(paid, "POST", "/sessions/create", `{"ttl":3600,"metadata":{ "b":[1, 2.50], "a":"<é>" },"resourceLimits":{"memory":2048,"cpu":0.5,"timeout":60}}`)
	var got map[string]any
	r.ok(&got)
	id := got["sessionId"].(string)
	created, err := time.Parse("2006-01-02T15:04:05Z", got["createdAt"].(string))
	if err != nil {
		t.Error(err)
	}
	for name, want := range map[string]any{
		"expiresAt":      created.Add(time.Hour).Format("2006-01-02T15:04:05Z"),
		"previewUrl":     "https://ses-" + id[4:] + ".preview.test:8443",
		"resourceLimits": map[string]any{"memory": 2048.0, "cpu": 0.5, "timeout": 60.0, "disk": 1024.0},
	} {
		if fmt.Sprint(got[name]) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
	if len(got) != 5 {
		t.Errorf("answer: %v", got)
	}
	var info struct{ Metadata json.RawMessage }
	w.send(paid, "GET", "/sessions/"+id, "").ok(&info)
	if string(info.Metadata) != `{"b":[1,2.50],"a":"<é>"}` {
		t.Errorf("metadata: %s", info.Metadata)
	}
	for _, span := range []string{"auth;dur=", "kv;dur=", "register;dur=", "claim;dur=", "total;dur="} {
		if timing := r.Header().Get("Server-Timing"); !strings.Contains(timing, span) {
			t.Errorf("Server-Timing %q has no %s", timing, span)
		}
	}
}

func TestCreateWithoutBody(t *testing.T) {
	w := newWorld(t)
	w.send(free, "POST", "/sessions/create", "", "Content-Type", "").ok(nil)
	w.send(free, "POST", "/sessions/create", "{}").ok(nil)
	w.send(free, "POST", "/sessions/create", `{"ttl":null,"metadata":null,"resourceLimits":null}`).ok(nil)
	w.send(free, "POST", "/sessions/create", "{}", "Content-Type", "Application/JSON; charset=UTF-8").ok(nil)
}

func TestCreateBadInput(t *testing.T) {
	w := newWorld(t)
	for body, field := range map[string]string{
		`[]`:                              "body",
		`"x"`:                             "body",
		`null x`:                          "body",
		`{`:                               "body",
		`{"ttl":3600}{}`:                  "body",
		`{"ttl":3600,}`:                   "body",
		`{"ttl":299}`:                     "ttl",
		`{"ttl":604801}`:                  "ttl",
		`{"ttl":3600.5}`:                  "ttl",
		`{"ttl":"3600"}`:                  "ttl",
		`{"ttl":-1}`:                      "ttl",
		`{"ttl":99999999999999999999999}`: "ttl",
		`{"ttl":true}`:                    "ttl",
		`{"ttl":3600,"ttl":3601}`:         "ttl",
		`{"TTL":3600}`:                    "TTL",
		`{"tttl":3600}`:                   "tttl",
		`{"metadata":"x"}`:                "metadata",
		`{"metadata":[1]}`:                "metadata",
		`{"metadata":1}`:                  "metadata",
		`{"metadata":{"a":1,"a":2}}`:      "metadata.a",
		"{\"metadata\":{\"a\":\"\xff\"}}": "metadata.a",
		`{"metadata":{"a":"` + strings.Repeat("x", 16377) + `"}}`: "metadata",
		`{"resourceLimits":1}`:                      "resourceLimits",
		`{"resourceLimits":{"memory":"1"}}`:         "resourceLimits.memory",
		`{"resourceLimits":{"memory":1.5}}`:         "resourceLimits.memory",
		`{"resourceLimits":{"memory":0}}`:           "resourceLimits.memory",
		`{"resourceLimits":{"cpu":"1"}}`:            "resourceLimits.cpu",
		`{"resourceLimits":{"cpu":-1}}`:             "resourceLimits.cpu",
		`{"resourceLimits":{"cpu":1e400}}`:          "resourceLimits.cpu",
		`{"resourceLimits":{"timeout":0}}`:          "resourceLimits.timeout",
		`{"resourceLimits":{"timeout":[]}}`:         "resourceLimits.timeout",
		`{"resourceLimits":{"disk":1}}`:             "resourceLimits.disk",
		`{"resourceLimits":{"gpu":1}}`:              "resourceLimits.gpu",
		`{"sessionId":"ses_a"}`:                     "sessionId",
		`{"metadata":` + strings.Repeat("[", 20000): "metadata",
	} {
		t.Run(body[:min(len(body), 40)], func(t *testing.T) {
			r := w.send(paid, "POST", "/sessions/create", body)
			r.t = t
			if strings.HasPrefix(body, `{"metadata":[[`) { // too deep to say where
				if f := r.refused(400, "invalid_request"); len(f.Message) > 500 {
					t.Errorf("message of %d bytes", len(f.Message))
				}
				return
			}
			r.field(field)
		})
	}
	w.send(paid, "POST", "/sessions/create", `{"metadata":{"a":"`+strings.Repeat("x", 16376)+`"}}`).ok(nil)
	w.send(free, "POST", "/sessions/create", `{"resourceLimits":{"memory":512}}`).refused(403, "forbidden")
	w.send(paid, "POST", "/sessions/create", `{"resourceLimits":{"memory":8192}}`).refused(403, "forbidden")
	w.send(paid, "POST", "/sessions/create?x=1", "").field("x")
	for _, kind := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin1", "application/jsonp", ";", "application/problem+json"} {
		w.send(paid, "POST", "/sessions/create", "{}", "Content-Type", kind).refused(415, "unsupported_media_type")
	}
	w.send(paid, "POST", "/sessions/create", `{"metadata":{"a":"`+strings.Repeat("x", 120<<20)+`"}}`).refused(413, "file_too_large")
}

func TestSessionLimit(t *testing.T) {
	w := newWorld(t)
	for range 10 {
		w.create(free)
	}
	r := w.send(free, "POST", "/sessions/create", "")
	r.refused(429, "session_limit_exceeded")
	if after := r.Header().Get("Retry-After"); after != "" {
		t.Errorf("Retry-After is %q", after)
	}
}

func TestCreateUnavailable(t *testing.T) {
	w := newWorld(t)
	for _, step := range []string{"Create", "Account", "Start", "WaitClaim"} {
		fail := func(method string) error {
			if method == step {
				return errDown
			}
			return nil
		}
		w.store.SetFail(fail)
		w.scheduler.Fail = fail
		r := w.send(paid, "POST", "/sessions/create", "")
		f := r.refused(503, "service_unavailable")
		if r.Header().Get("Retry-After") == "" || strings.Contains(f.Message, "10.0.0.7") {
			t.Errorf("%s: %v: %s", step, r.Header(), r.Body)
		}
	}
}

func TestGet(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.node.answers(says(`{"session":"x","epoch":1,"alloc":"a","state":"active","lastActive":"2999-01-02T03:04:05Z","filesCount":7,
		"activeProcesses":2,"usage":{"memory":1,"disk":2,"cpuTime":3},"awakeBecause":["execution"],"expiresAt":"2999-01-02T03:04:05Z"}`))
	var got map[string]any
	w.send(paid, "GET", "/sessions/"+id, "").ok(&got)
	for name, want := range map[string]string{
		"sessionId": id, "state": "active", "lastActive": "2999-01-02T03:04:05Z", "filesCount": "7", "activeProcesses": "2",
		"usage": "map[cpuTime:3 disk:2 memory:1]", "awakeBecause": "[execution]", "metadata": "map[]",
	} {
		if fmt.Sprint(got[name]) != want {
			t.Errorf("%s: got %v, want %s", name, got[name], want)
		}
	}
	if last := w.node.last(t); last.path != "/v1/info" || last.header.Get("Authorization") != "Bearer "+claim.Token([]byte(secret), id, 1) {
		t.Errorf("node got %+v", last)
	}
	// A node that is no help: the record's values, and lists that are lists.
	w.node.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) })
	var again map[string]any
	w.send(paid, "GET", "/sessions/"+id, "").ok(&again)
	if again["state"] != "active" || again["lastActive"] != again["createdAt"] || fmt.Sprint(again["awakeBecause"]) != "[]" {
		t.Errorf("got %v", again)
	}
}

func TestList(t *testing.T) {
	w := newWorld(t)
	w.send(paid, "POST", "/sessions/create", `{"metadata":{"k":"v"}}`).ok(nil)
	w.create(paid)
	w.create(other)
	list := func(query string) (int, string) {
		var got struct{ Sessions []map[string]any }
		r := w.send(paid, "GET", "/sessions"+query, "")
		r.ok(&got)
		return len(got.Sessions), r.Header().Get("X-Total-Count")
	}
	for query, want := range map[string]string{
		"": "2 2", "?limit=1": "1 2", "?offset=1": "1 2", "?offset=9": "0 2", "?metadata.k=v": "1 1", "?metadata.k=w": "0 0",
		"?state=active": "2 2", "?state=idle": "0 0", "?metadata.k=v&state=active&limit=100": "1 1",
	} {
		if n, total := list(query); fmt.Sprint(n, " ", total) != want {
			t.Errorf("%s: got %d of %s, want %s", query, n, total, want)
		}
	}
	for query, field := range map[string]string{
		"limit=0": "limit", "limit=101": "limit", "limit=x": "limit", "limit=1.5": "limit", "limit=-1": "limit", "offset=-1": "offset",
		"offset=x": "offset", "offset=99999999999999999999": "offset", "state=asleep": "state", "state=starting": "state", "metadata=x": "metadata", "x=1": "x",
	} {
		w.send(paid, "GET", "/sessions?"+query, "").field(field)
	}
}

func TestDelete(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	if body := w.send(paid, "DELETE", "/sessions/"+id, "").Body.String(); body != `{"deleted":true,"sessionId":"`+id+`"}` {
		t.Errorf("got %s", body)
	}
	for name, r := range map[string]reply{
		"delete":     w.send(paid, "DELETE", "/sessions/"+id, ""),
		"get":        w.send(paid, "GET", "/sessions/"+id, ""),
		"execute":    w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`),
		"execution":  w.send(paid, "GET", "/executions/x?sessionId="+id, ""),
		"output":     w.send(paid, "GET", "/executions/x/output?sessionId="+id, ""),
		"kill":       w.send(paid, "POST", "/execution/kill", `{"sessionId":"`+id+`"}`),
		"processes":  w.send(paid, "GET", "/processes?sessionId="+id, ""),
		"list":       w.send(paid, "GET", "/files/list?sessionId="+id, ""),
		"write":      w.send(paid, "POST", "/files/write", `{"sessionId":"`+id+`","path":"a","content":""}`),
		"read":       w.send(paid, "GET", "/files/read?path=a&sessionId="+id, ""),
		"deleteFile": w.send(paid, "DELETE", "/files?path=a&sessionId="+id, ""),
	} {
		t.Run(name, func(t *testing.T) {
			r.t = t
			r.refused(404, "session_not_found")
		})
	}
}

// TestAnother: a session of another account does not exist.
func TestAnother(t *testing.T) {
	w := newWorld(t)
	id := w.create(other)
	for _, r := range []reply{
		w.send(paid, "GET", "/sessions/"+id, ""),
		w.send(paid, "DELETE", "/sessions/"+id, ""),
		w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`),
		w.send(paid, "GET", "/files/list?sessionId="+id, ""),
	} {
		r.refused(404, "session_not_found")
	}
	if got := w.node.requests(); len(got) != 0 {
		t.Errorf("the node got %+v", got)
	}
	w.send(other, "GET", "/sessions/"+id, "").ok(nil)
}

func TestExtend(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	var got struct{ SessionID, ExpiresAt string }
	w.send(paid, "POST", "/sessions/"+id+"/extend", `{"ttl": 604800}`).ok(&got)
	if asked := w.node.last(t); asked.method != "POST" || asked.path != "/v1/extend" {
		t.Errorf("the node was asked %+v", asked)
	}
	var info struct{ ExpiresAt string }
	w.send(paid, "GET", "/sessions/"+id, "").ok(&info)
	if got.SessionID != id || got.ExpiresAt != info.ExpiresAt {
		t.Errorf("%+v, and the session ends %s", got, info.ExpiresAt)
	}
	for _, body := range []string{`{}`, `{"ttl": null}`, `{"ttl": "300"}`, `{"ttl": 1}`, `{"ttl": 604801}`, ``} {
		w.send(paid, "POST", "/sessions/"+id+"/extend", body).field("ttl")
	}
	w.send(other, "POST", "/sessions/"+id+"/extend", `{"ttl": 300}`).refused(404, "session_not_found")
}
