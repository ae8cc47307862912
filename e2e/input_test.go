// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/buntime/buntime/e2e/client"
)

// TestBadBody: every field of every body, in every way it can be wrong. {id}
// stands for a session that is there.
func TestBadBody(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("kept.txt", "kept")
	const (
		create  = "/sessions/create"
		execute = "/execute"
		kill    = "/execution/kill"
		write   = "/files/write"
	)
	cases := []struct {
		path, body string
		fields     string // the one that is named; "|" between alternatives
	}{
		{create, `{"ttl":"3600"}`, "ttl"},
		{create, `{"ttl":3600.5}`, "ttl"},
		{create, `{"ttl":0}`, "ttl"},
		{create, `{"ttl":-1}`, "ttl"},
		{create, `{"ttl":true}`, "ttl"},
		{create, `{"ttl":[3600]}`, "ttl"},
		{create, `{"ttl":1e300}`, "ttl"},
		{create, `{"ttl":9223372036854775808}`, "ttl"},
		{create, `{"metadata":"x"}`, "metadata"},
		{create, `{"metadata":[1]}`, "metadata"},
		{create, `{"metadata":7}`, "metadata"},
		{create, `{"resourceLimits":7}`, "resourceLimits"},
		{create, `{"resourceLimits":[]}`, "resourceLimits"},
		{create, `{"resourceLimits":{"memory":"1GB"}}`, "resourceLimits.memory"},
		{create, `{"resourceLimits":{"memory":0}}`, "resourceLimits.memory"},
		{create, `{"resourceLimits":{"memory":-1024}}`, "resourceLimits.memory"},
		{create, `{"resourceLimits":{"memory":1024.5}}`, "resourceLimits.memory"},
		{create, `{"resourceLimits":{"cpu":"1"}}`, "resourceLimits.cpu"},
		{create, `{"resourceLimits":{"cpu":0}}`, "resourceLimits.cpu"},
		{create, `{"resourceLimits":{"cpu":-0.25}}`, "resourceLimits.cpu"},
		{create, `{"resourceLimits":{"timeout":0}}`, "resourceLimits.timeout"},
		{create, `{"resourceLimits":{"timeout":-1}}`, "resourceLimits.timeout"},
		{create, `{"resourceLimits":{"timeout":"30"}}`, "resourceLimits.timeout"},

		{execute, `{"code":"1"}`, "sessionId"},
		{execute, `{"sessionId":7,"code":"1"}`, "sessionId"},
		{execute, `{"sessionId":["{id}"],"code":"1"}`, "sessionId"},
		{execute, `{"sessionId":"{id}"}`, "code|command"},
		{execute, `{"sessionId":"{id}","code":"1","command":"true"}`, "code|command"},
		{execute, `{"sessionId":"{id}","code":7}`, "code"},
		{execute, `{"sessionId":"{id}","code":["1"]}`, "code"},
		{execute, `{"sessionId":"{id}","command":7}`, "command"},
		{execute, `{"sessionId":"{id}","command":["ls","-l"]}`, "command"},
		{execute, `{"sessionId":"{id}","command":"echo \u0000"}`, "command"},
		{execute, `{"sessionId":"{id}","code":"1","files":"x"}`, "files"},
		{execute, `{"sessionId":"{id}","code":"1","files":{}}`, "files"},
		{execute, `{"sessionId":"{id}","code":"1","files":["x"]}`, "files.0|files"},
		{execute, `{"sessionId":"{id}","code":"1","files":[{"content":"x"}]}`, "files.0.path"},
		{execute, `{"sessionId":"{id}","code":"1","files":[{"path":"","content":"x"}]}`, "files.0.path"},
		{execute, `{"sessionId":"{id}","code":"1","files":[{"path":7,"content":"x"}]}`, "files.0.path"},
		{execute, `{"sessionId":"{id}","code":"1","files":[{"path":"a\u0000b","content":"x"}]}`, "files.0.path"},
		{execute, `{"sessionId":"{id}","code":"1","files":[{"path":"a"}]}`, "files.0.content"},
		{execute, `{"sessionId":"{id}","code":"1","files":[{"path":"a","content":7}]}`, "files.0.content"},
		{execute, `{"sessionId":"{id}","code":"1","files":[{"path":"ok","content":"x"},{"path":"../a","content":"x"}]}`, "files.1.path"},
		{execute, `{"sessionId":"{id}","code":"1","env":"A=1"}`, "env"},
		{execute, `{"sessionId":"{id}","code":"1","env":["A=1"]}`, "env"},
		{execute, `{"sessionId":"{id}","code":"1","env":{"A":1}}`, "env.A|env"},
		{execute, `{"sessionId":"{id}","code":"1","env":{"A":{}}}`, "env.A|env"},
		{execute, `{"sessionId":"{id}","code":"1","env":{"":"x"}}`, "env|env."},
		{execute, `{"sessionId":"{id}","code":"1","env":{"A=B":"x"}}`, "env|env.A=B"},
		{execute, `{"sessionId":"{id}","code":"1","env":{"A\u0000":"x"}}`, "env|env.A\x00"},
		{execute, `{"sessionId":"{id}","code":"1","env":{"A":"x\u0000y"}}`, "env|env.A"},
		{execute, `{"sessionId":"{id}","code":"1","timeout":0}`, "timeout"},
		{execute, `{"sessionId":"{id}","code":"1","timeout":-5}`, "timeout"},
		{execute, `{"sessionId":"{id}","code":"1","timeout":1.5}`, "timeout"},
		{execute, `{"sessionId":"{id}","code":"1","timeout":"30"}`, "timeout"},
		{execute, `{"sessionId":"{id}","code":"1","timeout":1000000}`, "timeout"},
		{execute, `{"sessionId":"{id}","code":"1","workingDir":7}`, "workingDir"},
		{execute, `{"sessionId":"{id}","code":"1","workingDir":"nowhere"}`, "workingDir"},
		{execute, `{"sessionId":"{id}","code":"1","workingDir":"kept.txt"}`, "workingDir"},
		{execute, `{"sessionId":"{id}","code":"1","workingDir":"a\u0000"}`, "workingDir"},
		{execute, `{"sessionId":"{id}","code":"1","stream":"yes"}`, "stream"},
		{execute, `{"sessionId":"{id}","code":"1","stream":1}`, "stream"},

		{kill, `{"pid":5}`, "sessionId"},
		{kill, `{"sessionId":7}`, "sessionId"},
		{kill, `{"sessionId":"{id}","pid":"5"}`, "pid"},
		{kill, `{"sessionId":"{id}","pid":1.5}`, "pid"},
		{kill, `{"sessionId":"{id}","pid":[5]}`, "pid"},
		{kill, `{"sessionId":"{id}","signal":"SIGNONSENSE"}`, "signal"},
		{kill, `{"sessionId":"{id}","signal":{}}`, "signal"},

		{write, `{"path":"a","content":"x"}`, "sessionId"},
		{write, `{"sessionId":"{id}","content":"x"}`, "path"},
		{write, `{"sessionId":"{id}","path":"","content":"x"}`, "path"},
		{write, `{"sessionId":"{id}","path":7,"content":"x"}`, "path"},
		{write, `{"sessionId":"{id}","path":"a\u0000b","content":"x"}`, "path"},
		{write, `{"sessionId":"{id}","path":"a"}`, "content"},
		{write, `{"sessionId":"{id}","path":"a","content":7}`, "content"},
		{write, `{"sessionId":"{id}","path":"a","content":{"b":1}}`, "content"},
		{write, `{"sessionId":"{id}","path":"a","content":"x","encoding":"latin1"}`, "encoding"},
		{write, `{"sessionId":"{id}","path":"a","content":"x","encoding":7}`, "encoding"},
		{write, `{"sessionId":"{id}","path":"a","content":"not base64!","encoding":"base64"}`, "content"},
		{write, `{"sessionId":"{id}","path":"a","content":"eA=","encoding":"base64"}`, "content"},
	}
	for _, c := range cases {
		t.Run(c.path+" "+c.body, func(t *testing.T) {
			body := strings.ReplaceAll(c.body, "{id}", s.id)
			reply := send(t, s.ctx, s.api, client.Call{Method: "POST", Path: c.path, Body: strings.NewReader(body)})
			dropIfMade(t, s.api, reply)
			refusedField(t, reply, strings.Split(c.fields, "|")...)
		})
	}
	t.Run("nothing came of it", func(t *testing.T) {
		s := s.in(t)
		equal(t, "files", names(s.list()), []string{"kept.txt"})
		equal(t, "processes", s.processes(), []process{})
	})
}

