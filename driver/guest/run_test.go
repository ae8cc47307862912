// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// gone tells whether a process is no more.
func gone(pid int) bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) }

func TestRunnerWaitsUnseen(t *testing.T) {
	b := newBox(t)
	pid := b.prepare("a", nil)
	b.prepare("b", nil)
	if names := b.visible(); len(names) != 0 {
		t.Errorf("%v lies in the workspace while runners wait", names)
	}
	if e := b.list()["a"]; e.State != statePrepared || e.Pid != pid {
		t.Errorf("listed as %+v", e)
	}
	if ev := b.ask(wire.Request{Op: wire.OpPrepare, ID: "a", Dir: b.workspace}); ev.Event != wire.EventFailed {
		t.Errorf("a second runner of the same id: %+v", ev)
	}
	if ev := b.ask(wire.Request{Op: wire.OpDiscard, ID: "a"}); ev.Event != wire.EventExited || ev.Pid != pid {
		t.Errorf("discard answers %+v", ev)
	}
	if !gone(pid) {
		t.Error("a discarded runner lives")
	}
	if ev := b.ask(wire.Request{Op: wire.OpDiscard, ID: "a"}); ev.Event != wire.EventFailed {
		t.Errorf("discard of what is gone answers %+v", ev)
	}
	c := b.code("a", "1", nil)
	if ev, err := c.next(); err != nil || ev.Event != wire.EventFailed || !ev.Stale {
		t.Errorf("code for a runner that is gone: %+v %v", ev, err)
	}
}

func TestServerStays(t *testing.T) {
	b := newBox(t)
	b.prepare("x", nil)
	c := b.code("x", `
		const s = Bun.serve({ port: 0, fetch: () => { throw new Error("in a handler"); }, error: (e) => { console.error(e); return new Response("sorry"); } });
		console.log(s.port);
	`, nil)
	pid := c.await(wire.EventStarted).Pid
	c.await(wire.EventEvaluated)
	if names := b.visible(); !slices.Equal(names, []string{".buntime.ts"}) {
		t.Errorf("while a server runs, %v lies in the workspace", names)
	}
	e := b.list()["x"]
	if !e.Evaluated || e.State != stateRunning || e.Pid != pid || e.StartedAt == 0 {
		t.Errorf("listed as %+v", e)
	}
	port := strings.TrimSpace(c.stdout.String())
	if r := b.plain(nil, "curl", "-s", "http://localhost:"+port); r.stdout != "sorry" {
		t.Errorf("the server answers %q", r.stdout)
	}
	for !strings.Contains(c.stderr.String(), "error: in a handler") {
		if _, err := c.next(); err != nil {
			t.Fatal(err)
		}
	}
	if text := c.stderr.String(); !strings.Contains(text, "Bun.serve({ port: 0,") {
		t.Errorf("the error comes without its line of code:\n%s", text)
	}
	if ev := b.ask(wire.Request{Op: wire.OpSignal, Pid: pid, Signal: int(unix.SIGTERM)}); ev.Event != wire.EventSignalled {
		t.Errorf("signal: %+v", ev)
	}
	ev := c.await(wire.EventExited)
	if ev.Code != 143 || ev.Signal != 15 {
		t.Errorf("exit of a terminated server: %+v", ev)
	}
	b.eventually("removal of the entry", func() bool { return len(b.visible()) == 0 })
}

func TestRunnerThatDiedIsReplaced(t *testing.T) {
	b := newBox(t)
	pid := b.prepare("x", nil)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b.eventually("end of the runner", func() bool { return gone(pid) })
	if r := b.code("x", "console.log(1)", nil).finish(); r.stdout != "1\n" || r.code != 0 {
		t.Errorf("result: %+v", r)
	}
}

// TestRunnerThatDiedUnreaped is TestRunnerThatDiedIsReplaced with code that comes before
// init has reaped the runner.
func TestRunnerThatDiedUnreaped(t *testing.T) {
	b := newBox(t)
	pid := b.prepare("x", nil)
	runtime.LockOSThread() // a tracer is a thread
	defer runtime.UnlockOSThread()
	// A parent cannot reap what is traced before its tracer has.
	if err := unix.PtraceSeize(pid); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = unix.Wait4(pid, nil, 0, nil) }() // now init can
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
	c := b.code("x", "console.log(1)", nil)
	if now := c.await(wire.EventStarted).Pid; now == pid || gone(pid) {
		t.Errorf("it runs in %d; the runner that has died is %d, reaped: %t", now, pid, gone(pid))
	}
	if r := c.finish(); r.stdout != "1\n" || r.code != 0 {
		t.Errorf("result: %+v", r)
	}
	if names := b.visible(); len(names) != 0 {
		t.Errorf("%v is left", names)
	}
}

