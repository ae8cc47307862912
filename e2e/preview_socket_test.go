// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// socketServer echoes, greets, and closes when told.
const socketServer = `
	Bun.serve({
		port: 8080,
		fetch(req, server) {
			const protocol = req.headers.get("sec-websocket-protocol")?.split(",")[0];
			const headers = protocol ? { "sec-websocket-protocol": protocol } : undefined;
			const data = { authorization: req.headers.get("authorization"), query: new URL(req.url).search };
			return server.upgrade(req, { data, headers }) ? undefined : new Response("no socket", { status: 426 });
		},
		websocket: {
			maxPayloadLength: 16 << 20,
			open(ws) { ws.send("hello " + JSON.stringify(ws.data)); },
			message(ws, message) {
				if (message === "close") return ws.close(4321, "as told");
				ws.send(message);
			},
			close(ws, code, reason) { Bun.write("closed", code + " " + reason); },
		},
	});
`

func TestPreviewWebSocket(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(socketServer)
	target := strings.Replace(s.page("/socket?x=1"), "http", "ws", 1)
	dial := func(t *testing.T, header http.Header, protocols ...string) *websocket.Conn {
		t.Helper()
		conn, err := s.api.WebSocket(s.ctx, target, header, protocols...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.CloseNow() })
		return conn
	}
	read := func(t *testing.T, conn *websocket.Conn) (websocket.MessageType, []byte) {
		t.Helper()
		kind, message, err := conn.Read(s.ctx)
		if err != nil {
			t.Fatalf("read message: %v (%v)", err, context.Cause(s.ctx))
		}
		return kind, message
	}
	write := func(t *testing.T, conn *websocket.Conn, kind websocket.MessageType, message []byte) {
		t.Helper()
		if err := conn.Write(s.ctx, kind, message); err != nil {
			t.Fatalf("write message: %v", err)
		}
	}

	t.Run("echo", func(t *testing.T) {
		conn := dial(t, nil)
		_, hello := read(t, conn)
		equal(t, "first word of the app", string(hello), `hello {"authorization":null,"query":"?x=1"}`)
		for _, m := range []struct {
			kind websocket.MessageType
			data []byte
		}{
			{websocket.MessageText, []byte("añ€😀")},
			{websocket.MessageBinary, []byte{0, 255, 1, 254}},
			{websocket.MessageText, []byte{}},
			{websocket.MessageBinary, bytes.Repeat([]byte("x"), 5*mib)},
		} {
			write(t, conn, m.kind, m.data)
			kind, got := read(t, conn)
			equal(t, "kind", kind, m.kind)
			if !bytes.Equal(got, m.data) {
				t.Fatalf("echo of %d bytes: %d bytes", len(m.data), len(got))
			}
		}
		for i := range 500 {
			write(t, conn, websocket.MessageText, []byte{'0' + byte(i%10)})
		}
		for i := range 500 {
			_, got := read(t, conn)
			equal(t, "message in order", string(got), string([]byte{'0' + byte(i%10)}))
		}
	})
	t.Run("subprotocol", func(t *testing.T) {
		conn := dial(t, nil, "vite-hmr", "other")
		equal(t, "subprotocol", conn.Subprotocol(), "vite-hmr")
	})
	t.Run("the API's key stays outside", func(t *testing.T) {
		conn := dial(t, http.Header{"Authorization": {"Bearer " + s.api.Key}})
		_, hello := read(t, conn)
		contains(t, "first word of the app", string(hello), `"authorization":null`)
	})
	t.Run("closed by the app", func(t *testing.T) {
		conn := dial(t, nil)
		read(t, conn)
		write(t, conn, websocket.MessageText, []byte("close"))
		_, _, err := conn.Read(s.ctx)
		equal(t, "close code", websocket.CloseStatus(err), websocket.StatusCode(4321))
		contains(t, "reason", err.Error(), "as told")
	})
	t.Run("closed by the visitor", func(t *testing.T) {
		s := s.in(t)
		conn := dial(t, nil)
		read(t, conn)
		s.del("/files", "path", "closed")
		if err := conn.Close(4000, "enough"); err != nil {
			t.Fatal(err)
		}
		s.waitFor("closed")
		equal(t, "what the app saw", s.read("closed"), "4000 enough")
	})
	t.Run("dropped by the visitor", func(t *testing.T) {
		s := s.in(t)
		conn := dial(t, nil)
		read(t, conn)
		s.del("/files", "path", "closed")
		conn.CloseNow()
		s.waitFor("closed")
	})
	t.Run("app without sockets", func(t *testing.T) {
		s := newSession(t)
		s.background(server(8080, ""))
		_, err := s.api.WebSocket(s.ctx, strings.Replace(s.page("/"), "http", "ws", 1), nil)
		if err == nil {
			t.Fatal("the handshake succeeded")
		}
		contains(t, "error", err.Error(), "got 200")
	})
	t.Run("many at once", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(s.ctx, 20*time.Second)
		defer cancel()
		var conns []*websocket.Conn
		for range 50 {
			conn := dial(t, nil)
			conns = append(conns, conn)
		}
		for i, conn := range conns {
			if _, _, err := conn.Read(ctx); err != nil {
				t.Fatalf("socket %d: %v", i, err)
			}
			write(t, conn, websocket.MessageText, []byte("still here"))
		}
		for i, conn := range conns {
			_, got, err := conn.Read(ctx)
			if err != nil || string(got) != "still here" {
				t.Fatalf("socket %d: %q, %v", i, got, err)
			}
		}
	})
}
