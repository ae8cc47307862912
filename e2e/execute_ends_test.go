// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestEndsAsBunRun compares code with the same text in a file, run by `bun run`
// in the same session: output, errors and exit code are the same but for the
// file's name.
func TestEndsAsBunRun(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	cases := map[string]struct {
		code string
		exit int
	}{
		"throw":                   {"console.log('before');\nfunction f() { throw new TypeError('boom') }\nf();\nconsole.log('after')", 1},
		"throw after await":       {"await Bun.sleep(5);\nthrow new RangeError('late')", 1},
		"throw in a timer":        {"setTimeout(() => { throw new Error('timer') }, 5);\nconsole.log('set')", 1},
		"throw no error":          {"throw 'just text'", 1},
		"throw with cause":        {"throw new Error('outer', { cause: new Error('inner') })", 1},
		"aggregate error":         {"await Promise.any([Promise.reject(new Error('a')), Promise.reject(new Error('b'))])", 1},
		"own error class":         {"class Odd extends Error { name = 'Odd'; code = 7 }\nthrow new Odd('mine')", 1},
		"unhandled rejection":     {"Promise.reject(new Error('nobody'));\nawait Bun.sleep(1);\nconsole.log('on')", 1},
		"syntax error":            {"const a = ;", 1},
		"missing module":          {"import x from './nowhere';\nconsole.log(x)", 1},
		"missing export":          {"import { nothing } from 'node:path';\nconsole.log(nothing)", 1},
		"undeclared name":         {"console.log(undeclared)", 1},
		"process.exit":            {"console.log('a');\nprocess.exit(7);\nconsole.log('b')", 7},
		"process.exit(0)":         {"setInterval(() => {}, 1000);\nprocess.exit(0)", 0},
		"process.exit in a timer": {"setTimeout(() => process.exit(9), 5)", 9},
		"process.exitCode":        {"process.exitCode = 5;\nconsole.log('x')", 5},
		"exit(256)":               {"process.exit(256)", 0},
		"exit handler":            {"process.on('exit', (c) => console.log('bye', c));\nprocess.exit(3)", 3},
		"beforeExit":              {"process.on('beforeExit', () => console.log('before'));\nconsole.log('x')", 0},
		"uncaught handler":        {"process.on('uncaughtException', (e) => console.log('caught', e.message));\nsetTimeout(() => { throw new Error('x') }, 1)", 0},
		"timer keeps it alive":    {"setTimeout(() => console.log('late'), 200);\nconsole.log('early')", 0},
		"not a module":            {"console.log(typeof this, typeof module, require('path').sep)", 0},
		"a module":                {"import 'node:fs';\nconsole.log(typeof this)", 0},
		"console":                 {"console.log({ a: [1, { b: 2 }] }, [new Map([[1, 2]])], 'x', 1n);\nconsole.table([{ a: 1 }]);\nconsole.warn('w');\nconsole.info('i')", 0},
		"colors":                  {"console.log(process.stdout.isTTY, Bun.inspect({ a: 'x' }, { colors: false }))", 0},
		"child process":           {"console.log(Bun.spawnSync(['sh', '-c', 'echo out; echo err >&2; exit 4']).exitCode);\nawait Bun.$`echo shell`", 0},
		"worker":                  {"const w = new Worker(URL.createObjectURL(new Blob(['postMessage(6*7)'])));\nw.onmessage = (e) => { console.log(e.data); w.terminate() }", 0},
		"arguments":               {"console.log(process.argv.length)", 0},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			s.write("plain.ts", c.code)
			plain := s.command("bun run plain.ts")
			got := s.code(c.code)
			equal(t, "stdout", anonymous(got.Stdout), anonymous(plain.Stdout))
			equal(t, "stderr", anonymous(got.Stderr), anonymous(plain.Stderr))
			equal(t, "exitCode", got.ExitCode, plain.ExitCode)
			equal(t, "exitCode", got.ExitCode, c.exit)
			equal(t, "reason", got.Reason, "exit")
		})
	}
}

// anonymous takes the name of the entry file out of a text.
func anonymous(text string) string {
	return regexp.MustCompile(`/workspace/[^\s'":()]+\.[jt]s`).ReplaceAllString(text, "ENTRY")
}

// TestEndsUncaught: what a user sees, not only that it is the same as elsewhere.
func TestEndsUncaught(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	r := s.code("console.log('before');\nfunction f() { throw new TypeError('boom') }\nf();")
	equal(t, "exitCode", r.ExitCode, 1)
	equal(t, "stdout", r.Stdout, "before\n")
	for _, part := range []string{"TypeError: boom", "throw new TypeError('boom')", "2 | ", ":3:1", "/workspace/"} {
		contains(t, "stderr", r.Stderr, part)
	}
	for _, part := range []string{"gate.ts", "buntime-init", "/run/buntime"} {
		if strings.Contains(r.Stderr, part) {
			t.Errorf("stderr shows our own %s: %s", part, r.Stderr)
		}
	}
}

