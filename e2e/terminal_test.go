// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/buntime/buntime/e2e/client"
)

// terminal is one of a session's, and what came of it so far.
type terminal struct {
	s              *session
	conn           *websocket.Conn
	stdout, stderr string
	exit           *int
	end            error // once it is over
}

func (s *session) terminalURL(query url.Values) string {
	return s.api.Base + "/sessions/" + s.id + "/terminal?" + query.Encode()
}

func (s *session) openTerminal(query url.Values) *terminal {
	s.t.Helper()
	conn, err := s.api.WebSocket(s.ctx, s.terminalURL(query), http.Header{"Authorization": {"Bearer " + s.api.Key}})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.CloseNow() })
	return &terminal{s: s, conn: conn}
}

func (t *terminal) in(text string) {
	t.s.t.Helper()
	if err := t.conn.Write(t.s.ctx, websocket.MessageBinary, append([]byte{0}, text...)); err != nil {
		t.s.t.Fatalf("write input: %v", err)
	}
}

func (t *terminal) word(word M) {
	t.s.t.Helper()
	body, _ := json.Marshal(word)
	if err := t.conn.Write(t.s.ctx, websocket.MessageText, body); err != nil {
		t.s.t.Fatalf("write word: %v", err)
	}
}

// until reads until text was printed, or, if it is empty, to the end.
func (t *terminal) until(text string) {
	t.s.t.Helper()
	for text == "" || !strings.Contains(t.stdout, text) {
		kind, p, err := t.conn.Read(t.s.ctx)
		switch {
		case err != nil && text == "":
			t.end = err
			return
		case err != nil:
			t.s.t.Fatalf("the terminal ended before it said %q: %v\n%s", text, err, t.stdout)
		case kind == websocket.MessageText:
			var word struct {
				Type     string
				ExitCode *int
			}
			if err := json.Unmarshal(p, &word); err != nil || word.Type != "exit" {
				t.s.t.Fatalf("word %s: %v", p, err)
			}
			t.exit = word.ExitCode
		case p[0] == 1:
			t.stdout += string(p[1:])
		case p[0] == 2:
			t.stderr += string(p[1:])
		}
	}
	_, t.stdout, _ = strings.Cut(t.stdout, text)
}

// over wants the end of the command, with an exit code.
func (t *terminal) over(code int) {
	t.s.t.Helper()
	t.until("")
	if t.exit == nil || *t.exit != code || websocket.CloseStatus(t.end) != websocket.StatusNormalClosure {
		t.s.t.Errorf("exit code %v, want %d; %v\n%s%s", t.exit, code, t.end, t.stdout, t.stderr)
	}
}