func TestCodeInAnotherDirectory(t *testing.T) {
	b := newBox(t)
	b.write("workspace/sub/m.ts", "export const m = 'sub';")
	c := b.request(wire.Request{Op: wire.OpPrepare, ID: "x", Dir: b.workspace + "/sub"})
	c.await(wire.EventReady)
	r := b.code("x", `import { m } from "./m"; console.log(m, process.cwd() === import.meta.dir);`, nil).finish()
	if r.stdout != "sub true\n" {
		t.Errorf("result: %+v", r)
	}
	if ev := b.ask(wire.Request{Op: wire.OpPrepare, ID: "y", Dir: b.workspace + "/nowhere"}); ev.Event != wire.EventFailed {
		t.Errorf("runner in no directory: %+v", ev)
	}
}

// TestDirectoryReplaced has the runner's directory removed and made anew.
func TestDirectoryReplaced(t *testing.T) {
	b := newBox(t)
	dir := b.workspace + "/sub"
	for id, env := range map[string]map[string]string{"a": nil, "b": {"X": "Y"}} {
		b.write("workspace/sub/m.ts", "export const m = 'old';")
		b.request(wire.Request{Op: wire.OpPrepare, ID: id, Dir: dir}).await(wire.EventReady)
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		b.write("workspace/sub/m.ts", "export const m = 'new';")
		if r := b.code(id, `import { m } from "./m"; console.log(m);`, env).finish(); r.stdout != "new\n" {
			t.Errorf("result: %+v", r)
		}
	}
}

// TestPlantedEntry puts a link where init will write code.
func TestPlantedEntry(t *testing.T) {
	b := newBox(t)
	b.write("victim", "precious")
	b.prepare("x", nil)
	if err := os.Symlink(b.root+"/victim", b.workspace+"/.buntime.ts"); err != nil {
		t.Fatal(err)
	}
	if r := b.code("x", "console.log(1)", nil).finish(); r.stdout != "1\n" {
		t.Errorf("result: %+v", r)
	}
	if text, err := os.ReadFile(b.root + "/victim"); err != nil || string(text) != "precious" {
		t.Errorf("what the link led to is %q %v", text, err)
	}
}

// TestNonsenseAtTheGate has a program write to init what it likes.
func TestNonsenseAtTheGate(t *testing.T) {
	for name, words := range map[string]string{
		"early exit":  "X",
		"evaluations": "EEEEEE",
		"letters":     "hello",
		"flood":       strings.Repeat("RX", 1<<16),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.prepare("x", nil)
			c := b.code("x", fmt.Sprintf(`
				const { symbols: c } = require("bun:ffi").dlopen("libc.so.6", { send: { args: ["int", "ptr", "usize", "int"], returns: "isize" } });
				const b = Buffer.from(%q);
				console.log("before");
				console.log(c.send(63, b, b.length, 0x4040) !== 0n); // MSG_NOSIGNAL | MSG_DONTWAIT
				await Bun.sleep(50);
				console.log("after");
				process.exit(6);
			`, words), nil)
			if r := c.finish(); r.stdout != "before\ntrue\nafter\n" || r.code != 6 {
				t.Errorf("result: %+v", r)
			}
			if ev := c.events[len(c.events)-2]; ev.Event == wire.EventExiting && ev.Code != 6 {
				t.Errorf("exiting with code %d", ev.Code)
			}
		})
	}
}

// TestExitingComesFirst wants that a plain end is told before Bun has given its
// memory back: that is what makes answers fast.
func TestExitingComesFirst(t *testing.T) {
	b := newBox(t)
	early := 0
	for i := range 10 {
		id := fmt.Sprint(i)
		b.prepare(id, nil)
		c := b.code(id, `console.log("x"); if (`+id+` % 2) process.exit(3); throw new Error("y");`, nil)
		r := c.finish()
		if want := 1 + i%2*2; r.code != want {
			t.Errorf("exit code %d, want %d", r.code, want)
		}
		if c.saw(wire.EventExiting) {
			early++
		}
	}
	if early == 0 { // a busy machine may miss most
		t.Error("none of 10 exits was told early")
	}
}

