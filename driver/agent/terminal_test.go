// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/buntime/buntime/driver/claim"
)

// user is who sits before a terminal.
type user struct {
	t              *testing.T
	ctx            context.Context
	conn           *websocket.Conn
	stdout, stderr string
	code           int
}

func (f *fixture) dialTerminal(t *testing.T, query string) (*user, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	conn, res, err := websocket.Dial(ctx, "http://"+f.task.API+"/v1/terminal?"+query, &websocket.DialOptions{
		HTTPHeader: http.Header{"Authorization": {"Bearer " + claim.Token([]byte(testSecret), f.task.Session.ID, f.task.Session.Epoch)}},
	})
	if err != nil {
		if res != nil {
			err = fmt.Errorf("%s: %w", res.Status, err)
		}
		return nil, err
	}
	t.Cleanup(func() { conn.CloseNow() })
	return &user{t: t, ctx: ctx, conn: conn, code: -1}, nil
}

func (f *fixture) terminal(t *testing.T, query string) *user {
	t.Helper()
	u, err := f.dialTerminal(t, query)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func (u *user) types(text string) {
	u.t.Helper()
	if err := u.conn.Write(u.ctx, websocket.MessageBinary, append([]byte{terminalStdin}, text...)); err != nil {
		u.t.Fatal(err)
	}
}

func (u *user) says(word string) {
	u.t.Helper()
	if err := u.conn.Write(u.ctx, websocket.MessageText, []byte(word)); err != nil {
		u.t.Fatal(err)
	}
}

// reads until text is there, or to the end if it is empty; then it returns what that was.
func (u *user) reads(text string) error {
	u.t.Helper()
	for text == "" || !strings.Contains(u.stdout, text) {
		kind, p, err := u.conn.Read(u.ctx)
		var word terminalWord
		switch {
		case err != nil && text == "":
			return err
		case err != nil:
			u.t.Fatalf("wait for %q: %v\n%s", text, err, u.stdout)
		case kind == websocket.MessageText:
			if err := json.Unmarshal(p, &word); err != nil || word.Type != "exit" {
				u.t.Fatalf("%s, %v", p, err)
			}
			u.code = *word.ExitCode
		case p[0] == terminalStderr:
			u.stderr += string(p[1:])
		default:
			u.stdout += string(p[1:])
		}
	}
	_, u.stdout, _ = strings.Cut(u.stdout, text)
	return nil
}

func (u *user) wants(code int) {
	u.t.Helper()
	if err := u.reads(""); websocket.CloseStatus(err) != websocket.StatusNormalClosure || u.code != code {
		u.t.Errorf("exit code %d, want %d: %v\n%s%s", u.code, code, err, u.stdout, u.stderr)
	}
}

func (u *user) isTold(status websocket.StatusCode, reason string) {
	u.t.Helper()
	end, ok := errors.AsType[websocket.CloseError](u.reads(""))
	if !ok || end.Code != status || !strings.Contains(end.Reason, reason) {
		u.t.Errorf("the end is %v, want %v %s\n%s", end, status, reason, u.stdout)
	}
}

func (f *fixture) eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not so", what)
		}
	}
}