// dropIfMade deletes the session that a create made which should have failed.
func dropIfMade(t *testing.T, api *client.Client, reply *client.Reply) {
	if reply.Status == 200 && strings.Contains(string(reply.Body), `"expiresAt"`) {
		dropLater(t, api, decode[created](t, reply).SessionID)
	}
}

// TestBadJSON: what is no JSON object at all, at every endpoint with a body.
func TestBadJSON(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for _, path := range []string{"/sessions/create", "/execute", "/execution/kill", "/files/write"} {
		for name, body := range map[string]string{
			"cut off": `{"sessionId":"` + s.id, "no JSON": `sessionId=x`, "list": `[]`, "text": `"x"`, "number": `7`, "true": `true`,
			"two objects": `{}{}`, "rest": `{} x`, "single quotes": `{'a':1}`, "bare word": `{a:1}`, "trailing comma": `{"a":1,}`,
			"deep": strings.Repeat(`{"metadata":`, 20_000) + "1" + strings.Repeat("}", 20_000), "no UTF-8": "{\"sessionId\":\"\xff\xfe\"}", "blanks": "  \n ",
		} {
			t.Run(path+" "+name, func(t *testing.T) {
				reply := send(t, s.ctx, s.api, client.Call{Method: "POST", Path: path, Body: strings.NewReader(body)})
				dropIfMade(t, s.api, reply)
				switch {
				case name == "no UTF-8" && reply.Status == 404: // an id that nobody has
				case path == "/sessions/create" && name == "no UTF-8" && reply.Status == 200: // an unknown member
				case path == "/sessions/create" && name == "blanks" && reply.Status == 200: // as good as no body
				default:
					refusal(t, reply, 400, "invalid_request")
				}
			})
		}
	}
}