func TestCommand(t *testing.T) {
	b := newBox(t)
	b.write("workspace/bin/tool", "#!/bin/sh\necho tool $X\n")
	c := b.request(wire.Request{
		Op: wire.OpRun, ID: "x", Argv: []string{"tool"}, Dir: b.workspace, Label: "my label",
		Env: map[string]string{"X": "y z", "PATH": "/nowhere::bin:/usr/bin:/bin"},
	})
	if r := c.finish(); r != (result{"tool y z\n", "", 0}) {
		t.Errorf("result: %+v", r)
	}
	if e := b.list()["x"]; e.Label != "my label" || e.State != stateExited || e.Offset != 9 || e.Argv[0] != "tool" {
		t.Errorf("listed as %+v", e)
	}
	if r := b.command("y", "pwd; cat; echo err >&2; exit 3").finish(); r != (result{b.workspace + "\n", "err\n", 3}) {
		t.Errorf("result: %+v", r)
	}
	if r := b.command("z", "kill -9 $$").finish(); r.code != 137 {
		t.Errorf("result: %+v", r)
	}
}

func TestBadRequests(t *testing.T) {
	b := newBox(t)
	b.write("workspace/plain", "no program")
	code := "1"
	for name, c := range map[string]struct {
		req  wire.Request
		text string
		code int
	}{
		"no such program":     {wire.Request{Op: wire.OpRun, ID: "x", Argv: []string{"nope"}}, "run nope: no such file", 127},
		"not a program":       {wire.Request{Op: wire.OpRun, ID: "x", Argv: []string{b.workspace + "/plain"}}, "permission denied", 126},
		"no such directory":   {wire.Request{Op: wire.OpRun, ID: "x", Argv: []string{"true"}, Dir: "/nope"}, "enter directory /nope", 127},
		"relative directory":  {wire.Request{Op: wire.OpRun, ID: "x", Argv: []string{"true"}, Dir: "a"}, "not absolute", 0},
		"no command":          {wire.Request{Op: wire.OpRun, ID: "x"}, "no command", 0},
		"no command to exec":  {wire.Request{Op: wire.OpExec}, "no command", 0},
		"no id":               {wire.Request{Op: wire.OpRun, Argv: []string{"true"}}, "no id", 0},
		"NUL in an argument":  {wire.Request{Op: wire.OpRun, ID: "x", Argv: []string{"a\x00b"}}, "NUL", 0},
		"bad variable":        {wire.Request{Op: wire.OpRun, ID: "x", Argv: []string{"true"}, Env: map[string]string{"A=B": ""}}, "environment variable", 0},
		"code without runner": {wire.Request{Op: wire.OpRun, ID: "x", Code: &code}, "no such runner", 0},
		"attach to nothing":   {wire.Request{Op: wire.OpAttach, ID: "x"}, "no execution", 0},
		"signal to init":      {wire.Request{Op: wire.OpSignal, Pid: 1, Signal: 9}, "no signal", 0},
		"signal to all":       {wire.Request{Op: wire.OpSignal, Pid: -1, Signal: 9}, "no signal", 0},
		"signal to nobody":    {wire.Request{Op: wire.OpSignal, Pid: 1 << 22, Signal: 9}, "no such process", 0},
		"main without output": {wire.Request{Op: wire.OpMain, ID: "x", Argv: []string{"true"}}, "descriptors", 0},
		"unknown":             {wire.Request{Op: "dance"}, "unknown operation", 0},
	} {
		ev := b.ask(c.req)
		if ev.Event != wire.EventFailed || !strings.Contains(ev.Error, c.text) || c.code != 0 && ev.Code != c.code {
			t.Errorf("%s: %+v", name, ev)
		}
	}
	if n := len(b.list()); n != 0 {
		t.Errorf("%d executions are left", n)
	}
	if ev := b.ask(wire.Request{Op: wire.OpPing}); ev.Event != wire.EventPong {
		t.Errorf("ping: %+v", ev)
	}
}

// TestManyAtOnce starts and reaps many processes at the same time.
func TestManyAtOnce(t *testing.T) {
	b := newBox(t)
	var all sync.WaitGroup
	for i := range 60 {
		all.Go(func() {
			want := result{fmt.Sprintln(i), "", i}
			if r := b.command(fmt.Sprint("c", i), fmt.Sprintf("echo %d; exit %d", i, i)).finish(); r != want {
				t.Errorf("result %+v, want %+v", r, want)
			}
		})
	}
	for i := range 6 {
		all.Go(func() {
			id := fmt.Sprint("r", i)
			b.prepare(id, nil)
			want := result{fmt.Sprintln(i), "", 0}
			if r := b.code(id, fmt.Sprintf("console.log(%d)", i), nil).finish(); r != want {
				t.Errorf("result %+v, want %+v", r, want)
			}
		})
	}
	all.Wait()
	if names := b.visible(); len(names) != 0 {
		t.Errorf("%v is left in the workspace", names)
	}
}

