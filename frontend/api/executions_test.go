// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

// same fails the test unless two JSON texts have the same value.
func same(t *testing.T, got, want string) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(got), &a); err != nil {
		t.Fatalf("%v: %s", err, got)
	}
	if err := json.Unmarshal([]byte(want), &b); err != nil {
		t.Fatalf("%v: %s", err, want)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestExecute(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	const answer = `{"stdout":"1\n","exitCode":0}`
	w.node.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Server-Timing", "exec;dur=2.00")
		fmt.Fprint(w, answer)
	})
	r := w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"console.log('<é>\u2028')","files":[{"path":"./a/../b.ts","content":"x\ny"},
		{"path":"/workspace/c","content":""}],"env":{"A":"1","B":""},"timeout":60,"workingDir":"/workspace/sub/","stream":false}`)
	r.ok(nil)
	if r.Body.String() != answer {
		t.Errorf("got %s", r.Body)
	}
	if timing := r.Header().Get("Server-Timing"); !regexp.MustCompile(`^auth;dur=.*node;dur=.*total;dur=[0-9.]+, exec;dur=2.00$`).MatchString(timing) {
		t.Errorf("Server-Timing %q", timing)
	}
	got := w.node.last(t)
	execution := regexp.MustCompile(`"executionId":"(exe_[a-z0-9]{20})"`).FindStringSubmatch(got.body)
	if got.method != "POST" || got.path != "/v1/execute" || execution == nil {
		t.Fatalf("node got %+v", got)
	}
	same(t, got.body, `{"executionId":"`+execution[1]+`","code":"console.log('<é>\u2028')","files":[{"path":"b.ts","content":"x\ny"},
		{"path":"c","content":""}],"env":{"A":"1","B":""},"timeout":60,"workingDir":"sub"}`)

	// The session's own time-out, and code that is empty but there.
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":""}`).ok(nil)
	if body := w.node.last(t).body; !strings.Contains(body, `"code":"","timeout":30}`) {
		t.Errorf("node got %s", body)
	}
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","command":"ls","stream":true}`).ok(nil)
	if body := w.node.last(t).body; !strings.Contains(body, `"command":"ls","timeout":30,"stream":true}`) {
		t.Errorf("node got %s", body)
	}
}

func TestExecuteSessionTimeout(t *testing.T) {
	w := newWorld(t)
	var got struct{ SessionID string }
	w.send(paid, "POST", "/sessions/create", `{"resourceLimits":{"timeout":7}}`).ok(&got)
	w.send(paid, "POST", "/execute", `{"sessionId":"`+got.SessionID+`","code":""}`).ok(nil)
	if body := w.node.last(t).body; !strings.Contains(body, `"timeout":7`) {
		t.Errorf("node got %s", body)
	}
}