// TestBadQuery: every parameter of every endpoint without a body.
func TestBadQuery(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	run := s.code(`1`)
	cases := []struct{ method, path, query, field string }{
		{"GET", "/sessions", "limit=0", "limit"},
		{"GET", "/sessions", "limit=101", "limit"},
		{"GET", "/sessions", "limit=-1", "limit"},
		{"GET", "/sessions", "limit=x", "limit"},
		{"GET", "/sessions", "limit=1.5", "limit"},
		{"GET", "/sessions", "offset=-1", "offset"},
		{"GET", "/sessions", "offset=x", "offset"},
		{"GET", "/sessions", "offset=99999999999999999999", "offset"},
		{"GET", "/sessions", "state=asleep", "state"},

		{"GET", "/processes", "", "sessionId"},
		{"GET", "/executions/" + run.ExecutionID, "", "sessionId"},
		{"GET", "/executions/" + run.ExecutionID + "/output", "", "sessionId"},

		{"GET", "/files/list", "", "sessionId"},
		{"GET", "/files/list", "sessionId={id}&limit=0", "limit"},
		{"GET", "/files/list", "sessionId={id}&limit=101", "limit"},
		{"GET", "/files/list", "sessionId={id}&limit=x", "limit"},
		{"GET", "/files/list", "sessionId={id}&offset=-1", "offset"},
		{"GET", "/files/list", "sessionId={id}&offset=x", "offset"},
		{"GET", "/files/list", "sessionId={id}&path=a%00b", "path"},
		{"GET", "/files/read", "path=a", "sessionId"},
		{"GET", "/files/read", "sessionId={id}", "path"},
		{"GET", "/files/read", "sessionId={id}&path=", "path"},
		{"GET", "/files/read", "sessionId={id}&path=a%00b", "path"},
		{"DELETE", "/files", "path=a", "sessionId"},
		{"DELETE", "/files", "sessionId={id}", "path"},
		{"DELETE", "/files", "sessionId={id}&path=", "path"},
		{"DELETE", "/files", "sessionId={id}&path=a%00b", "path"},
		{"DELETE", "/files", "sessionId={id}&path=a&recursive=maybe", "recursive"},
	}
	for _, c := range cases {
		t.Run(c.method+" "+c.path+"?"+c.query, func(t *testing.T) {
			query, err := url.ParseQuery(strings.ReplaceAll(c.query, "{id}", s.id))
			if err != nil {
				t.Fatal(err)
			}
			refusedField(t, send(t, s.ctx, s.api, client.Call{Method: c.method, Path: c.path, Query: query}), c.field)
		})
	}
}

// endpoints are all of them, with the least that makes a good call.
func endpoints(s *session, executionID string) []client.Call {
	path := s.query([]string{"path", "a"})
	return []client.Call{
		{Method: "POST", Path: "/sessions/create", JSON: M{}},
		{Method: "GET", Path: "/sessions/" + s.id},
		{Method: "GET", Path: "/sessions"},
		{Method: "DELETE", Path: "/sessions/" + s.id},
		{Method: "POST", Path: "/execute", JSON: s.body(M{"code": "1"})},
		{Method: "POST", Path: "/execute", JSON: s.body(M{"code": "1", "stream": true})},
		{Method: "GET", Path: "/executions/" + executionID, Query: s.query(nil)},
		{Method: "GET", Path: "/executions/" + executionID + "/output", Query: s.query(nil)},
		{Method: "POST", Path: "/execution/kill", JSON: s.body(nil)},
		{Method: "GET", Path: "/processes", Query: s.query(nil)},
		{Method: "GET", Path: "/files/list", Query: s.query(nil)},
		{Method: "POST", Path: "/files/write", JSON: s.body(M{"path": "a", "content": "a"})},
		{Method: "GET", Path: "/files/read", Query: path},
		{Method: "DELETE", Path: "/files", Query: path},
	}
}