func TestSignals(t *testing.T) {
	b := newBox(t)
	const script = `trap 'echo hup' HUP; echo ready; while :; do sleep 0.01; done`
	c := b.command("x", script)
	pid := c.await(wire.EventStarted).Pid
	c.awaitStdout("ready")
	if err := c.WriteJSON(wire.KindSignal, wire.Signal{Signal: int(unix.SIGHUP)}); err != nil {
		t.Fatal(err)
	}
	c.awaitStdout("hup\n")
	if ev := b.ask(wire.Request{Op: wire.OpSignal, Pid: -pid, Signal: int(unix.SIGKILL)}); ev.Event != wire.EventSignalled {
		t.Errorf("signal to a group: %+v", ev)
	}
	if ev := c.await(wire.EventExited); ev.Signal != 9 || ev.Code != 137 {
		t.Errorf("exit: %+v", ev)
	}
}

// TestAutoInstall needs the npm registry.
func TestAutoInstall(t *testing.T) {
	const code = `import isOdd from "is-odd"; const { default: ms } = await import("ms"); console.log(isOdd(3), ms("1h"));`
	for name, files := range map[string]map[string]string{
		"bare":              {},
		"with node_modules": {"node_modules/other/index.js": "1"},
		"with package.json": {"package.json": `{"dependencies":{"is-odd":"2.0.0"}}`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBox(t)
			for name, text := range files {
				b.write("workspace/"+name, text)
			}
			b.prepare("x", nil)
			if r := b.code("x", code, nil).finish(); r != (result{"true 3600000\n", "", 0}) {
				t.Errorf("result: %+v", r)
			}
			if _, err := os.Stat(filepath.Join(b.workspace, ".buntime/install")); err != nil {
				t.Error("nothing was kept of what was installed: ", err)
			}
			// What a package manager installs meanwhile is found by who waited.
			b.prepare("y", nil)
			if r := b.command("add", b.cfg.Bun+" add is-number@7.0.0").finish(); r.code != 0 {
				t.Fatalf("bun add: %+v", r)
			}
			r := b.code("y", `import n from "is-number"; import p from "is-number/package.json"; console.log(n(5), p.version);`, nil).finish()
			if r != (result{"true 7.0.0\n", "", 0}) {
				t.Errorf("result after bun add: %+v", r)
			}
		})
	}
}

// TestPastIsForgotten runs more than is kept.
func TestPastIsForgotten(t *testing.T) {
	b := newBox(t)
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 250 {
				c := b.request(wire.Request{Op: wire.OpRun, ID: fmt.Sprintf("%d-%d", worker, i), Argv: []string{"true"}})
				if r := c.finish(); r.code != 0 {
					t.Errorf("result: %+v", r)
				}
				if worker%2 == 0 {
					if err := c.Write(wire.KindReleased, nil); err != nil {
						t.Error(err)
					}
				}
				c.Close()
			}
		})
	}
	all.Wait()
	left := func() int { return len(b.list()) }
	// One of those that nobody waits for may just be on its way out.
	b.eventually("no more than are to be kept", func() bool { return left() <= keepPast })
	for id := range b.list() {
		c := b.request(wire.Request{Op: wire.OpAttach, ID: id})
		c.await(wire.EventAttached)
		if err := c.Write(wire.KindReleased, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.eventually("release of all", func() bool { return left() == 0 })
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	if len(fds) > 100 {
		t.Errorf("init has %d descriptors open", len(fds))
	}
}

func TestBackgroundChild(t *testing.T) {
	b := newBox(t)
	c := b.command("x", `(while [ ! -e go ]; do sleep 0.01; done; echo late; echo later >&2) & echo now`)
	j := b.journal(c, "x")
	begin := time.Now()
	if r := c.finish(); r != (result{"now\n", "", 0}) {
		t.Errorf("result: %+v", r)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the child held the end up for %s", took)
	}
	if err := c.Write(wire.KindReleased, nil); err != nil {
		t.Fatal(err)
	}
	if e := b.list()["x"]; e.State != stateExited {
		t.Errorf("while a child lives, listed as %+v", e)
	}
	b.write("workspace/go", "")
	b.eventually("later output in the journal", func() bool {
		stdout, stderr := j.read()
		return stdout == "now\nlate\n" && stderr == "later\n"
	})
	b.eventually("end of the list's entry", func() bool { return len(b.list()) == 0 })
}
