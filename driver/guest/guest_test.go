// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox/seccomp"
)

// initName is the argv[0] of this binary as init: Serve reaps all children of
// its process and so needs one of its own.
const initName = "guest.test-init"

// patience bounds every wait of a test.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	switch os.Args[0] {
	case ShimName:
		Shim()
	case initName:
		serveTest()
		return
	}
	os.Exit(m.Run())
}

// serveTest is init: descriptor 3 is the listener, 4 the exit file.
func serveTest() {
	var cfg Config
	if err := json.Unmarshal([]byte(os.Getenv("CONFIG")), &cfg); err != nil {
		panic(err)
	}
	cfg.Exit = os.NewFile(4, "exit")
	unix.CloseOnExec(4)
	l, err := inherited(3, net.FileListener)
	if err != nil {
		panic(err)
	}
	// Orphans come to it, as they come to PID 1.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	go func() { // the test closes our standard input
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := Serve(ctx, cfg, l.(*net.UnixListener)); err != nil {
		panic(err)
	}
}

// box is an init with a directory that it takes for a workspace.
type box struct {
	tb        testing.TB
	root      string
	workspace string
	socket    string
	exit      string
	cfg       Config
	cmd       *exec.Cmd
	done      chan struct{}
}

// bunPath is where the pinned Bun lies.
var bunPath = sync.OnceValues(func() (string, error) {
	if p := os.Getenv("BUNTIME_BUN"); p != "" {
		return p, nil
	}
	out, err := exec.Command("../../e2e/tools/get", "bun").Output()
	if err != nil {
		return "", fmt.Errorf("find Bun by e2e/tools/get (or set BUNTIME_BUN): %w", err)
	}
	return strings.TrimSpace(string(out)), nil
})

// newBox starts an init. It ends with the test, with all that it started.
func newBox(tb testing.TB, change ...func(*Config)) *box {
	tb.Helper()
	bun, err := bunPath()
	if err != nil {
		tb.Fatal(err)
	}
	root, err := os.MkdirTemp("", "guest-")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(root) })
	if err := os.Chmod(root, 0o755); err != nil {
		tb.Fatal(err)
	}
	b := &box{
		tb: tb, root: root, workspace: filepath.Join(root, "workspace"),
		socket: filepath.Join(root, "socket"), exit: filepath.Join(root, "exit"), done: make(chan struct{}),
	}
	b.write("gate.ts", Gate)
	for _, dir := range []string{"workspace", "home"} {
		if err := os.Mkdir(filepath.Join(root, dir), 0o777); err != nil {
			tb.Fatal(err)
		}
	}
	filter, err := seccomp.Program()
	if err != nil {
		tb.Fatal(err)
	}
	b.cfg = Config{
		Seccomp: filter, Landlock: &wire.Landlock{Write: []string{root, "/tmp", "/dev/shm"}, Devices: []string{"/dev"}},
		Bun: bun, Gate: filepath.Join(root, "gate.ts"), Workspace: b.workspace, MaxFiles: 4096,
		Env: map[string]string{
			"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": filepath.Join(root, "home"), "LANG": "C.UTF-8",
			"BUN_INSTALL_CACHE_DIR": b.workspace + "/.buntime/install", "BUN_RUNTIME_TRANSPILER_CACHE_PATH": "0",
		},
	}
	for _, name := range []string{"SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"} {
		if v := os.Getenv(name); v != "" {
			b.cfg.Env[name] = v
		}
	}
	for _, f := range change {
		f(&b.cfg)
	}
	b.start()
	return b
}

func (b *box) start() {
	b.tb.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.socket})
	if err != nil {
		b.tb.Fatal(err)
	}
	defer l.Close()
	l.SetUnlinkOnClose(false)
	lf, err := l.File()
	if err != nil {
		b.tb.Fatal(err)
	}
	defer lf.Close()
	exit, err := os.Create(b.exit)
	if err != nil {
		b.tb.Fatal(err)
	}
	defer exit.Close()
	cfg, err := json.Marshal(b.cfg)
	if err != nil {
		b.tb.Fatal(err)
	}
	b.cmd = &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{initName},
		// As the plugin has it; the race detector waits a second at exit otherwise.
		Env:        []string{"CONFIG=" + string(cfg), "GOMAXPROCS=2", "GOGC=40", "GORACE=atexit_sleep_ms=0"},
		ExtraFiles: []*os.File{lf, exit}, Stderr: os.Stderr,
	}
	stdin, err := b.cmd.StdinPipe()
	if err != nil {
		b.tb.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		b.tb.Fatal(err)
	}
	go func() {
		defer close(b.done)
		if err := b.cmd.Wait(); err != nil {
			b.tb.Errorf("init: %v", err)
		}
	}()
	b.tb.Cleanup(func() {
		stdin.Close()
		select {
		case <-b.done:
		case <-time.After(patience):
			b.tb.Error("init does not end")
			_ = b.cmd.Process.Kill()
			<-b.done
		}
	})
}

// write makes a file, its name relative to the root.
func (b *box) write(name, content string) {
	b.tb.Helper()
	full := filepath.Join(b.root, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		b.tb.Fatal(err)
	}
	mode := os.FileMode(0o644)
	if strings.HasPrefix(content, "#!/bin/sh") {
		mode = 0o755
	}
	if err := os.WriteFile(full, []byte(content), mode); err != nil {
		b.tb.Fatal(err)
	}
}