// TestUnauthorized: no endpoint does or tells anything without a good key.
func TestUnauthorized(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("a", "kept")
	run := s.code(`1`)
	key := s.api.Key
	d := stranger()
	nobody := client.New(strings.Replace(system.base, "localhost", "127.0.0.1", 1), "")
	nobody.HTTP.Transport.(*http.Transport).DialContext = d.DialContext
	for name, header := range map[string]string{
		"none": "", "unknown": "Bearer btk_unknown", "empty": "Bearer ", "no scheme": key, "other scheme": "Basic " + key,
		"cut": "Bearer " + key[:len(key)-1], "longer": "Bearer " + key + "x", "capitals": "Bearer " + strings.ToUpper(key), "long": "Bearer btk_" + strings.Repeat("x", 4000),
	} {
		t.Run(name, func(t *testing.T) {
			calls := endpoints(s, run.ExecutionID)
			if name != "none" && name != "unknown" {
				calls = calls[1:2] // many attempts would be refused for their number
			}
			for _, call := range calls {
				t.Run(call.Method+" "+call.Path, func(t *testing.T) {
					call.Header = map[string]string{"Authorization": header}
					reply := send(t, s.ctx, nobody, call)
					dropIfMade(t, s.api, reply)
					refusal(t, reply, 401, "unauthorized")
				})
			}
		})
	}
	equal(t, "the file", s.read("a"), "kept")
}

// TestContentType: a body has to say that it is JSON.
func TestContentType(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for _, call := range endpoints(s, "x") {
		if call.Method != "POST" {
			continue
		}
		for _, kind := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx", "", "nonsense"} {
			t.Run(call.Path+" "+kind, func(t *testing.T) {
				call.Header = map[string]string{"Content-Type": kind}
				reply := send(t, s.ctx, s.api, call)
				dropIfMade(t, s.api, reply)
				refusal(t, reply, 415, "unsupported_media_type")
			})
		}
		t.Run(call.Path+" with charset", func(t *testing.T) {
			call.Header = map[string]string{"Content-Type": "Application/JSON; charset=UTF-8"}
			reply := send(t, s.ctx, s.api, call)
			dropIfMade(t, s.api, reply)
			status(t, reply, 200)
		})
	}
}

// TestWrongMethod: 405 with the methods that there are.
func TestWrongMethod(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for path, wrong := range map[string]string{
		"/sessions":         "PUT PATCH DELETE",
		"/sessions/create":  "PUT PATCH",
		"/sessions/" + s.id: "POST PUT PATCH",
		"/execute":          "GET PUT PATCH DELETE",
		"/execution/kill":   "GET PUT DELETE",
		"/executions/x":     "POST PUT DELETE",
		"/processes":        "POST PUT DELETE",
		"/files/list":       "POST PUT DELETE",
		"/files/write":      "GET PUT DELETE",
		"/files/read":       "POST PUT DELETE",
		"/files":            "POST PUT GET",
	} {
		for method := range strings.FieldsSeq(wrong) {
			t.Run(method+" "+path, func(t *testing.T) {
				reply := send(t, s.ctx, s.api, client.Call{Method: method, Path: path, Query: s.query(nil)})
				refusal(t, reply, 405, "method_not_allowed")
				if reply.Header.Get("Allow") == "" {
					t.Error("no Allow header")
				}
			})
		}
	}
	status(t, s.infoReply(), 200)
}

func TestUnknownRoute(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	for _, path := range []string{"/nope", "/sessions/x/y", "/execute/now", "/files/nope", "/v1/execute", "/executions", "/.env", "/debug/pprof/"} {
		for _, method := range []string{"GET", "POST"} {
			t.Run(fmt.Sprint(method, " ", path), func(t *testing.T) {
				refusal(t, send(t, ctx, paid(), client.Call{Method: method, Path: path}), 404, "not_found")
			})
		}
	}
}

// TestPlanLimitsOfExecute: the free plan's timeout ends at 30 s, the paid at 300.
func TestPlanLimitsOfExecute(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	for _, plan := range []struct {
		name string
		api  *client.Client
		most int
	}{{"free", free(), 30}, {"paid", paid(), 300}} {
		t.Run(plan.name, func(t *testing.T) {
			s := createSession(t, ctx, plan.api, nil)
			equal(t, "at the limit", s.well(s.execute(M{"code": `console.log(1)`, "timeout": plan.most})), "1\n")
			refusedField(t, s.post("/execute", M{"code": `1`, "timeout": plan.most + 1}), "timeout")
		})
	}
}