func TestExecuteBadInput(t *testing.T) {
	w := newWorld(t)
	id := w.create(free)
	long := strings.Repeat("n", 256)
	many := func(n int, one func(i int) string) string {
		all := make([]string, n)
		for i := range all {
			all[i] = one(i)
		}
		return strings.Join(all, ",")
	}
	file := func(i int) string { return fmt.Sprintf(`{"path":"f%d","content":""}`, i) }
	variable := func(i int) string { return fmt.Sprintf(`"V%d":""`, i) }
	for rest, field := range map[string]string{
		``:                                                                 "code",
		`,"code":null`:                                                     "code",
		`,"code":1`:                                                        "code",
		`,"code":["a"]`:                                                    "code",
		`,"code":"1","command":"ls"`:                                       "code",
		`,"command":{}`:                                                    "command",
		`,"command":"a\u0000b"`:                                            "command",
		`,"command":"` + long600(t) + `"`:                                  "command",
		`,"code":"\ud800"`:                                                 "code",
		`,"code":"1","timeout":0`:                                          "timeout",
		`,"code":"1","timeout":-1`:                                         "timeout",
		`,"code":"1","timeout":31`:                                         "timeout",
		`,"code":"1","timeout":1.5`:                                        "timeout",
		`,"code":"1","timeout":"30"`:                                       "timeout",
		`,"code":"1","stream":"yes"`:                                       "stream",
		`,"code":"1","stream":1`:                                           "stream",
		`,"code":"1","workingDir":1`:                                       "workingDir",
		`,"code":"1","workingDir":".."`:                                    "workingDir",
		`,"code":"1","workingDir":"/etc"`:                                  "workingDir",
		`,"code":"1","workingDir":"a\u0000"`:                               "workingDir",
		`,"code":"1","env":[]`:                                             "env",
		`,"code":"1","env":"A=1"`:                                          "env",
		`,"code":"1","env":{"A":1}`:                                        "env.A",
		`,"code":"1","env":{"A":null,"A":""}`:                              "env.A",
		`,"code":"1","env":{"":"x"}`:                                       "env",
		`,"code":"1","env":{"A=B":"x"}`:                                    "env",
		`,"code":"1","env":{"A\u0000":"x"}`:                                "env",
		`,"code":"1","env":{"A":"x\u0000"}`:                                "env.A",
		`,"code":"1","env":{"A":"` + long600(t) + `"}`:                     "env.A",
		`,"code":"1","env":{` + many(101, variable) + `}`:                  "env",
		`,"code":"1","files":{}`:                                           "files",
		`,"code":"1","files":["a"]`:                                        "files[0]",
		`,"code":"1","files":[{"path":1,"content":""}]`:                    "files[0].path",
		`,"code":"1","files":[{"path":"a","content":1}]`:                   "files[0].content",
		`,"code":"1","files":[{"path":"a"}]`:                               "files[0].content",
		`,"code":"1","files":[{"content":""}]`:                             "files[0].path",
		`,"code":"1","files":[{"path":"","content":""}]`:                   "files[0].path",
		`,"code":"1","files":[{"path":".","content":""}]`:                  "files[0].path",
		`,"code":"1","files":[{"path":"a/","content":""}]`:                 "files[0].path",
		`,"code":"1","files":[{"path":"a/..","content":""}]`:               "files[0].path",
		`,"code":"1","files":[{"path":"../a","content":""}]`:               "files[0].path",
		`,"code":"1","files":[{"path":"/a","content":""}]`:                 "files[0].path",
		`,"code":"1","files":[{"path":"/workspace","content":""}]`:         "files[0].path",
		`,"code":"1","files":[{"path":"/workspacex","content":""}]`:        "files[0].path",
		`,"code":"1","files":[{"path":"a\u0000","content":""}]`:            "files[0].path",
		`,"code":"1","files":[{"path":"` + long + `","content":""}]`:       "files[0].path",
		`,"code":"1","files":[` + file(0) + `,{"path":"..","content":""}]`: "files[1].path",
		`,"code":"1","files":[{"path":"a","content":"","mode":1}]`:         "files[0].mode",
		`,"code":"1","files":[` + many(101, file) + `]`:                    "files",
		`,"code":"1","extra":1`:                                            "extra",
		`,"code":"1","sessionId":"x"`:                                      "sessionId",
	} {
		t.Run(rest[:min(len(rest), 60)], func(t *testing.T) {
			r := w.send(free, "POST", "/execute", `{"sessionId":"`+id+`"`+rest+`}`)
			r.t = t
			r.field(field)
		})
	}
	w.send(free, "POST", "/execute", "").field("sessionId")
	w.send(free, "POST", "/execute", `{"code":"1"}`).field("sessionId")
	w.send(free, "POST", "/execute", `{"sessionId":"","code":"1"}`).field("sessionId")
	w.send(free, "POST", "/execute", `{"sessionId":1,"code":"1"}`).field("sessionId")
	w.send(free, "POST", "/execute?sessionId=x", `{"sessionId":"`+id+`","code":"1"}`).field("sessionId")
	if got := w.node.requests(); len(got) != 0 {
		t.Errorf("the node got %d requests", len(got))
	}
	w.send(free, "POST", "/execute", `{"sessionId":"`+id+`","code":"1","timeout":30,"files":[`+many(100, file)+`],"env":{`+many(100, variable)+`}}`).ok(nil)
	w.send(free, "POST", "/execute", `{"sessionId":"ses_nothing","code":"1"}`).refused(404, "session_not_found")
}

// long600 is more than Linux takes as one argument.
func long600(*testing.T) string { return strings.Repeat("x", 600<<10) }

func TestExecuteSizes(t *testing.T) {
	w := newWorld(t)
	for key, most := range map[string]int{free: 10 << 20, paid: 50 << 20} {
		id := w.create(key)
		content := strings.Repeat("x", most)
		w.send(key, "POST", "/execute", `{"sessionId":"`+id+`","code":"","files":[{"path":"a","content":"`+content+`"}]}`).ok(nil)
		f := w.send(key, "POST", "/execute", `{"sessionId":"`+id+`","code":"","files":[{"path":"a","content":"`+content+`x"}]}`).refused(413, "file_too_large")
		if f.Details["field"] != "files[0]" {
			t.Errorf("field: %v", f.Details)
		}
		w.send(key, "POST", "/execute", `{"sessionId":"`+id+`","code":"`+strings.Repeat("x", 10<<20+1)+`"}`).refused(413, "file_too_large")
	}
}

