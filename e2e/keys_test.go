// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"net/http"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// soon is how long all front-ends may take to know of a change of keys: a second, and a
// busy machine.
const soon = 15 * time.Second

// keyBecomes waits until a client's key is answered with a status.
func keyBecomes(t *testing.T, ctx context.Context, api *client.Client, want int) {
	t.Helper()
	eventually(t, ctx, "the key is known", soon, func() (bool, string) {
		r := send(t, ctx, api, client.Call{Method: "GET", Path: "/sessions"})
		if r.Status != want && r.Status == http.StatusUnauthorized {
			time.Sleep(100 * time.Millisecond) // how often an address may come with no good key is limited
		}
		return r.Status == want, string(r.Body)
	})
}

// keysCommand runs buntime-frontend keys.
func keysCommand(t *testing.T, ctx context.Context, args ...string) string {
	t.Helper()
	args = append([]string{"-config", filepath.Join(system.stack.Dir, "front-end.json"), "keys"}, args...)
	out, err := exec.CommandContext(ctx, "../out/bin/buntime-frontend", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
	return string(out)
}

var createdKey = regexp.MustCompile(`id   (key_\w+)\nkey  (btk_\w+)\n`)

func newKey(t *testing.T, ctx context.Context, args ...string) (id, text string) {
	t.Helper()
	parts := createdKey.FindStringSubmatch(keysCommand(t, ctx, args...))
	if parts == nil {
		t.Fatalf("%q printed no key", args)
	}
	return parts[1], parts[2]
}

// ownAccount makes an account of a test's own, and returns a client with its key.
func ownAccount(t *testing.T, ctx context.Context, name string, more ...string) *client.Client {
	t.Helper()
	if system.stack == nil {
		t.Skip("it needs the configuration of the front-end")
	}
	args := append([]string{"create", "-account", name, "-plan", "enterprise", "-limit", "requests=100000"}, more...)
	id, key := newKey(t, ctx, args...)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		keysCommand(t, ctx, "revoke", id)
	})
	api := shared.WithKey(key)
	keyBecomes(t, ctx, api, http.StatusOK)
	return api
}

// TestKeys: keys are good, have their limits and are refused as the command line says,
// without a restart of anything.
func TestKeys(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("it needs the configuration of the front-end")
	}
	ctx := deadline(t, usual)
	becomes := func(key string, want int) {
		t.Helper()
		keyBecomes(t, ctx, shared.WithKey(key), want)
	}
	id, first := newKey(t, ctx, "create", "-account", "keys-a", "-plan", "enterprise", "-limit", "sessions=1", "-limit", "requests=1000", "-label", "e2e")
	_, other := newKey(t, ctx, "create", "-account", "keys-b", "-plan", "paid")
	becomes(first, 200)
	becomes(other, 200)
	c := decode[created](t, send(t, ctx, shared.WithKey(first), client.Call{Method: "POST", Path: "/sessions/create"}))
	s := &session{t: t, ctx: ctx, api: shared.WithKey(first), id: c.SessionID, created: c} // its key is good no more when the test is over
	equal(t, "limit", s.infoReply().Header.Get("X-RateLimit-Limit"), "1000")
	refusal(t, send(t, ctx, s.api, client.Call{Method: "POST", Path: "/sessions/create"}), 429, "session_limit_exceeded")

	stranger := shared.WithKey(other)
	for _, call := range []client.Call{
		{Method: "GET", Path: "/sessions/" + s.id},
		{Method: "DELETE", Path: "/sessions/" + s.id},
		{Method: "POST", Path: "/sessions/" + s.id + "/extend", JSON: M{"ttl": 600}},
		{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: M{"state": "idle"}},
		{Method: "POST", Path: "/execute", JSON: s.body(M{"command": "true"})},
		keyed("/execute", "stranger", s.body(M{"command": "true"})),
		{Method: "POST", Path: "/execution/kill", JSON: s.body(M{})},
		{Method: "GET", Path: "/processes", Query: s.query(nil)},
		{Method: "GET", Path: "/files/list", Query: s.query(nil)},
		{Method: "GET", Path: "/executions/exe_a", Query: s.query(nil)},
		{Method: "GET", Path: "/executions/exe_a/output", Query: s.query(nil)},
		{Method: "GET", Path: "/files/read", Query: s.query([]string{"path", "a"})},
		{Method: "POST", Path: "/files/write", JSON: s.body(M{"path": "a", "content": ""})},
		{Method: "GET", Path: "/files/archive", Query: s.query(nil)},
		{Method: "GET", Path: "/sessions/" + s.id + "/terminal", Header: map[string]string{"Upgrade": "websocket", "Connection": "Upgrade"}},
		{Method: "PUT", Path: "/files/archive", Query: s.query(nil), Body: strings.NewReader("x"), Header: map[string]string{"Content-Type": "application/x-tar"}},
		{Method: "DELETE", Path: "/files", Query: s.query([]string{"path", "a"})},
	} {
		refusal(t, send(t, ctx, stranger, call), 404, "session_not_found")
	}
	id, second := newKey(t, ctx, "rotate", id)
	becomes(first, 401)
	becomes(second, 200)
	s.api = shared.WithKey(second)
	equal(t, "the account's session", s.print("console.log(1)"), "1\n")
	status(t, send(t, ctx, s.api, client.Call{Method: "DELETE", Path: "/sessions/" + s.id}), 200)
	keysCommand(t, ctx, "revoke", id)
	becomes(second, 401)
	contains(t, "list", keysCommand(t, ctx, "list"), "keys-b")
}
