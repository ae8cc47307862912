// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/buntime/buntime/frontend/audit"
)

// TestAudit: it is written down who did what to which session and what came of it, and
// nothing of what it was done with.
func TestAudit(t *testing.T) {
	w := newWorld(t)
	var text bytes.Buffer
	log := audit.New(&text, func() { t.Error("an event is lost") }, func(err error) { t.Error(err) })
	w.config.Audit = log
	w = w.again()

	id := w.create(paid)
	const word = "confidential"
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":"`+word+`","env":{"A":"`+word+`"}}`, "X-Request-Id", "mine").ok(nil)
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","command":"`+word+`"}`).ok(nil)
	w.send(paid, "POST", "/files/write", `{"sessionId":"`+id+`","path":"`+word+`","content":"`+word+`"}`).ok(nil)
	w.send(paid, "GET", "/files/read?path=a&sessionId="+id, "").ok(nil)
	for _, code := range []string{"file_not_found", "hostile"} { // what a node says passes unread, but for this
		w.node.answers(func(out http.ResponseWriter, _ *http.Request) {
			out.Header().Set("Buntime-Code", code)
			out.WriteHeader(http.StatusNotFound)
		})
		if r := w.send(paid, "DELETE", "/files?path=a&sessionId="+id, ""); r.Header().Get("Buntime-Code") != "" {
			t.Error("the client sees what is the front-end's")
		}
	}
	w.send(other, "POST", "/execute", `{"sessionId":"`+id+`","code":"1"}`).refused(404, "session_not_found")
	w.send(paid, "POST", "/execute", `{"sessionId":"`+id+`","code":7}`).refused(400, "invalid_request")
	w.send("btk_"+word, "GET", "/sessions", "").refused(401, "unauthorized")
	w.send(paid, "GET", "/metrics", "").refused(403, "forbidden")
	for range 4 {
		w.send(few, "DELETE", "/sessions/none", "")
	}
	w.send(paid, "DELETE", "/sessions/"+id, "").ok(nil)
	log.Close()

	if strings.Contains(text.String(), word) || strings.Contains(text.String(), "btk_") {
		t.Errorf("the audit log has what it should not:\n%s", text.String())
	}
	type row struct{ action, outcome, account, session string }
	want := []row{
		{"session.create", "ok", "paid", id},
		{"session.execute", "ok", "paid", id},
		{"session.execute", "ok", "paid", id},
		{"files.write", "ok", "paid", id},
		{"files.delete", "file_not_found", "paid", id},
		{"files.delete", "invalid_request", "paid", id},
		{"session.execute", "session_not_found", "other", id},
		{"session.execute", "invalid_request", "paid", ""},
		{"request", "unauthorized", "", ""},
		{"request", "forbidden", "paid", ""},
		{"session.delete", "session_not_found", "few", ""},
		{"session.delete", "session_not_found", "few", ""},
		{"session.delete", "session_not_found", "few", ""}, // and no more: those were too many
		{"session.delete", "ok", "paid", id},
	}
	var got []row
	for line := range strings.Lines(text.String()) {
		var e audit.Event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		got = append(got, row{e.Action, e.Outcome, e.Account, e.Session})
		if e.Time.IsZero() || e.Request == "" || e.Remote != "192.0.2.1" || e.Status == 0 {
			t.Errorf("it does not say when, from where, with which request or what: %s", line)
		}
		if (e.Account == "") != (e.Key == "") || e.Key != "" && !strings.HasPrefix(e.Key, "file_") {
			t.Errorf("it does not say which key: %s", line)
		}
		if e.Action == "session.execute" && e.Outcome == "ok" && !strings.HasPrefix(e.Execution, "exe_") {
			t.Errorf("it does not say which execution: %s", line)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("got\n%s", text.String())
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("line %d is %v, not %v", i, got[i], want[i])
		}
	}
	if !strings.Contains(text.String(), `"request":"mine"`) {
		t.Error("a client's own name for a request is not there")
	}
}
