// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// TestExtend: a session's end is put off, counted from now, whether it is awake or
// sleeps, and never comes earlier.
func TestExtend(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	s := createSession(t, ctx, paid(), M{"ttl": 300})
	s.write("file", "kept")
	extend := func(api *client.Client, id string, body any) *client.Reply {
		t.Helper()
		return send(t, ctx, api, client.Call{Method: "POST", Path: "/sessions/" + id + "/extend", JSON: body})
	}
	type extended struct {
		SessionID string `json:"sessionId"`
		ExpiresAt string `json:"expiresAt"`
	}
	check := func(ttl int, want time.Duration) {
		t.Helper()
		reply := extend(paid(), s.id, M{"ttl": ttl})
		got := decode[extended](t, reply)
		equal(t, "sessionId", got.SessionID, s.id)
		within(t, "life from now", time.Until(instant(t, "expiresAt", got.ExpiresAt)), want-30*time.Second, want)
		info := s.info()
		equal(t, "expiresAt", info.ExpiresAt, got.ExpiresAt)
		equal(t, "state", info.State, "active")
	}
	check(3600, time.Hour)
	check(300, time.Hour)
	status(t, send(t, ctx, paid(), client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: M{"state": "deep-sleep"}}), 200)
	check(604800, 7*24*time.Hour)
	equal(t, "file", s.read("file"), "kept")

	for name, body := range map[string]any{"below": M{"ttl": 299}, "above": M{"ttl": 604801}, "missing": M{}, "null": M{"ttl": nil}, "text": M{"ttl": "300"}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			refusedField(t, send(t, ctx, paid(), client.Call{Method: "POST", Path: "/sessions/" + s.id + "/extend", JSON: body}), "ttl")
		})
	}
	refusal(t, extend(enterprise(), s.id, M{"ttl": 300}), 404, "session_not_found")
	refusal(t, extend(paid(), "ses_unknown", M{"ttl": 300}), 404, "session_not_found")
	status(t, s.drop(), 200)
	refusal(t, extend(paid(), s.id, M{"ttl": 300}), 404, "session_not_found")
}
