// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"net"
	"time"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/audit"
)

// actions are what the audit log calls what each route does. What only looks is not in it.
var actions = map[string]string{
	"POST " + createPath:          "session.create",
	"DELETE /sessions/{id}":       "session.delete",
	"POST /sessions/{id}/sleep":   "session.sleep",
	"POST /sessions/{id}/extend":  "session.extend",
	"GET /sessions/{id}/terminal": "session.terminal",
	"POST /execute":               "session.execute",
	"POST /execution/kill":        "session.kill",
	"POST /files/write":           "files.write",
	"DELETE /files":               "files.delete",
	"PUT /files/archive":          "files.unpack",
	"GET /operator/sessions":      "operator.sessions", // of all accounts
}

// record has a request written down, once.
func (s *Server) record(w *writer) {
	action := actions[w.route]
	if action == "" && (w.code == string(frontend.CodeUnauthorized) || w.code == string(frontend.CodeForbidden)) {
		action = "request" // that nobody may make
	}
	// Of who asks too often nothing is done, and it would fill the log.
	if s.Audit == nil || action == "" || w.recorded || w.code == string(frontend.CodeRateLimit) {
		return
	}
	w.recorded = true
	e := audit.Event{
		Action: action, Outcome: "ok", Account: w.key.Account, Key: w.key.ID, Session: w.session, Execution: w.execution,
		Request: w.request, Remote: w.remote, Status: w.status, Took: time.Since(w.begin).Milliseconds(),
	}
	if host, _, err := net.SplitHostPort(w.remote); err == nil {
		e.Remote = host
	}
	switch {
	case w.code != "":
		e.Outcome = w.code
	case w.status == 0:
		e.Outcome = "gone" // the client, before its answer
	}
	s.Audit.Record(e)
}

// about notes which session a request is about, and which execution, "" if none.
func about(ctx context.Context, session, execution string) {
	w, ok := ctx.Value(writerContext{}).(*writer)
	if !ok {
		return
	}
	if frontend.ValidID(session) {
		w.session = session
	}
	if execution != "" {
		w.execution = execution
	}
}