// visible lists the workspace.
func (b *box) visible() []string {
	b.tb.Helper()
	entries, err := os.ReadDir(b.workspace)
	if err != nil {
		b.tb.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// client is a connection to init.
type client struct {
	*wire.Conn
	tb             testing.TB
	stdout, stderr bytes.Buffer
	events         []wire.Event
	atEvent        map[string]int // bytes of stdout when an event came
}

// request sends a request on a connection of its own.
func (b *box) request(req wire.Request, files ...*os.File) *client {
	b.tb.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: b.socket})
	if err != nil {
		b.tb.Fatal(err)
	}
	c := &client{Conn: wire.NewConn(conn), tb: b.tb, atEvent: make(map[string]int)}
	b.tb.Cleanup(func() { c.Close() })
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		b.tb.Fatal(err)
	}
	if err := c.WriteJSON(wire.KindRequest, req, files...); err != nil {
		b.tb.Fatal(err)
	}
	return c
}

// next reads one frame and returns the event in it, if it is one.
func (c *client) next() (wire.Event, error) {
	f, err := c.Read()
	if err != nil {
		return wire.Event{}, err
	}
	switch f.Kind {
	case wire.KindStdout:
		c.stdout.Write(f.Payload)
	case wire.KindStderr:
		c.stderr.Write(f.Payload)
	case wire.KindEvent:
		var ev wire.Event
		if err := json.Unmarshal(f.Payload, &ev); err != nil {
			return ev, err
		}
		c.events = append(c.events, ev)
		c.atEvent[ev.Event] = c.stdout.Len()
		return ev, nil
	default:
		return wire.Event{}, fmt.Errorf("frame %q", f.Kind)
	}
	return wire.Event{}, nil
}

// await reads up to an event of this name and returns it.
func (c *client) await(name string) wire.Event {
	c.tb.Helper()
	for {
		ev, err := c.next()
		if err != nil {
			c.tb.Fatalf("wait for %q after %v: %v; stdout %q stderr %q", name, c.events, err, tail(&c.stdout), tail(&c.stderr))
		}
		if ev.Event == name {
			return ev
		}
		if ev.Event == wire.EventFailed || ev.Event == wire.EventExited {
			c.tb.Fatalf("wait for %q: %+v came; stderr %q", name, ev, tail(&c.stderr))
		}
	}
}

func tail(b *bytes.Buffer) []byte { return b.Bytes()[max(0, b.Len()-300):] }

// awaitStdout reads until text was printed.
func (c *client) awaitStdout(text string) {
	c.tb.Helper()
	for !strings.Contains(c.stdout.String(), text) {
		if ev, err := c.next(); err != nil || ev.Event == wire.EventExited {
			c.tb.Fatalf("wait for %q in %q: %+v %v", text, c.stdout.String(), ev, err)
		}
	}
}

// finish reads to the end of an execution.
func (c *client) finish() result {
	c.tb.Helper()
	ev := c.await(wire.EventExited)
	if _, err := c.next(); !errors.Is(err, io.EOF) {
		c.tb.Errorf("after the last event: %v", err)
	}
	return result{c.stdout.String(), c.stderr.String(), ev.Code}
}

// saw tells whether an event came.
func (c *client) saw(name string) bool {
	for _, ev := range c.events {
		if ev.Event == name {
			return true
		}
	}
	return false
}

// result is what a program came to.
type result struct {
	stdout, stderr string
	code           int
}

// ask sends a request that is answered with one event.
func (b *box) ask(req wire.Request) wire.Event {
	b.tb.Helper()
	c := b.request(req)
	defer c.Close()
	ev, err := c.next()
	if err != nil {
		b.tb.Fatal(err)
	}
	return ev
}

// prepare starts a runner in the workspace and returns its pid.
func (b *box) prepare(id string, env map[string]string) int {
	b.tb.Helper()
	c := b.request(wire.Request{Op: wire.OpPrepare, ID: id, Dir: b.workspace, Env: env})
	defer c.Close()
	return c.await(wire.EventReady).Pid
}

// code runs code in a runner.
func (b *box) code(id, code string, env map[string]string) *client {
	b.tb.Helper()
	return b.request(wire.Request{Op: wire.OpRun, ID: id, Code: &code, Env: env})
}

// command runs a shell.
func (b *box) command(id, script string) *client {
	b.tb.Helper()
	return b.request(wire.Request{Op: wire.OpRun, ID: id, Argv: []string{"sh", "-c", script}, Dir: b.workspace})
}

// list returns the executions by id.
func (b *box) list() map[string]wire.Execution {
	b.tb.Helper()
	out := make(map[string]wire.Execution)
	for _, e := range b.ask(wire.Request{Op: wire.OpList}).Executions {
		out[e.ID] = e
	}
	return out
}

// eventually waits for something that nothing tells of.
func (b *box) eventually(what string, done func() bool) {
	b.tb.Helper()
	for end := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			b.tb.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// plain runs argv as nobody's child but ours.
func (b *box) plain(env map[string]string, argv ...string) result {
	b.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = b.workspace
	all := maps.Clone(b.cfg.Env)
	maps.Copy(all, env)
	cmd.Env = []string{}
	for k, v := range all {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		b.tb.Fatalf("run %v: %v %v", argv, err, ctx.Err())
	}
	code, _ := exitCode(cmd.ProcessState.Sys().(syscall.WaitStatus))
	return result{stdout.String(), stderr.String(), code}
}
