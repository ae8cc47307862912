// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestTerminal: what is sent and printed, how it ends, and how it is refused.
func TestTerminal(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var asked string
	speak := func(talk func(*websocket.Conn) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			asked = r.URL.String() + " " + r.Header.Get("Authorization")
			conn, err := websocket.Accept(w, r, nil)
			if err == nil {
				conn.SetReadLimit(1 << 20)
				err = talk(conn)
				conn.CloseNow()
			}
			if err != nil {
				t.Error(err)
			}
		}
	}
	big := strings.Repeat("x", 100_000)
	_, c := newServer(t, speak(func(conn *websocket.Conn) error {
		input, words := "", ""
		for !strings.Contains(words, "end") {
			kind, p, err := conn.Read(ctx)
			if err != nil {
				return err
			}
			if kind == websocket.MessageText {
				words += string(p)
			} else if p[0] == terminalStdin {
				input += string(p[1:])
			}
		}
		if input != big || !strings.Contains(words, `"rows":5`) || !strings.Contains(words, "INT") {
			t.Errorf("%d bytes, %s", len(input), words)
		}
		for _, message := range []string{"\x01out\xff", "\x02err", ""} {
			if err := conn.Write(ctx, websocket.MessageBinary, []byte(message)); err != nil {
				return err
			}
		}
		for _, word := range []string{`{"type":"later"}`, `{"type":"exit","exitCode":7}`} {
			if err := conn.Write(ctx, websocket.MessageText, []byte(word)); err != nil {
				return err
			}
		}
		return conn.Close(websocket.StatusNormalClosure, "")
	}), speak(func(conn *websocket.Conn) error { return conn.Close(websocket.StatusGoingAway, "it went to sleep") }),
		says(404, none))
	x, err := c.Terminal(ctx, "ses_a", TerminalRequest{Command: []string{"a", "", "b c"}, Pipes: true, Rows: 3, Cols: 4, Env: map[string]string{"A": "1=2"}, WorkingDir: "d"})
	if err != nil {
		t.Fatal(err)
	}
	if want := "/sessions/ses_a/terminal?cols=4&command=a&command=&command=b+c&env=A%3D1%3D2&rows=3&tty=false&workingDir=d Bearer "; !strings.HasPrefix(asked, want) {
		t.Errorf("%s", asked)
	}
	if n, err := x.Write([]byte(big)); n != len(big) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	for _, err := range []error{x.Resize(5, 6), x.Signal("INT"), x.CloseInput()} {
		if err != nil {
			t.Error(err)
		}
	}
	var out, errs bytes.Buffer
	if code, err := x.Copy(&out, &errs); code != 7 || err != nil || out.String() != "out\xff" || errs.String() != "err" {
		t.Errorf("%d, %v, %q, %q", code, err, &out, &errs)
	}
	x.Close()
	if x, err = c.Terminal(ctx, "ses_a", TerminalRequest{}); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Copy(&out, &errs); !Is(err, CodeTerminalClosed) || !strings.Contains(err.Error(), "it went to sleep") {
		t.Errorf("%v", err)
	}
	x.Close()
	if _, err := c.Terminal(ctx, "ses_a", TerminalRequest{}); !Is(err, "session_not_found") {
		t.Errorf("%v", err)
	}
}
