// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/buntime/buntime/e2e/stack"
)

// tool is the command line of an account, in a folder of a test's own.
type tool struct {
	t       *testing.T
	ctx     context.Context
	dir     string
	program string
	env     []string
}

func newTool(t *testing.T, key string) *tool {
	t.Helper()
	root, err := stack.Root()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return &tool{t, deadline(t, usual), dir, filepath.Join(root, "out/bin/buntime"), []string{
		"PATH=" + os.Getenv("PATH") + ":" + filepath.Join(root, "out/bin"), "HOME=" + dir, "TERM=xterm",
		"BUNTIME_BASE_URL=" + system.base, "BUNTIME_API_KEY=" + key, "CONSUL_HTTP_ADDR=" + system.consul,
	}}
}

func (x *tool) write(name, text string) {
	x.t.Helper()
	name = filepath.Join(x.dir, name)
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(text), 0o644)); err != nil {
		x.t.Fatal(err)
	}
}

func (x *tool) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(x.ctx, x.program, args...)
	cmd.Dir, cmd.Env = x.dir, x.env
	return cmd
}

// ran is what a command line came to.
type ran struct {
	code           int
	stdout, stderr string
}

func (x *tool) run(in string, args ...string) ran {
	x.t.Helper()
	cmd := x.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(in), &out, &errs
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok {
		x.t.Fatalf("buntime %q: %v", args, err)
	}
	return ran{cmd.ProcessState.ExitCode(), out.String(), errs.String()}
}

