// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestTicket: a ticket opens a terminal of its session for half a minute, with the key
// that it was given to, and nothing else.
func TestTicket(t *testing.T) {
	w := newWorld(t)
	id, second := w.create(paid), w.create(paid)
	var got struct{ Protocols []string }
	w.send(paid, http.MethodPost, "/sessions/"+id+"/terminal/ticket", "").ok(&got)
	protocols := strings.Join(got.Protocols, ", ")
	open := func(path string, header ...string) reply {
		return w.send("", http.MethodGet, path, "", append([]string{"Upgrade", "websocket", "Sec-WebSocket-Protocol", protocols}, header...)...)
	}
	terminal := "/sessions/" + id + "/terminal"
	open(terminal).ok(nil) // the stand-in for a node switches nothing
	if r := w.node.last(t); r.path != "/v1/terminal" || strings.Contains(r.header.Get("Sec-Websocket-Protocol"), "ticket") {
		t.Errorf("the node got %+v", r)
	}
	w.node.answers(says("{}"))
	refused := func(what string, r reply) {
		t.Helper()
		r.refused(http.StatusUnauthorized, "unauthorized")
		if n := len(w.node.requests()); n > 0 {
			t.Errorf("%s: the node got %d requests", what, n)
		}
	}
	refused("another session", open("/sessions/"+second+"/terminal"))
	refused("another operation", open("/sessions/"+id))
	refused("files", open("/files/list?sessionId="+id))
	refused("no WebSocket", open(terminal, "Upgrade", ""))
	refused("a wrong key beside it", open(terminal, "Authorization", "Bearer btk_wrong"))
	refused("another method", w.send("", http.MethodPost, terminal+"/ticket", "", "Upgrade", "websocket", "Sec-WebSocket-Protocol", protocols))
	refused("the key itself", open(terminal, "Sec-WebSocket-Protocol", "buntime.terminal, buntime.ticket."+paid))
	refused("no text", open(terminal, "Sec-WebSocket-Protocol", "buntime.terminal, buntime.ticket."))
	for at := len("buntime.ticket."); at < len(got.Protocols[1]); at += 5 { // strangers may ask 100 times
		changed := []byte(got.Protocols[1])
		changed[at] = map[bool]byte{true: 'A', false: 'B'}[changed[at] != 'A']
		refused("a changed one", open(terminal, "Sec-WebSocket-Protocol", "buntime.terminal, "+string(changed)))
	}

	other := w.again()
	other.config.Secret = []byte("another secret of a cluster")
	other = other.again()
	r := other.send("", http.MethodGet, terminal, "", "Upgrade", "websocket", "Sec-WebSocket-Protocol", protocols)
	r.refused(http.StatusUnauthorized, "unauthorized")

	now := w.sessions.Now
	w.sessions.Now = func() time.Time { return now().Add(31 * time.Second) }
	refused("an old one", open(terminal))
}
