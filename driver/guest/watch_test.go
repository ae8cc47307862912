// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

func TestAttach(t *testing.T) {
	b := newBox(t)
	b.prepare("x", nil)
	c := b.code("x", `
		import { watch, existsSync } from "node:fs";
		console.log("one"); console.error("two");
		const i = setInterval(() => { if (existsSync("go")) { clearInterval(i); console.log("three"); process.exit(5); } }, 2);
	`, nil)
	c.await(wire.EventEvaluated)
	for c.stdout.Len()+c.stderr.Len() < 8 {
		if _, err := c.next(); err != nil {
			t.Fatal(err)
		}
	}
	c.Close()

	// No journal: all of it comes again.
	c = b.request(wire.Request{Op: wire.OpAttach, ID: "x"})
	ev := c.await(wire.EventAttached)
	if ev.Offset != 0 || ev.State != stateRunning || ev.Pid == 0 {
		t.Errorf("attached: %+v", ev)
	}
	c.await(wire.EventEvaluated)
	if c.stdout.String() != "one\n" || c.stderr.String() != "two\n" {
		t.Errorf("output %q %q", &c.stdout, &c.stderr)
	}
	j := b.journal(c, "x")
	b.eventually("journal", func() bool { out, err := j.read(); return out == "one\n" && err == "two\n" })

	// With a journal: from its end on. The first watcher stays.
	d := b.request(wire.Request{Op: wire.OpAttach, ID: "x"})
	if ev := d.await(wire.EventAttached); ev.Offset != 8 {
		t.Errorf("attached: %+v", ev)
	}
	b.write("workspace/go", "")
	if r := d.finish(); r != (result{"three\n", "", 5}) {
		t.Errorf("result of the second: %+v", r)
	}
	if r := c.finish(); r != (result{"one\nthree\n", "two\n", 5}) {
		t.Errorf("result of the first: %+v", r)
	}

	// Ended, until it is released.
	e := b.request(wire.Request{Op: wire.OpAttach, ID: "x"})
	if ev := e.await(wire.EventAttached); ev.Offset != 14 || ev.State != stateExited || ev.Code != 5 {
		t.Errorf("attached: %+v", ev)
	}
	if r := e.finish(); r != (result{"", "", 5}) {
		t.Errorf("result: %+v", r)
	}
	if out, _ := j.read(); out != "one\nthree\n" {
		t.Errorf("journal: %q", out)
	}
	if err := e.Write(wire.KindReleased, nil); err != nil {
		t.Fatal(err)
	}
	b.eventually("release", func() bool { return len(b.list()) == 0 })
}

// TestJournalOfEndedExecution gives the journal when all is over.
func TestJournalOfEndedExecution(t *testing.T) {
	b := newBox(t)
	c := b.command("x", "echo a; echo b >&2; echo c")
	r := c.finish()
	j := b.journal(c, "x")
	b.eventually("journal", func() bool { out, err := j.read(); return out == r.stdout && err == r.stderr && out == "a\nc\n" })
}

func TestFullDisk(t *testing.T) {
	b := newBox(t)
	c := b.command("x", "i=0; while [ $i -lt 100 ]; do echo line $i; i=$((i+1)); done; sleep 0.05; echo end")
	var files []*os.File
	for range 3 {
		f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	if err := c.Write(wire.KindJournal, nil, files...); err != nil {
		t.Fatal(err)
	}
	if r := c.finish(); r.code != 0 || !strings.HasSuffix(r.stdout, "line 99\nend\n") {
		t.Errorf("result: %d %q", r.code, tail(&c.stdout))
	}
}

// TestHeldUp prints more than is kept of an execution without journal.
func TestHeldUp(t *testing.T) {
	b := newBox(t)
	c := b.command("x", "head -c 3000000 /dev/zero; echo end >&2")
	for c.stdout.Len() <= holdLimit {
		if _, err := c.next(); err != nil {
			t.Fatal(err)
		}
	}
	if n := c.stdout.Len(); n > holdLimit+2*wire.MaxData {
		t.Errorf("%d bytes came before a journal", n)
	}
	j := b.journal(c, "x")
	if r := c.finish(); len(r.stdout) != 3000000 || r.stderr != "end\n" {
		t.Errorf("%d bytes, stderr %q", len(r.stdout), r.stderr)
	}
	b.eventually("journal", func() bool { out, err := j.read(); return len(out) == 3000000 && err == "end\n" })
}

// TestNoJournalEver wants that an execution that nobody gives a journal goes on,
// and that what is dropped is told.
func TestNoJournalEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newExecution(&wire.Request{})
		buf := make([]byte, wire.HeaderSize+wire.MaxData)
		begin := time.Now()
		const pieces = 40
		for range pieces {
			x.pass(wire.KindStdout, buf)
		}
		if took := time.Since(begin); took != holdPatience {
			t.Errorf("it was held up for %s", took)
		}
		if x.held.size > holdLimit || x.held.size < holdLimit/2 {
			t.Errorf("%d bytes are kept", x.held.size)
		}
		out, errs := tempFile(t), tempFile(t)
		if err := x.give([]int{dup(t, out), dup(t, errs), dup(t, tempFile(t))}); err != nil {
			t.Fatal(err)
		}
		x.pass(wire.KindStderr, append(make([]byte, wire.HeaderSize), "end"...))
		note, kept := read(t, errs), len(read(t, out))
		if note != "[buntime: 1572864 bytes of output were dropped here]\nend" || kept != pieces*wire.MaxData-1572864 {
			t.Errorf("journal has %d bytes and %q", kept, note)
		}
		x.forget()
	})
}

func tempFile(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func dup(t *testing.T, f *os.File) int {
	t.Helper()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return fd
}

func read(t *testing.T, f *os.File) string {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestDeafWatcher wants that who does not read is dropped, after a while.
func TestDeafWatcher(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	deaf := b.command("x", "head -c 1000000 /dev/zero; head -c 1000000 /dev/zero; echo end >&2")
	j := b.journal(deaf, "x")
	begin := time.Now()
	b.eventually("end of the execution", func() bool {
		_, stderr := j.read()
		return stderr == "end\n"
	})
	if took := time.Since(begin); took < watcherPatience/2 || took > 2*watcherPatience {
		t.Errorf("it was held up for %s", took)
	}
	for {
		if _, err := deaf.next(); err != nil {
			break
		}
	}
	if deaf.saw(wire.EventExited) {
		t.Error("it was told the end after all")
	}
}