// ok wants exit code 0, and returns standard output.
func (x *tool) ok(args ...string) string {
	x.t.Helper()
	r := x.run("", args...)
	if r.code != 0 {
		x.t.Fatalf("buntime %q: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

func (x *tool) want(r ran, code int, stdout, stderr string) {
	x.t.Helper()
	if r.code != code || r.stdout != stdout || !strings.Contains(r.stderr, stderr) {
		x.t.Errorf("exit code %d, want %d\nstdout %q, want %q\nstderr %q, want in it %q", r.code, code, r.stdout, stdout, r.stderr, stderr)
	}
}

// running is a command line that runs; its output is read as it comes.
type running struct {
	x       *tool
	cmd     *exec.Cmd
	out     io.Reader
	printed string
	seen    int // how much of it until has passed
}

func (x *tool) start(args ...string) *running {
	x.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { r.Close() })
	s := &running{x: x, cmd: x.command(args...), out: r}
	s.cmd.Stdout, s.cmd.Stderr = w, w
	err = s.cmd.Start()
	w.Close()
	if err != nil {
		x.t.Fatal(err)
	}
	return s
}

// until reads until text was printed, or to the end if it is empty.
func (s *running) until(text string) {
	s.x.t.Helper()
	buf := make([]byte, 4096)
	for text == "" || !strings.Contains(s.printed[s.seen:], text) {
		n, err := s.out.Read(buf)
		s.printed += string(buf[:n])
		if err != nil && text == "" {
			return
		}
		if err != nil {
			s.x.t.Fatalf("%q ended before it said %q: %v\n%s", s.cmd.Args, text, err, s.printed)
		}
	}
	s.seen += strings.Index(s.printed[s.seen:], text) + len(text)
}

func (s *running) end(sig syscall.Signal, code int) {
	s.x.t.Helper()
	if sig != 0 {
		if err := s.cmd.Process.Signal(sig); err != nil {
			s.x.t.Fatal(err)
		}
	}
	s.until("")
	_ = s.cmd.Wait()
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.x.t.Errorf("%q: exit code %d, want %d\n%s", s.cmd.Args, got, code, s.printed)
	}
}

// gone wants no session with a tag.
func (x *tool) gone(tag string) {
	x.t.Helper()
	equal(x.t, "sessions of "+tag, x.ok("sessions", "list", "--metadata", "test="+tag, "-o", "json"), "{\n  \"sessions\": []\n}\n")
}

func TestCommandLineRun(t *testing.T) {
	t.Parallel()
	x := newTool(t, system.enterprise)
	x.write("hello.ts", `import { where } from "./lib/where";
		console.log(process.argv.slice(2).join("|"), process.env.WHO, where satisfies string);
		console.error("oops"); process.exit(3)`)
	x.write("lib/where.ts", `export const where = "here"`)
	x.write(".gitignore", "*.log\n/secret/\n!keep.log\n")
	for _, name := range []string{"a.log", "lib/b.log", "lib/keep.log", "secret/x", "node_modules/m/index.js", "lib/.gitignore"} {
		x.write(name, "made\n")
	}
	t.Run("a folder, arguments, environment, exit code", func(t *testing.T) {
		x := x.in(t)
		x.want(x.run("", "run", "--dir", ".", "--env", "WHO=me", "--metadata", "test=folder", "hello.ts", "a b", "--x", "$y"), 3, "a b|--x|$y me here\n", "oops\n")
		x.write("list.ts", `for (const f of [...new Bun.Glob("**/*").scanSync({ dot: true })].filter((f) => !f.startsWith(".buntime")).sort()) console.log(f)`)
		equal(t, "files", x.ok("run", "--dir", ".", "list.ts"), ".gitignore\nhello.ts\nlib/.gitignore\nlib/keep.log\nlib/where.ts\nlist.ts\n")
		x.gone("folder")
	})
	t.Run("a file alone, and standard input", func(t *testing.T) {
		x := x.in(t)
		r := x.run("", "run", "hello.ts")
		x.want(r, 1, "", "Cannot find module")
		x.want(x.run("console.log(6 * 7)", "run", "-"), 0, "42\n", "")
		x.write("in.ts", `console.log((await Bun.stdin.text()).length); process.exit(4)`)
		x.want(x.run(strings.Repeat("x", 100_000), "run", "-i", "in.ts"), 4, "100000\n", "")
	})
	t.Run("every byte", func(t *testing.T) {
		x := x.in(t)
		x.write("bytes.ts", `const all = Buffer.from(Array.from({ length: 256 * 400 }, (_, i) => i * 7)); for (let i = 0; i < all.length; i += 777) require("fs").writeSync(1, all.subarray(i, i + 777));`)
		r := x.run("", "run", "bytes.ts")
		want := make([]byte, 256*400)
		for i := range want {
			want[i] = byte(i * 7)
		}
		equal(t, "sum", sha256.Sum256([]byte(r.stdout)), sha256.Sum256(want))
	})
	t.Run("a time-out", func(t *testing.T) {
		x := x.in(t)
		x.write("long.ts", `console.log("up"); setInterval(() => {}, 1000)`)
		x.want(x.run("", "run", "--timeout", "4s", "long.ts"), 124, "up\n", "--timeout gives it more")
	})
	t.Run("an interrupt", func(t *testing.T) {
		x := x.in(t)
		x.write("loop.ts", `console.log("up"); setInterval(() => {}, 1000)`)
		s := x.start("run", "--metadata", "test=interrupt", "loop.ts")
		s.until("up\n")
		s.end(syscall.SIGINT, 130)
		x.gone("interrupt")
	})
	t.Run("a reader that has enough", func(t *testing.T) {
		x := x.in(t)
		x.write("yes.ts", `while (true) console.log("y".repeat(1000))`)
		cmd := exec.CommandContext(x.ctx, "bash", "-c", `buntime run --metadata test=pipe yes.ts | head -c 5; echo " ${PIPESTATUS[0]}"`)
		cmd.Dir, cmd.Env = x.dir, x.env
		out, err := cmd.CombinedOutput()
		equal(t, "output", string(out), "yyyyy 141\n")
		if err != nil {
			t.Error(err)
		}
		x.gone("pipe")
	})
	t.Run("a server, and a session that is kept", func(t *testing.T) {
		x := x.in(t)
		x.write("server.ts", `console.log("begin"); Bun.serve({ port: 8080, fetch() { console.log("asked"); return new Response("hi") } })`)
		s := x.start("run", "--keep", "--metadata", "test=server", "server.ts")
		s.until("Ctrl-C ends it")
		page := regexp.MustCompile(`http://\S+localhost:\d+`).FindString(s.printed)
		equal(t, "preview", string(fetchURL(t, x.ctx, page).Body), "hi")
		s.until("asked\n")
		s.end(syscall.SIGTERM, 143)
		equal(t, "times that it began", strings.Count(s.printed, "begin"), 1)
		id := regexp.MustCompile(`ses_\w+`).FindString(s.printed)
		dropLater(t, enterprise(), id)
		equal(t, "processes", strings.TrimSpace(x.ok("exec", id, "--code", `console.log(await fetch("http://127.0.0.1:8080").then(() => "there", () => "gone"))`)), "gone")
	})
	t.Run("errors", func(t *testing.T) {
		x := x.in(t)
		x.want(x.run("", "run", "none.ts"), 125, "", "none.ts")
		x.want(x.run("", "run"), 125, "", "See buntime run --help")
		x.want(x.run("", "run", "--dir", "lib", "hello.ts"), 125, "", "is not in lib")
		x.want(x.run("", "--key", "btk_wrong", "run", "-"), 125, "", "no script")
		x.want(x.run("1", "--key", "btk_wrong", "run", "-"), 125, "", "buntime login")
		x.want(x.run("", "--url", "http://127.0.0.1:1", "sessions", "list"), 1, "", "reachable")
		x.want(x.run("", "sessions", "info"), 2, "", "arg")
		x.env = append(slices.Clone(x.env), "BUNTIME_API_KEY=", "BUNTIME_BASE_URL=")
		x.want(x.run("", "sessions", "list"), 1, "", "buntime login URL")
		x.want(x.run("btk_wrong\n", "login", system.base), 1, "", "try the key")
		x.want(x.run(system.enterprise+"\n", "login", system.base), 0, "", "is kept in")
		x.ok("sessions", "list")
		x.ok("logout")
		x.want(x.run("", "sessions", "list"), 1, "", "buntime login URL")
	})
}

// in is the tool for a subtest.
func (x *tool) in(t *testing.T) *tool {
	y := *x
	y.t = t
	return &y
}

func TestCommandLineSessions(t *testing.T) {
	t.Parallel()
	x := newTool(t, system.enterprise)
	id := strings.TrimSpace(x.ok("sessions", "create", "--ttl", "10m", "--metadata", "test=cli", "--metadata", "evil=\x1b[31m\u009bx", "--memory", "1024"))
	dropLater(t, enterprise(), id)
	t.Run("exec", func(t *testing.T) {
		x := x.in(t)
		x.want(x.run("", "exec", id, "--", "printf", "%s|", "a b", "$HOME", "it's", ""), 0, "a b|$HOME|it's||", "")
		x.want(x.run("", "exec", id, "echo $((6 * 7)) | cat; echo bad >&2; exit 9"), 9, "42\n", "bad\n")
		x.want(x.run("", "exec", id, "--env", "A=1", "-w", "/workspace", "--code", "console.log(process.env.A, process.cwd())"), 0, "1 /workspace\n", "")
		x.want(x.run("console.log('in')", "exec", id, "-f", "-"), 0, "in\n", "")
		x.want(x.run("b\na\n", "exec", "-i", id, "--", "sort"), 0, "a\nb\n", "")
		x.want(x.run("", "exec", "-i", id, "kill -9 $$"), 137, "", "")
		var result execution
		r := x.run("", "exec", "-o", "json", id, "--", "sh", "-c", "echo out; exit 5")
		if err := json.Unmarshal([]byte(r.stdout), &result); err != nil || r.code != 5 || result.Stdout != "out\n" || result.ExitCode != 5 {
			t.Errorf("%+v", r)
		}
		for _, args := range [][]string{{"exec", id}, {"exec", id, "--code", "1", "--", "ls"}, {"exec", "-t", id, "ls"}} {
			x.want(x.run("", args...), 125, "", "buntime")
		}
		s := x.start("exec", id, "--", "sh", "-c", "echo up; sleep 54321")
		s.until("up")
		s.end(syscall.SIGINT, 130)
		eventually(t, x.ctx, "the end of an interrupted command", usual, func() (bool, string) {
			r := x.run("", "exec", id, "grep -laz 5432[1] /proc/[0-9]*/cmdline")
			return r.code != 0, r.stdout
		})
	})
	t.Run("cp", func(t *testing.T) {
		x := x.in(t)
		x.write("tree/deep/a.txt", "hello\n")
		x.write("tree/run", "#!/bin/sh\necho ran\n")
		x.write("tree/big", strings.Repeat("0123456789abcdef", 1<<16))
		if err := errors.Join(os.Chmod(filepath.Join(x.dir, "tree/run"), 0o755), os.Symlink("deep/a.txt", filepath.Join(x.dir, "tree/link"))); err != nil {
			t.Fatal(err)
		}
		x.ok("cp", "tree", id+":copy")
		x.ok("cp", "tree/.", id+":copy")
		x.ok("cp", "tree", id+":copy") // into it
		equal(t, "program", x.ok("exec", id, "--", "copy/tree/run"), "ran\n")
		x.ok("cp", id+":copy/tree", "back")
		for name, want := range map[string]string{"deep/a.txt": "hello\n", "link": "hello\n", "big": strings.Repeat("0123456789abcdef", 1<<16), "run": "#!/bin/sh\necho ran\n"} {
			got, err := os.ReadFile(filepath.Join(x.dir, "back", name))
			if err != nil || string(got) != want {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
		if st, err := os.Stat(filepath.Join(x.dir, "back/run")); err != nil || st.Mode() != 0o755 {
			t.Errorf("run: %v, %v", st.Mode(), err)
		}
		x.want(x.run("from here", "cp", "-", id+":in/put.txt"), 0, "", "")
		equal(t, "back", x.ok("cp", id+":in/put.txt", "-"), "from here")
		x.ok("cp", "tree/run", id+":in/")
		x.ok("cp", id+":in/run", ".")
		x.want(x.run("", "cp", "none", id+":x"), 1, "", "none")
		x.want(x.run("", "cp", id+":none", "x"), 1, "", "none")
		x.want(x.run("", "cp", "a", "b"), 2, "", "SESSION:PATH")
	})
	t.Run("cp from a session that is hostile", func(t *testing.T) {
		x := x.in(t)
		x.ok("exec", id, `mkdir -p evil/d && cd evil && ln -s /etc abs && ln -s ../../.. up && ln -s d ok && echo x >"$(printf 'a\033[31mb')" && ln -s / "$(printf 'l\033]0;x\007')" && truncate -s 20M hole && chmod 7777 d && mkfifo pipe`)
		r := x.run("", "cp", id+":evil", "got")
		equal(t, "exit code", r.code, 1)
		for _, want := range []string{"left out abs", "left out up", `left out l\x1b]0;x\a`, "3 entries"} {
			contains(t, "stderr", r.stderr, want)
		}
		if strings.Contains(r.stderr, "\x1b") {
			t.Errorf("%q", r.stderr)
		}
		names, err := filepath.Glob(filepath.Join(x.dir, "got", "*"))
		if err != nil || len(names) != 4 { // the odd name, d, hole, ok
			t.Errorf("%q, %v", names, err)
		}
		if st, err := os.Stat(filepath.Join(x.dir, "got/d")); err != nil || st.Mode()&^os.ModePerm != os.ModeDir {
			t.Errorf("d: %v, %v", st.Mode(), err)
		}
		x.ok("exec", id, "--", "rm", "-rf", "evil")
	})
	t.Run("logs", func(t *testing.T) {
		x := x.in(t)
		nextSecond(t, x.ctx, time.Now()) // what the latest is, is told by the second
		x.ok("exec", id, "echo first; echo second >&2")
		eventually(t, x.ctx, "the latest execution's output", usual, func() (bool, string) {
			r := x.run("", "logs", id)
			return r == ran{0, "first\n", "second\n"}, fmt.Sprint(r)
		})
		list := strings.Fields(x.ok("logs", "--list", id))
		contains(t, "list", strings.Join(list, " "), "EXECUTION")
		var started execution
		if err := json.Unmarshal([]byte(x.ok("exec", "-o", "json", id, "--code", `Bun.serve({ port: 8080, fetch() { console.log("asked"); setTimeout(() => process.exit(0), 50); return new Response("hi") } }); console.log("up")`)), &started); err != nil {
			t.Fatal(err)
		}
		s := x.start("logs", "-f", id, started.ExecutionID)
		s.until("up\n")
		page := strings.TrimSpace(x.ok("open", id))
		equal(t, "preview", string(fetchURL(t, x.ctx, page).Body), "hi")
		s.until("asked\n")
		s.end(0, 0)
		equal(t, "with a port", strings.TrimSpace(x.ok("open", "--print", id, "3000")), strings.Replace(page, "http://", "http://3000-", 1))
	})
	t.Run("list, info, top, keys", func(t *testing.T) {
		x := x.in(t)
		for _, args := range [][]string{{"sessions", "list", "--metadata", "test=cli"}, {"sessions", "info", id}, {"top"}, {"keys"}} {
			out := x.ok(args...)
			if args[0] != "keys" && (!strings.Contains(out, id) || !strings.Contains(out, "active")) || strings.ContainsAny(out, "\x1b\u009b") {
				t.Errorf("%q: %q", args, out)
			}
			var object map[string]any
			if err := json.Unmarshal([]byte(x.ok(append(args, "-o", "json")...)), &object); err != nil {
				t.Errorf("%q: %v", args, err)
			}
		}
		contains(t, "list", x.ok("sessions", "list", "--metadata", "test=cli"), `evil=\x1b[31m\u009bx test=cli`)
		contains(t, "extend", x.ok("sessions", "extend", id, "2h"), "1h59m")
		contains(t, "keys", x.ok("keys", "list"), "ACCOUNT")
		s := x.start("top") // no terminal: once
		s.end(0, 0)
	})
	t.Run("completion", func(t *testing.T) {
		x := x.in(t)
		for _, args := range [][]string{{"exec"}, {"shell"}, {"logs"}, {"open"}, {"sessions", "delete"}, {"sessions", "info"}, {"sessions", "sleep"}, {"sessions", "extend"}} {
			contains(t, strings.Join(args, " "), x.ok(append(append([]string{"__complete"}, args...), "")...), id+"\tactive")
		}
		contains(t, "cp", x.ok("__complete", "cp", "ses_"), id+":\t")
		contains(t, "logs", x.ok("__complete", "logs", id, ""), "exe_")
		for _, shell := range []string{"bash", "zsh", "fish"} {
			contains(t, shell, x.ok("completion", shell), "buntime")
		}
	})
	t.Run("sleep and delete", func(t *testing.T) {
		x := x.in(t)
		contains(t, "sleep", x.ok("sessions", "sleep", "--force", id), "deep-sleep")
		contains(t, "state", x.ok("sessions", "list"), "deep-sleep")
		contains(t, "files", x.ok("exec", id, "cat in/put.txt"), "from here") // it wakes
		equal(t, "delete", x.ok("sessions", "delete", id), id+"\n")
		x.want(x.run("", "sessions", "delete", id), 1, "", "delete "+id)
	})
}

// TestCommandLineStranger: the sessions of another account are not there, whatever is
// asked of them.
func TestCommandLineStranger(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("secret.txt", "secret")
	x := newTool(t, system.paid)
	x.write("f", "f")
	for line, code := range map[string]int{
		"exec ID -- ls": 125, "exec ID --code 1": 125, "exec -i ID -- ls": 125, "exec -o json ID ls": 125,
		"cp f ID:f": 1, "cp f ID:d/": 1, "cp ID:secret.txt x": 1, "cp ID:. x": 1, "cp ID:secret.txt -": 1,
		"logs ID": 1, "logs --list ID": 1, "logs -f ID exec_a": 1, "open --print ID": 1,
		"sessions info ID": 1, "sessions sleep ID": 1, "sessions extend ID 1h": 1, "sessions delete ID": 1,
	} {
		r := x.run("", strings.Fields(strings.ReplaceAll(line, "ID", s.id))...)
		if r.code != code || r.stdout != "" || !strings.Contains(r.stderr, "buntime sessions list has those that there are") {
			t.Errorf("%s: %+v", line, r)
		}
	}
	if out := x.ok("sessions", "list") + x.ok("__complete", "exec", "") + x.ok("top"); strings.Contains(out, s.id) {
		t.Errorf("%s", out)
	}
	equal(t, "file", s.read("secret.txt"), "secret")
}

// TestCommandLineShell: a shell on a real terminal.
func TestCommandLineShell(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	x := newTool(t, system.enterprise)
	open := func(t *testing.T, args ...string) (*running, *os.File) {
		t.Helper()
		cmd := x.command(args...)
		main, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 31, Cols: 99})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { main.Close() })
		return &running{x: x.in(t), cmd: cmd, out: main}, main
	}
	t.Run("keys, size, exit code", func(t *testing.T) {
		sh, keys := open(t, "shell", s.id)
		write := func(text string) {
			t.Helper()
			if _, err := io.WriteString(keys, text); err != nil {
				t.Fatal(err)
			}
		}
		sh.until("$ ")
		write("stty -echo; stty size; echo $TERM\r")
		sh.until("31 99\r\nxterm\r\n")
		if err := pty.Setsize(keys, &pty.Winsize{Rows: 50, Cols: 120}); err != nil {
			t.Fatal(err)
		}
		write("until [ \"$(stty size)\" = '50 120' ]; do :; done; echo resi''zed\r")
		sh.until("resized\r\n")
		write("sh -c 'echo start; exec sleep 1000'\r") // one job, which has the terminal when it prints
		sh.until("start\r\n")
		write("\x03")
		sh.until("$ ")
		write("exit 9\r")
		sh.end(0, 9)
	})
	t.Run("the way out", func(t *testing.T) {
		sh, keys := open(t, "exec", "-it", s.id, "--", "sleep", "1000")
		eventually(t, s.ctx, "the command", usual, func() (bool, string) {
			return strings.Contains(strings.Join(s.info().AwakeBecause, " "), "terminal"), ""
		})
		if _, err := io.WriteString(keys, "\r~."); err != nil {
			t.Fatal(err)
		}
		sh.end(0, 125)
		contains(t, "said", sh.printed, "disconnected")
	})
	t.Run("a session that goes", func(t *testing.T) {
		sh, _ := open(t, "shell", s.id)
		sh.until("$ ")
		status(t, s.drop(), 200)
		sh.end(0, 125)
		contains(t, "said", sh.printed, "the session has ended")
	})
	t.Run("no terminal", func(t *testing.T) {
		x := x.in(t)
		x.want(x.run("", "shell", s.id), 125, "", "wants a terminal")
	})
	t.Run("top", func(t *testing.T) {
		watch, keys := open(t, "top")
		watch.until("SESSION")
		if _, err := io.WriteString(keys, "mq"); err != nil {
			t.Fatal(err)
		}
		watch.end(0, 0)
		contains(t, "screen", watch.printed, "\x1b[?1049l")
	})
}

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// TestCommandLineTour runs the commands of docs/cli.md.
func TestCommandLineTour(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/cli.md")
	if err != nil {
		t.Fatal(err)
	}
	script := "set -euo pipefail\n"
	for _, block := range shellBlock.FindAllStringSubmatch(string(text), -1) {
		script += block[1]
	}
	// Its lists show all of the account's sessions, which others would not want dropped.
	api := ownAccount(t, deadline(t, usual), "tour")
	x := newTool(t, api.Key)
	cmd := exec.CommandContext(x.ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = x.dir, append(x.env, "URL="+system.base, "KEY="+api.Key)
	out, err := cmd.CombinedOutput()
	for _, id := range sessionIDs.FindAllString(string(out), -1) {
		dropLater(t, api, id)
	}
	if err != nil {
		t.Fatalf("%v\n%s\n%s", err, script, out)
	}
	for _, want := range regexp.MustCompile(`(?m)^# prints: (.*)$`).FindAllStringSubmatch(string(text), -1) {
		contains(t, "output of the tour", string(out), want[1])
	}
}