func TestPassOn(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	for status, code := range map[int]string{
		400: "invalid_request", 404: "execution_not_found", 408: "execution_timeout", 409: "session_busy",
		500: "internal_error", 503: "service_unavailable", 507: "memory_limit_exceeded",
	} {
		body := fmt.Sprintf(`{"error":{"code":%q,"message":"from the node","details":{"field":"x"}}}`, code)
		w.node.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		})
		r := w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`)
		r.refused(status, code)
		if r.Body.String() != body || r.Header().Get("Retry-After") != "7" {
			t.Errorf("got %s, %v", r.Body, r.Header())
		}
	}
}

func TestExecutions(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	for _, c := range []struct{ method, target, body, want string }{
		{"GET", "/executions/exe_1?sessionId=" + id, "", "GET /v1/executions/exe_1"},
		{"GET", "/executions/a%2F..%3Fb?sessionId=" + id, "", "GET /v1/executions/a%2F..%3Fb"},
		{"GET", "/executions/exe_1/output?sessionId=" + id, "", "GET /v1/executions/exe_1/output"},
		{"GET", "/processes?sessionId=" + id, "", "GET /v1/processes"},
		{"POST", "/execution/kill", `{"sessionId":"` + id + `"}`, "POST /v1/kill {}"},
		{"POST", "/execution/kill", `{"sessionId":"` + id + `","pid":7}`, `POST /v1/kill {"pid":7}`},
		{"POST", "/execution/kill", `{"sessionId":"` + id + `","pid":7,"signal":"SIGHUP"}`, `POST /v1/kill {"pid":7,"signal":1}`},
		{"POST", "/execution/kill", `{"sessionId":"` + id + `","signal":"int"}`, `POST /v1/kill {"signal":2}`},
		{"POST", "/execution/kill", `{"sessionId":"` + id + `","signal":9}`, `POST /v1/kill {"signal":9}`},
		{"POST", "/execution/kill", `{"sessionId":"` + id + `","signal":"15"}`, `POST /v1/kill {"signal":15}`},
	} {
		w.node.answers(says(`{"from":"node"}`))
		r := w.send(paid, c.method, c.target, c.body)
		r.ok(nil)
		got := w.node.last(t)
		if text := strings.TrimSpace(got.method + " " + got.path + " " + got.body); text != c.want || r.Body.String() != `{"from":"node"}` {
			t.Errorf("node got %s, want %s; client got %s", text, c.want, r.Body)
		}
	}
	w.send(paid, "GET", "/executions/exe_1/output?sessionId="+id, "", "Last-Event-ID", "17").ok(nil)
	if got := w.node.last(t).header.Get("Last-Event-ID"); got != "17" {
		t.Errorf("Last-Event-ID %q", got)
	}
}

func TestExecutionsBadInput(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	for _, target := range []string{"/executions/x", "/executions/x/output", "/processes"} {
		w.send(paid, "GET", target, "").field("sessionId")
		w.send(paid, "GET", target+"?sessionId=", "").field("sessionId")
		w.send(paid, "GET", target+"?sessionId="+id+"&x=1", "").field("x")
		w.send(paid, "GET", target+"?sessionId=ses_nothing", "").refused(404, "session_not_found")
	}
	for _, last := range []string{"-1", "x", "1.5", "99999999999999999999"} {
		w.send(paid, "GET", "/executions/x/output?sessionId="+id, "", "Last-Event-ID", last).field("Last-Event-ID")
	}
	for rest, field := range map[string]string{
		`"pid":0`: "pid", `"pid":-1`: "pid", `"pid":"1"`: "pid", `"pid":1.5`: "pid", `"pid":1e99`: "pid", `"pid":[1]`: "pid",
		`"signal":"SIGNOPE"`: "signal", `"signal":0`: "signal", `"signal":65`: "signal", `"signal":-9`: "signal", `"signal":9.5`: "signal",
		`"signal":""`: "signal", `"signal":true`: "signal", `"signal":{}`: "signal", `"x":1`: "x",
	} {
		w.send(paid, "POST", "/execution/kill", `{"sessionId":"`+id+`",`+rest+`}`).field(field)
	}
	w.send(paid, "POST", "/execution/kill", "").field("sessionId")
	w.send(paid, "POST", "/execution/kill", `{"sessionId":[]}`).field("sessionId")
}

// TestExecutionIsNamedInTheHead also where the answer is no success.
func TestExecutionIsNamedInTheHead(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	for _, status := range []int{200, 507} {
		w.node.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
		reply := w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`)
		if named := reply.Header().Get("X-Execution-Id"); named == "" || !strings.Contains(w.node.last(t).body, named) {
			t.Errorf("status %d: X-Execution-Id is %q, the node was asked %s", status, named, w.node.last(t).body)
		}
	}
}

func TestOutputUntil(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.send(paid, "GET", "/executions/exe_1/output?sessionId="+id+"&until=answer", "").ok(nil)
	if asked := w.node.last(t); asked.query != "until=answer" {
		t.Errorf("the node was asked %+v", asked)
	}
	w.send(paid, "GET", "/executions/exe_1/output?sessionId="+id+"&until=noon", "").field("until")
}

// TestExecuteDeletedElsewhere: a session that another front-end has deleted is not
// there, although its node has not heard of that yet and has run the code.
func TestExecuteDeletedElsewhere(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	w.sessions.Close()
	w.node.answers(says(`{"stdout":"1\n","exitCode":0}`))
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`).ok(nil)
	sess, err := w.store.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.Delete(t.Context(), sess); err != nil {
		t.Fatal(err)
	}
	now := w.sessions.Now
	w.sessions.Now = func() time.Time { return now().Add(time.Second) }
	for range 2 {
		if r := w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`); r.Code != http.StatusNotFound {
			t.Errorf("status %d: %s", r.Code, r.Body)
		}
	}
	if n := len(w.node.requests()); n != 2 {
		t.Errorf("the node got %d requests, want one before the session was deleted and one that found out", n)
	}
}