// TestTerminals: what is typed and printed passes, and whatever ends a terminal ends
// what runs in it.
func TestTerminals(t *testing.T) {
	f := newFixture(t)
	sh := f.terminal(t, "rows=33&cols=111&env=WHO%3Dme%3Dyou")
	sh.types("stty -echo; stty size; tty; pwd; echo $WHO; id -u\n")
	sh.reads("33 111\r\n/dev/pts/")
	sh.reads("/workspace\r\nme=you\r\n1000\r\n")
	sh.says(`{"type":"resize","rows":40,"cols":90}`)
	sh.types("until [ \"$(stty size)\" = '40 90' ]; do :; done; echo resized\n")
	sh.reads("resized\r\n")
	sh.types("sh -c 'echo start; exec sleep 1000'\n") // one job, which has the terminal when it prints
	sh.reads("start\r\n")
	sh.types("\x03")
	sh.reads("$ ") // bash drops what was typed ahead
	sh.types("exit 7\n")
	sh.wants(7)

	pipes := f.terminal(t, "tty=false&command=sh&command=-c&command=echo+bad+%3E%262%3B+wc+-c%3B+exit+3")
	for range 20 {
		pipes.types(strings.Repeat("x", 100_000))
	}
	pipes.says(`{"type":"end"}`)
	pipes.wants(3)
	if pipes.stdout != "2000000\n" || pipes.stderr != "bad\n" {
		t.Errorf("%q, %q", pipes.stdout, pipes.stderr)
	}
	signalled := f.terminal(t, "command=sh&command=-c&command=trap+'exit+5'+TERM%3B+echo+up%3B+while+:%3B+do+sleep+0.05%3B+done")
	signalled.reads("up")
	signalled.says(`{"type":"signal","signal":"TERM"}`)
	signalled.wants(5)

	polite := f.terminal(t, "command=sh&command=-c&command=trap+'echo+hung+up+%3Ehup%3B+exit'+HUP%3B+echo+up%3B+while+:%3B+do+sleep+0.05%3B+done")
	polite.reads("up")
	deaf := f.terminal(t, "command=sh&command=-c&command=trap+''+HUP%3B+(exec+sleep+98765)+%26+echo+up%3B+sleep+98765")
	deaf.reads("up")
	stuck := f.terminal(t, "command=sh&command=-c&command=echo+up%3B+sleep+98765")
	stuck.reads("up")
	for range 300 { // more than there is room for on the way
		ctx, cancel := context.WithTimeout(stuck.ctx, 100*time.Millisecond)
		err := stuck.conn.Write(ctx, websocket.MessageBinary, make([]byte, 100_000))
		cancel()
		if err != nil {
			break
		}
	}
	for _, u := range []*user{polite, deaf, stuck} {
		u.conn.CloseNow()
	}
	f.awaitFile(t, "hup")
	f.eventually(t, "the end of what was in cut terminals", func() bool {
		return f.run(t, map[string]any{"command": "grep -laz 9876[5] /proc/[0-9]*/cmdline"}).ExitCode != 0
	})
	odd := f.terminal(t, "")
	odd.says(`{"type":"nonsense"}`)
	odd.isTold(websocket.StatusPolicyViolation, "nonsense")
	if _, err := f.dialTerminal(t, "command=no-such-program"); err == nil || !strings.Contains(err.Error(), "400") {
		t.Errorf("a program that is not there: %v", err)
	}
	f.eventually(t, "nobody uses the session", func() bool { return len(f.info(t).AwakeBecause) == 0 })
	var all []*user
	for range sessionTerminals {
		all = append(all, f.terminal(t, ""))
	}
	if _, err := f.dialTerminal(t, ""); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("one too many: %v", err)
	}
	f.restart(t)
	all[0].isTold(websocket.StatusGoingAway, errPluginStops.Error())
	f.terminal(t, "")
}

// TestTerminalRests: a shell that waits for its user keeps no session awake, and what is
// typed wakes it; what runs in one does. Whatever ends it says so.
func TestTerminalRests(t *testing.T) {
	f := newFixture(t)
	sleep := func(state string, force bool) int {
		return f.call(t, "POST", "/v1/sleep", map[string]any{"state": state, "force": force}, nil)
	}
	used := func() bool { return strings.Contains(fmt.Sprint(f.info(t).AwakeBecause), "terminal") }
	sh := f.terminal(t, "")
	sh.types("stty -echo; kept=42; sh -c 'echo begun; exec sleep 1000'\n")
	sh.reads("begun\r\n")
	f.eventually(t, "a shell that works is a use", used)
	if status := sleep("idle", false); status != 409 {
		t.Errorf("idle with a shell that works: status %d", status)
	}
	sh.types("\x03")
	f.eventually(t, "a shell that waits is no use", func() bool { return !used() })
	if status := sleep("idle", false); status != 200 || f.info(t).State != lifeIdle {
		t.Errorf("idle with a shell that waits: status %d", status)
	}
	sh.types("echo $kept\n")
	sh.reads("42\r\n")
	if state := f.info(t).State; state != lifeActive {
		t.Errorf("after typing it is %s", state)
	}
	f.eventually(t, "a shell that waits is no use", func() bool { return !used() })
	if status := sleep("idle", false); status != 200 {
		t.Errorf("idle: status %d", status)
	}
	sh.conn.CloseNow() // of one that stands still
	f.eventually(t, "the end of a shell that stood still", func() bool {
		return f.run(t, map[string]any{"command": "pgrep bash"}).ExitCode != 0
	})
	works, waits := f.terminal(t, "command=sleep&command=1000"), f.terminal(t, "")
	if status := sleep("deep-sleep", true); status != 200 {
		t.Errorf("forced sleep: status %d", status)
	}
	works.isTold(websocket.StatusGoingAway, "put to sleep")
	waits.isTold(websocket.StatusGoingAway, "put to sleep")
	f.gone(t)
	f.wake(t)
	late := f.terminal(t, "")
	f.eventually(t, "a shell that waits is no use", func() bool { return !used() })
	if status := sleep("deep-sleep", false); status != 200 {
		t.Errorf("sleep: status %d", status)
	}
	late.isTold(websocket.StatusGoingAway, "went to sleep")
}
