// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// execute starts a shell with its input and output on the connection.
func (b *box) execute(script string, tty, stdin bool) *client {
	b.tb.Helper()
	c := b.request(wire.Request{Op: wire.OpExec, Argv: []string{"sh", "-c", script}, Dir: b.workspace, TTY: tty, Stdin: stdin})
	c.await(wire.EventStarted)
	return c
}

func (c *client) input(text string) {
	c.tb.Helper()
	if err := c.Write(wire.KindStdin, []byte(text)); err != nil {
		c.tb.Fatal(err)
	}
}

func TestExecPipes(t *testing.T) {
	b := newBox(t)
	c := b.execute("cat; echo err >&2; exit 4", false, true)
	c.input("one\n")
	c.awaitStdout("one\n")
	c.input(strings.Repeat("x", 200_000))
	c.input("")
	if r := c.finish(); len(r.stdout) != 200_004 || r.stderr != "err\n" || r.code != 4 {
		t.Errorf("%d bytes, stderr %q, code %d", len(r.stdout), r.stderr, r.code)
	}
	if r := b.execute("cat; echo done", false, false).finish(); r != (result{"done\n", "", 0}) {
		t.Errorf("without input: %+v", r)
	}
	// A command that leaves its input alone ends nevertheless.
	c = b.execute("sleep 0.05; echo done", false, true)
	for range 40 {
		c.input(strings.Repeat("y", 60_000))
	}
	if r := c.finish(); r != (result{"done\n", "", 0}) {
		t.Errorf("with input that is not read: %+v", r)
	}
	// What stays in the background does not hold the end up.
	if r := b.execute("sleep 60 & echo $!", false, false).finish(); r.code != 0 {
		t.Errorf("with a child: %+v", r)
	}
}

func TestExecTerminal(t *testing.T) {
	b := newBox(t)
	c := b.execute(`trap 'stty size' WINCH; test -t 0 && test -t 1 && test -t 2 && tty >/dev/null && echo terminal
		: > /dev/tty && read line && echo "got $line"; while read line; do echo "more $line"; done; echo eof; exit 7`, true, true)
	c.awaitStdout("terminal\r\n")
	if err := c.WriteJSON(wire.KindResize, wire.Size{Rows: 33, Cols: 121}); err != nil {
		t.Fatal(err)
	}
	c.input("hello\n")
	c.awaitStdout("33 121\r\n")
	c.input("x\n")
	c.input("")
	r := c.finish()
	if r.code != 7 || r.stderr != "" || !strings.HasSuffix(r.stdout, "eof\r\n") {
		t.Errorf("result: %+v", r)
	}
	c = b.execute("exec cat", true, true)
	c.input("ready\n")
	c.awaitStdout("ready\r\nready\r\n") // the terminal's echo, and cat's
	c.input("\x03")
	if r := c.finish(); r.code != 130 {
		t.Errorf("after Ctrl-C: %+v", r)
	}
	// All that was printed comes, however much.
	if r := b.execute("seq 1 20000", true, false).finish(); !strings.HasSuffix(r.stdout, "\n20000\r\n") {
		t.Errorf("the end of a long output is %q", r.stdout[max(0, len(r.stdout)-20):])
	}
}

func TestExecDiesWithItsConnection(t *testing.T) {
	b := newBox(t)
	c := b.execute(`trap 'echo hup > hup; exit' HUP; echo; while :; do sleep 0.01; done`, false, false)
	c.awaitStdout("\n")
	c.Close()
	b.eventually("SIGHUP", func() bool { _, err := os.Stat(b.workspace + "/hup"); return err == nil })

	var pid int
	c = b.execute(`trap '' HUP; echo $$; while :; do sleep 0.01; done`, false, true)
	c.awaitStdout("\n")
	if _, err := fmt.Sscan(c.stdout.String(), &pid); err != nil {
		t.Fatal(err)
	}
	// Input that nobody reads fills all buffers, so that init does not come to
	// the end of the connection; a failed write closes it.
	if err := c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for c.Write(wire.KindStdin, make([]byte, 10_000)) == nil {
	}
	b.eventually("SIGKILL", func() bool { return gone(pid) })
}

func TestMainProcess(t *testing.T) {
	b := newBox(t)
	out, errs := tempFile(t), tempFile(t)
	if err := unix.Mkfifo(b.workspace+"/fifo", 0o666); err != nil {
		t.Fatal(err)
	}
	c := b.request(wire.Request{
		Op: wire.OpMain, ID: "main", Argv: []string{"sh", "-c", "cat; echo out; echo err >&2; read x < fifo; exit 9"}, Dir: b.workspace,
	}, out, errs)
	pid := c.await(wire.EventStarted).Pid
	if e := b.list()["main"]; e.Pid != pid || e.State != stateRunning {
		t.Errorf("listed as %+v", e)
	}
	if ev := b.ask(wire.Request{Op: wire.OpMain, ID: "second", Argv: []string{"true"}}); ev.Event != wire.EventFailed {
		t.Errorf("a second main process: %+v", ev)
	}
	if r := b.execute("echo beside", false, false).finish(); r.stdout != "beside\n" {
		t.Errorf("command beside it: %+v", r)
	}
	begin := time.Now()
	b.write("workspace/fifo", "go\n")
	select {
	case <-b.done:
	case <-time.After(patience):
		t.Fatal("init stays after its main process")
	}
	var exit wire.Exit
	if text, err := os.ReadFile(b.exit); err != nil || json.Unmarshal(text, &exit) != nil {
		t.Fatalf("exit file: %q %v", text, err)
	}
	if exit.Code != 9 || exit.Signal != 0 || exit.Error != "" || exit.At < begin.UnixMilli() {
		t.Errorf("exit: %+v", exit)
	}
	if read(t, out) != "out\n" || read(t, errs) != "err\n" {
		t.Errorf("output: %q %q", read(t, out), read(t, errs))
	}
}