func (t *terminal) cutWith(reason string) {
	t.s.t.Helper()
	t.until("")
	equal(t.s.t, "status", websocket.CloseStatus(t.end), websocket.StatusGoingAway)
	contains(t.s.t, "reason", fmt.Sprint(t.end), reason)
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	t.Run("a shell with a terminal", func(t *testing.T) {
		x := s.in(t).openTerminal(url.Values{"rows": {"33"}, "cols": {"111"}, "env": {"WHO=me=you", "TERM=xterm"}})
		x.in("stty -echo; stty size; tty; pwd; echo $WHO $TERM $USER $(id -u)\n")
		x.until("33 111\r\n/dev/pts/")
		x.until("\r\n/workspace\r\nme=you xterm")
		x.word(M{"type": "resize", "rows": 40, "cols": 90})
		x.in("until [ \"$(stty size)\" = '40 90' ]; do :; done; echo resized\n")
		x.until("resized\r\n")
		x.in("sh -c 'echo now; exec sleep 1000'\n") // what says so has the terminal: Ctrl-C goes to it
		x.until("now\r\n")
		x.in("\x03")
		x.until("$ ") // bash drops what was typed ahead of it
		x.in("echo code $?\n")
		x.until("code 130\r\n")
		x.until("$ ")
		x.in("exit 7\n")
		x.over(7)
	})
	t.Run("a command with pipes", func(t *testing.T) {
		s := s.in(t)
		s.command("mkdir -p sub")
		x := s.openTerminal(url.Values{"tty": {"false"}, "workingDir": {"sub"}, "command": {"sh", "-c", `pwd; echo "$1" >&2; wc -c; exit 3`, "sh", "a b  c"}})
		big := strings.Repeat("0123456789abcdef", 1<<12)
		for range 40 {
			x.in(big)
		}
		x.word(M{"type": "end"})
		x.over(3)
		equal(t, "stdout", x.stdout, fmt.Sprintf("/workspace/sub\n%d\n", 40*len(big)))
		equal(t, "stderr", x.stderr, "a b  c\n")
		y := s.openTerminal(url.Values{"tty": {"false"}, "command": {"bun", "-e", `process.on("SIGTERM", () => process.exit(5)); console.log("up"); setInterval(() => {}, 1000)`}})
		y.until("up")
		y.word(M{"type": "signal", "signal": "TERM"})
		y.over(5)
	})
	t.Run("a cut connection", func(t *testing.T) {
		s := s.in(t)
		x := s.openTerminal(url.Values{"command": {"sh", "-c", `trap 'echo hung up >hup; exit' HUP; echo up; while :; do sleep 0.05; done`}})
		x.until("up")
		y := s.openTerminal(url.Values{"command": {"sh", "-c", `trap '' HUP; (trap '' HUP; exec sleep 98765) & echo up; sleep 98765`}})
		y.until("up")
		x.conn.CloseNow()
		y.conn.CloseNow()
		s.waitFor("hup")
		equal(t, "said", s.read("hup"), "hung up\n")
		s.shell(`while grep -lz 9876[5] /proc/[0-9]*/cmdline 2>/dev/null; do sleep 0.05; done >/dev/null`)
	})
	t.Run("refused", func(t *testing.T) {
		s := s.in(t)
		get := func(api *client.Client, query url.Values, upgrade string) *client.Reply {
			return send(t, s.ctx, api, client.Call{
				Method: "GET", Path: "/sessions/" + s.id + "/terminal", Query: query, Header: map[string]string{
					"Upgrade": upgrade, "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
				},
			})
		}
		refusal(t, get(paid(), nil, "websocket"), 404, "session_not_found")
		refusal(t, get(s.api.WithKey("btk_wrong"), nil, "websocket"), 401, "unauthorized")
		for field, query := range map[string]url.Values{
			"rows": {"rows": {"0"}}, "tty": {"tty": {"maybe"}}, "env": {"env": {"x"}}, "workingDir": {"workingDir": {"../x"}},
			"other": {"other": {"1"}},
		} {
			r := get(s.api, query, "websocket")
			refusal(t, r, 400, "invalid_request")
			contains(t, "details", string(r.Body), field)
		}
		refusal(t, get(s.api, url.Values{"command": {"no-such-program"}}, "websocket"), 400, "invalid_request")
		refusal(t, get(s.api, url.Values{"workingDir": {"none"}}, "websocket"), 400, "invalid_request")
		refusal(t, get(s.api, nil, ""), 400, "invalid_request")
		x := s.openTerminal(nil)
		x.word(M{"type": "nonsense"})
		x.until("")
		equal(t, "status", websocket.CloseStatus(x.end), websocket.StatusPolicyViolation)
	})
	t.Run("as many as there may be", func(t *testing.T) {
		s := newSession(t)
		var all []*terminal
		for range 16 {
			all = append(all, s.openTerminal(nil))
		}
		_, err := s.api.WebSocket(s.ctx, s.terminalURL(nil), http.Header{"Authorization": {"Bearer " + s.api.Key}})
		contains(t, "the 17th", fmt.Sprint(err), "503")
		all[3].in("exit\n")
		all[3].over(0)
		s.becomes("room for a terminal", func() bool {
			conn, err := s.api.WebSocket(s.ctx, s.terminalURL(nil), http.Header{"Authorization": {"Bearer " + s.api.Key}})
			if err == nil {
				conn.CloseNow()
			}
			return err == nil
		})
	})
}

// TestTerminalRest: a shell that waits for its user keeps no session awake, and typing
// wakes it; what runs in it does. Whatever ends it says so.
func TestTerminalRest(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	rest := func(t *testing.T, state string, force bool) *client.Reply {
		return send(t, s.ctx, s.api, client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: M{"state": state, "force": force}})
	}
	inUse := func() bool { return strings.Contains(strings.Join(s.info().AwakeBecause, " "), "terminal") }
	x := s.openTerminal(nil)
	x.in("stty -echo; kept=42; echo rea''dy\n")
	x.until("ready\r\n")
	s.becomes("a shell that waits", func() bool { return !inUse() })
	status(t, rest(t, "idle", false), 200)
	equal(t, "state", s.info().State, "idle")
	x.in("echo $kept\n")
	x.until("42\r\n")
	equal(t, "state after typing", s.info().State, "active")

	x.in("echo start''ed; sleep 1000\n")
	x.until("started\r\n")
	s.becomes("a shell that works", inUse)
	refusal(t, rest(t, "deep-sleep", false), 409, "session_busy")
	status(t, rest(t, "deep-sleep", true), 200)
	x.cutWith("put to sleep")

	y := s.openTerminal(nil) // wakes it
	y.in("stty -echo; echo a''gain\n")
	y.until("again\r\n")
	s.becomes("a shell that waits", func() bool { return !inUse() })
	status(t, rest(t, "deep-sleep", false), 200)
	y.cutWith("went to sleep")

	z := s.openTerminal(nil)
	status(t, s.drop(), 200)
	z.cutWith("ended")
}

// becomes waits until something is so.
func (s *session) becomes(what string, so func() bool) {
	s.t.Helper()
	eventually(s.t, s.ctx, what, usual, func() (bool, string) { return so(), "" })
}
