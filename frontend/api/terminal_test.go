// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestTerminal: a terminal's connection goes through to the node, with what the command
// is, and ends at both sides with either.
func TestTerminal(t *testing.T) {
	w := newWorld(t)
	id := w.create(paid)
	front := httptest.NewServer(w)
	t.Cleanup(front.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	ended := make(chan error, 1)
	w.node.answers(func(out http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(out, r, nil)
		if err != nil {
			ended <- err
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(1 << 20)
		for {
			kind, p, err := conn.Read(r.Context())
			if err == nil && string(p) == "close" {
				err = conn.Close(websocket.StatusGoingAway, "as told")
			} else if err == nil {
				err = conn.Write(r.Context(), kind, p)
			}
			if err != nil {
				ended <- err
				return
			}
		}
	})
	dial := func(key, query string) (*websocket.Conn, *http.Response, error) {
		return websocket.Dial(ctx, front.URL+"/sessions/"+id+"/terminal?"+query, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + key}}})
	}
	conn, res, err := dial(paid, "command=a&command=&command=b+c&env=X%3D1&tty=false&rows=10&cols=20&workingDir=/workspace/d")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if res.Header.Get("X-Request-Id") == "" || res.Header.Get("X-RateLimit-Limit") == "" {
		t.Errorf("%v", res.Header)
	}
	got := w.node.last(t)
	if got.path != "/v1/terminal" || got.query != "cols=20&command=a&command=&command=b+c&env=X%3D1&rows=10&tty=false&workingDir=d" || strings.Contains(got.header.Get("Authorization"), paid) {
		t.Errorf("the node got %s?%s %v", got.path, got.query, got.header)
	}
	conn.SetReadLimit(1 << 20)
	for _, message := range [][]byte{{0, 255, 1}, bytes.Repeat([]byte("x"), 500_000), {}} {
		if err := conn.Write(ctx, websocket.MessageBinary, message); err != nil {
			t.Fatal(err)
		}
		if kind, p, err := conn.Read(ctx); err != nil || kind != websocket.MessageBinary || !bytes.Equal(p, message) {
			t.Fatalf("%d bytes came back as %d, %v", len(message), len(p), err)
		}
	}
	conn.CloseNow()
	if err := <-ended; err == nil {
		t.Error("the node is not told of a client that is gone")
	}

	conn, _, err = dial(paid, "")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.MessageText, []byte("close")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != websocket.StatusGoingAway || !strings.Contains(err.Error(), "as told") {
		t.Errorf("the node's last word: %v", err)
	}
	for key, want := range map[string]int{other: 404, "btk_wrong": 401} {
		if _, res, err := dial(key, ""); err == nil || res.StatusCode != want {
			t.Errorf("%s: %v, %v", key, res, err)
		}
	}
	for _, query := range []string{"rows=0", "cols=x", "tty=maybe", "env=x", "env=%3Dx", "command=a%00", "workingDir=../x", "other=1"} {
		if _, res, err := dial(paid, query); err == nil || res.StatusCode != 400 {
			t.Errorf("%s: %v, %v", query, res, err)
		}
	}
	w.node.answers(func(out http.ResponseWriter, _ *http.Request) {
		out.WriteHeader(503)
		_, _ = out.Write([]byte(`{"error":{"code":"service_unavailable","message":"full"}}`))
	})
	if _, res, err := dial(paid, ""); err == nil || res.StatusCode != 503 {
		t.Errorf("a node that refuses: %v, %v", res, err)
	}
}