func TestEndsBySignal(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for name, number := range map[string]int{"SIGTERM": 15, "SIGKILL": 9, "SIGINT": 2, "SIGHUP": 1, "SIGABRT": 6, "SIGUSR2": 12} {
		t.Run(name, func(t *testing.T) {
			r := s.in(t).code(fmt.Sprintf(`console.log("before"); process.kill(process.pid, "%s"); await Bun.sleep(20_000)`, name))
			equal(t, "exitCode", r.ExitCode, 128+number)
			equal(t, "reason", r.Reason, "signal")
			equal(t, "stdout", r.Stdout, "before\n")
			equal(t, "timedOut", r.TimedOut, false)
		})
	}
	t.Run("command", func(t *testing.T) {
		r := s.in(t).command(`echo before; kill -KILL $$`)
		equal(t, "exitCode", r.ExitCode, 137)
		equal(t, "reason", r.Reason, "signal")
		equal(t, "stdout", r.Stdout, "before\n")
	})
	t.Run("handled", func(t *testing.T) {
		r := s.in(t).code(`process.on("SIGTERM", () => { console.log("handled"); process.exit(0) }); process.kill(process.pid, "SIGTERM"); await Bun.sleep(20_000)`)
		equal(t, "exitCode", r.ExitCode, 0)
		equal(t, "reason", r.Reason, "exit")
		equal(t, "stdout", r.Stdout, "handled\n")
	})
}

// TestTimeout: the answer comes with what there is, and nothing of the whole
// tree lives on, not even what fled into a session of its own.
func TestTimeout(t *testing.T) {
	t.Parallel()
	beat := `while :; do echo x >>%s; sleep 0.05; done`
	cases := map[string]M{
		"code that waits": {"code": `
			Bun.spawn(["sh", "-c", ` + quote(fmt.Sprintf(beat, "child")) + `]);
			Bun.spawn(["setsid", "sh", "-c", ` + quote(fmt.Sprintf(beat, "fled")) + `]).unref();
			console.log("before"); console.error("before");
			await Bun.sleep(25_000);
		`},
		"code that spins": {"code": `
			Bun.spawn(["sh", "-c", ` + quote(fmt.Sprintf(beat, "child")) + `]);
			Bun.spawn(["sh", "-c", ` + quote("trap '' TERM INT HUP; "+fmt.Sprintf(beat, "fled")) + `]);
			console.log("before"); console.error("before");
			await Bun.sleep(50);
			for (;;);
		`},
		"command": {"command": fmt.Sprintf(beat, "child") + " & setsid sh -c '" + fmt.Sprintf(beat, "fled") + "' & echo before; echo before >&2; wait"},
	}
	for name, body := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			body["timeout"] = 5
			reply := s.post("/execute", body)
			r := decode[execution](t, reply)
			equal(t, "timedOut", r.TimedOut, true)
			equal(t, "exitCode", r.ExitCode, 124)
			equal(t, "reason", r.Reason, "timeout")
			equal(t, "background", r.Background, false)
			equal(t, "stdout", r.Stdout, "before\n")
			equal(t, "stderr", r.Stderr, "before\n")
			within(t, "executionTime", r.ExecutionTime, 4950, 8000)
			within(t, "time of the answer", reply.Took, 4900*time.Millisecond, 10*time.Second)

			equal(t, "processes", s.processes(), []process{})
			// Both had written, and neither writes any more.
			equal(t, "files grown", s.print(`
				const size = () => [Bun.file("child").size, Bun.file("fled").size];
				const before = size();
				await Bun.sleep(400);
				const after = size();
				console.log(before.every((n) => n > 0), after[0] - before[0], after[1] - before[1]);
			`), "true 0 0\n")
			equal(t, "state", decode[execution](t, s.get("/executions/"+r.ExecutionID)).State, "exited")
		})
	}
	t.Run("just in time", func(t *testing.T) {
		t.Parallel()
		r := newSession(t).execute(M{"timeout": 5, "code": `await Bun.sleep(1000); console.log("done")`})
		equal(t, "timedOut", r.TimedOut, false)
		equal(t, "stdout", r.Stdout, "done\n")
	})
	t.Run("longer than a client's usual patience", func(t *testing.T) {
		t.Parallel()
		// The server has no deadline of its own below the execution's.
		r := newSession(t).execute(M{"timeout": 45, "code": `await Bun.sleep(31_000); console.log("done")`})
		equal(t, "stdout", r.Stdout, "done\n")
		equal(t, "timedOut", r.TimedOut, false)
	})
}
