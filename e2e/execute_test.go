// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestExecuteAnswer(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	reply := s.post("/execute", M{"code": `console.log("out"); console.error("err"); console.log(process.pid)`})
	got := decode[execution](t, reply)
	keys(t, "answer", reply.Body, []string{
		"stdout", "stderr", "exitCode", "executionTime", "memoryUsed", "cpuTime", "timedOut", "filesWritten",
		"executionId", "pid", "background", "reason", "truncated",
	}, nil)
	var parts map[string]json.RawMessage
	if err := json.Unmarshal(reply.Body, &parts); err != nil {
		t.Fatal(err)
	}
	keys(t, "truncated", parts["truncated"], []string{"stdout", "stderr"}, nil)

	equal(t, "stdout", got.Stdout, fmt.Sprintf("out\n%d\n", got.PID))
	equal(t, "stderr", got.Stderr, "err\n")
	equal(t, "exitCode", got.ExitCode, 0)
	equal(t, "timedOut", got.TimedOut, false)
	equal(t, "background", got.Background, false)
	equal(t, "reason", got.Reason, "exit")
	equal(t, "truncated", got.Truncated.Stdout+got.Truncated.Stderr, 0)
	equal(t, "filesWritten", string(parts["filesWritten"]), "[]")
	within(t, "executionTime in ms", got.ExecutionTime, 0, float64(reply.Took.Milliseconds()+1))
	if !regexp.MustCompile(`^[A-Za-z0-9_-]{8,64}$`).MatchString(got.ExecutionID) {
		t.Errorf("executionId is %q", got.ExecutionID)
	}
}

func TestExecuteOutput(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	cases := []struct {
		name, code, stdout, stderr string
	}{
		{"nothing", `// nothing`, "", ""},
		{"not trimmed", `process.stdout.write("\n\n  a  \n\n"); process.stderr.write(" \t\r\n")`, "\n\n  a  \n\n", " \t\r\n"},
		{"no final newline", `process.stdout.write("a"); process.stderr.write("b")`, "a", "b"},
		{"unicode", `console.log("añ€😀 עברית 中文"); console.error("\u2028|\u0000|\u001b[31m")`, "añ€😀 עברית 中文\n", "\u2028|\x00|\x1b[31m\n"},
		{"template literal", "console.log(`a${1 + 1}\n\\`b`)", "a2\n`b\n", ""},
		{"crlf source", "console.log(1)\r\nconsole.log(2)\r\n", "1\n2\n", ""},
		{"comment at the end", `console.log(1) // end`, "1\n", ""},
		{"shebang", "#!/usr/bin/env bun\nconsole.log(1)", "1\n", ""},
		{"bytes in turn", `for (let i = 0; i < 200; i++) process.stdout.write(String(i % 10))`, strings.Repeat("0123456789", 20), ""},
		{"just below the cut", `process.stdout.write("x".repeat(1 << 20))`, strings.Repeat("x", 1<<20), ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := s.in(t).code(c.code)
			equal(t, "stdout", r.Stdout, c.stdout)
			equal(t, "stderr", r.Stderr, c.stderr)
			equal(t, "exitCode", r.ExitCode, 0)
			equal(t, "truncated", r.Truncated.Stdout+r.Truncated.Stderr, 0)
		})
	}
	t.Run("no UTF-8", func(t *testing.T) {
		r := s.in(t).code(`process.stdout.write(Buffer.from([0x61, 0xff, 0x62]))`)
		equal(t, "stdout", r.Stdout, "a\ufffdb")
	})
}

// TestExecuteTruncated: the middle goes, the ends stay, and the journal has
// the whole.
func TestExecuteTruncated(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	const lines, width = 300_000, 11 // 3.3 MB
	r := s.code(`
		let all = "";
		for (let i = 0; i < 300_000; i++) all += String(i).padStart(10, "0") + "\n";
		await Bun.write(Bun.stdout, all);
		console.error("short");
	`)
	equal(t, "stderr", r.Stderr, "short\n")
	equal(t, "exitCode", r.ExitCode, 0)
	equal(t, "truncated.stderr", r.Truncated.Stderr, 0)
	within(t, "length of stdout", len(r.Stdout), 1<<20-4096, 1<<20+4096)
	if missing := int64(lines*width) - r.Truncated.Stdout; missing > int64(len(r.Stdout)) || r.Truncated.Stdout <= 0 {
		t.Errorf("truncated.stdout is %d of %d bytes, with %d shown", r.Truncated.Stdout, lines*width, len(r.Stdout))
	}
	equal(t, "begin", r.Stdout[:2*width], "0000000000\n0000000001\n")
	equal(t, "end", r.Stdout[len(r.Stdout)-2*width:], "0000299998\n0000299999\n")

	whole := s.output(r.ExecutionID, "")
	equal(t, "length of the journal's stdout", len(whole.stdout), lines*width)
	for i, line := range slices.Collect(strings.SplitSeq(strings.TrimSuffix(whole.stdout, "\n"), "\n")) {
		if line != fmt.Sprintf("%010d", i) {
			t.Fatalf("line %d of the journal is %q", i, line)
		}
	}
	equal(t, "the journal's stderr", whole.stderr, "short\n")
}

func TestExecuteEnvironment(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	t.Run("env is this execution's only", func(t *testing.T) {
		s := s.in(t)
		env := M{"FOO": "bar", "EMPTY": "", "UNICODE": "ü😀", "SPACES": " a\nb ", "QUOTE": `"'$(id)`}
		r := s.execute(M{"env": env, "code": `console.log(JSON.stringify([process.env.FOO, process.env.EMPTY, Bun.env.UNICODE, process.env.SPACES, process.env.QUOTE]))`})
		equal(t, "in code", r.Stdout, `["bar","","ü😀"," a\nb ","\"'$(id)"]`+"\n")
		r = s.execute(M{"env": env, "command": `printf '%s|%s|%s|%s|%s' "$FOO" "$EMPTY" "$UNICODE" "$SPACES" "$QUOTE"`})
		equal(t, "in a command", r.Stdout, "bar||ü😀| a\nb |\"'$(id)")
		equal(t, "afterwards", s.print(`console.log(process.env.FOO, process.env.UNICODE)`), "undefined undefined\n")
		equal(t, "afterwards in a command", s.shell(`printf '%s' "${FOO-unset}"`), "unset")
	})
	t.Run("a changed environment of the process is not kept", func(t *testing.T) {
		s := s.in(t)
		s.print(`process.env.LEFT = "over"; globalThis.left = 1`)
		equal(t, "afterwards", s.print(`console.log(process.env.LEFT, typeof globalThis.left)`), "undefined undefined\n")
	})
	t.Run("cwd", func(t *testing.T) {
		s := s.in(t)
		equal(t, "in code", s.print(`console.log(process.cwd())`), "/workspace\n")
		equal(t, "in a command", s.shell(`pwd`), "/workspace\n")
	})
	t.Run("stdin is at its end", func(t *testing.T) {
		s := s.in(t)
		equal(t, "in code", s.print(`console.log((await Bun.stdin.text()).length)`), "0\n")
		equal(t, "in a command", s.shell(`cat; read x || echo end`), "end\n")
	})
	t.Run("tools", func(t *testing.T) {
		s := s.in(t)
		equal(t, "bun and node are Bun", s.shell(`bun -e 'console.log(Bun.version === process.versions.bun)' && node -e 'console.log(typeof Bun)'`), "true\nobject\n")
		s.shell(`command -v bunx && command -v sh && command -v tar && command -v sed`)
	})
	t.Run("no secret of the host", func(t *testing.T) {
		r := s.in(t).shell(`env`)
		for _, word := range []string{"CONSUL", "NOMAD_TOKEN", "BUNTIME_NODE_SECRET", "btk_", "AWS_", "OS_PASSWORD"} {
			if strings.Contains(r, word) {
				t.Errorf("the environment has %s: %s", word, r)
			}
		}
	})
}

func TestExecuteWorkingDir(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("sub/dir/value.ts", `export const value = "from sub/dir";`)
	s.write("value.ts", `export const value = "from the root";`)
	code := `import { value } from "./value"; console.log(process.cwd(), value, import.meta.dir)`
	for given, want := range map[string]string{
		"sub/dir":            "/workspace/sub/dir from sub/dir /workspace/sub/dir\n",
		"./sub/dir":          "/workspace/sub/dir from sub/dir /workspace/sub/dir\n",
		"/workspace/sub/dir": "/workspace/sub/dir from sub/dir /workspace/sub/dir\n",
		"/workspace":         "/workspace from the root /workspace\n",
		".":                  "/workspace from the root /workspace\n",
	} {
		t.Run(given, func(t *testing.T) {
			s := s.in(t)
			equal(t, "code", s.well(s.execute(M{"workingDir": given, "code": code})), want)
			dir, _, _ := strings.Cut(want, " ")
			equal(t, "command", s.well(s.execute(M{"workingDir": given, "command": "pwd"})), dir+"\n")
		})
	}
	equal(t, "the next execution", s.print(code), "/workspace from the root /workspace\n")
}

func TestExecuteCommand(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	cases := []struct {
		name, command, stdout, stderr string
		exitCode                      int
	}{
		{"pipe", `printf 'b\na\n' | sort | tr a-z A-Z`, "A\nB\n", "", 0},
		{"both streams", `echo out; echo err >&2`, "out\n", "err\n", 0},
		{"exit code", `exit 42`, "", "", 42},
		{"last one counts", `false; true`, "", "", 0},
		{"false", `false`, "", "", 1},
		{"variables and quotes", `x='a  b'; echo "$x" '$x'`, "a  b $x\n", "", 0},
		{"several lines", "cat <<EOF\none\ntwo\nEOF", "one\ntwo\n", "", 0},
		{"glob and redirection", `mkdir -p g && : >g/1 && : >g/2 && echo g/*`, "g/1 g/2\n", "", 0},
		{"killed by a signal", `kill -9 $$`, "", "", 137},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			r := s.in(t).command(c.command)
			equal(t, "stdout", r.Stdout, c.stdout)
			equal(t, "stderr", r.Stderr, c.stderr)
			equal(t, "exitCode", r.ExitCode, c.exitCode)
		})
	}
	t.Run("unknown program", func(t *testing.T) {
		r := s.in(t).command(`no-such-program`)
		equal(t, "exitCode", r.ExitCode, 127)
		contains(t, "stderr", r.Stderr, "not found")
	})
	t.Run("runs a file", func(t *testing.T) {
		r := s.in(t).execute(M{
			"files":   []M{{"path": "index.ts", "content": `import { add } from "./lib/add"; console.log("Result:", add(5, 3));`}, {"path": "lib/add.ts", "content": `export const add = (a: number, b: number): number => a + b;`}},
			"command": "bun run index.ts",
		})
		equal(t, "stdout", r.Stdout, "Result: 8\n")
	})
}

func TestExecuteFiles(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	content := "line\r\n\ttab € 😀\x00end"
	s.write("existing.txt", "old")
	r := s.execute(M{
		"files": []M{
			{"path": "new/deep/a.txt", "content": content},
			{"path": "./existing.txt", "content": "new"},
			{"path": "/workspace/abs.txt", "content": ""},
		},
		"code": `console.log(JSON.stringify([await Bun.file("new/deep/a.txt").text(), await Bun.file("existing.txt").text(), Bun.file("abs.txt").size]))`,
	})
	var got []any
	if err := json.Unmarshal([]byte(r.Stdout), &got); err != nil {
		t.Fatalf("%v: %s", err, r.Stdout)
	}
	equal(t, "in code", got, []any{content, "new", 0.0})
	equal(t, "through the API", s.read("new/deep/a.txt"), content)

	t.Run("all or nothing to run", func(t *testing.T) {
		s := s.in(t)
		refusedField(t, s.post("/execute", M{
			"files": []M{{"path": "../out.txt", "content": "x"}},
			"code":  `await Bun.write("ran.txt", "ran")`,
		}), "files.0.path")
		status(t, s.get("/files/read", "path", "ran.txt"), 404)
	})
}

func TestExecuteFilesWritten(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.write("kept.txt", "kept")
	s.write("changed.txt", "old")
	s.write("dir/read.txt", "read")
	sorted := func(r execution) []string {
		s.well(r)
		slices.Sort(r.FilesWritten)
		return r.FilesWritten
	}
	equal(t, "by code", sorted(s.code(`
		await Bun.write("new.txt", "1");
		await Bun.write("out/deep/new.txt", "2");
		await Bun.write("changed.txt", "new");
		await Bun.file("dir/read.txt").text();
	`)), []string{"changed.txt", "new.txt", "out/deep/new.txt"})
	equal(t, "by a command", sorted(s.command(`echo x >>changed.txt; mkdir -p d; echo y >d/e; cat kept.txt >/dev/null`)), []string{"changed.txt", "d/e"})
	equal(t, "by nothing", sorted(s.code(`1`)), []string{})
}

func TestExecuteLargeCode(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	text := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	equal(t, "length", s.print(`const text = "`+text+`"; console.log(text.length, text.slice(-4));`), "1048576 cdef\n")
	r := s.execute(M{"files": []M{{"path": "big.txt", "content": text}}, "command": "wc -c <big.txt"})
	equal(t, "file", strings.TrimSpace(r.Stdout), "1048576")
}

func TestExecuteHundredInARow(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	seen := map[string]bool{}
	for i := range 100 {
		r := s.code(fmt.Sprintf(`const n: number = %d; console.log(n * 2); await Bun.write("n.txt", String(n))`, i))
		equal(t, "stdout", s.well(r), fmt.Sprintf("%d\n", i*2))
		if seen[r.ExecutionID] {
			t.Fatalf("execution %d has an id that was there before: %s", i, r.ExecutionID)
		}
		seen[r.ExecutionID] = true
	}
	equal(t, "the last file", s.read("n.txt"), "99")
	equal(t, "processes left", len(s.processes()), 0)
}

// TestExecuteTogether: two executions that need each other end only if they
// run at the same time.
func TestExecuteTogether(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	meet := func(own, other string) string {
		return `await Bun.write(` + quote(own) + `, "here");` + untilFile(other) + `console.log(` + quote(own) + `)`
	}
	first := s.begin(M{"code": meet("first", "second")})
	second := s.begin(M{"command": `echo here >second; until [ -e first ]; do sleep 0.02; done; echo second`})
	equal(t, "first", s.well(first.result()), "first\n")
	equal(t, "second", s.well(second.result()), "second\n")

	t.Run("outputs do not mix", func(t *testing.T) {
		s := s.in(t)
		var runs []*started
		for i := range 8 {
			runs = append(runs, s.begin(M{"env": M{"N": fmt.Sprint(i)}, "code": `for (let i = 0; i < 100; i++) { console.log(process.env.N); await 0 }`}))
		}
		for i, run := range runs {
			equal(t, "stdout", s.well(run.result()), strings.Repeat(fmt.Sprintln(i), 100))
		}
	})
}

// TestExecutionByID: the journal gives the answer again.
func TestExecutionByID(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	r := s.code(`console.log("out"); console.error("err"); process.exit(3)`)
	reply := s.get("/executions/" + r.ExecutionID)
	got := decode[execution](t, reply)
	equal(t, "state", got.State, "exited")
	got.State = ""
	equal(t, "execution", got, r)

	t.Run("running", func(t *testing.T) {
		s := s.in(t)
		run := s.begin(M{"code": `console.log("before"); await Bun.write("running", String(process.pid)); ` + untilFile("go") + ` console.log("after")`})
		s.waitFor("running")
		p := s.processes()
		equal(t, "processes", len(p), 1)
		got := decode[execution](t, s.get("/executions/"+p[0].ExecutionID))
		equal(t, "state", got.State, "running")
		equal(t, "stdout so far", got.Stdout, "before\n")
		equal(t, "pid", got.PID, p[0].PID)
		s.write("go", "")
		r := run.result()
		equal(t, "executionId", r.ExecutionID, p[0].ExecutionID)
		equal(t, "stdout", r.Stdout, "before\nafter\n")
	})
	t.Run("unknown", func(t *testing.T) {
		s := s.in(t)
		for _, id := range []string{"exe_unknown", strings.Repeat("x", 300), "%00", "..."} {
			refusal(t, s.get("/executions/"+id), 404, "execution_not_found")
			refusal(t, s.get("/executions/"+id+"/output"), 404, "execution_not_found")
		}
	})
	t.Run("another session's", func(t *testing.T) {
		other := newSession(t)
		refusal(t, other.get("/executions/"+r.ExecutionID), 404, "execution_not_found")
	})
}

// TestExecuteHistory: /workspace/.buntime holds the history, out of sight.
func TestExecuteHistory(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	equal(t, "files before", names(s.list()), []string{})
	r := s.code(`console.log("marker-" + "in-output"); // marker-in-code`)
	equal(t, "root listing", names(s.list()), []string{})
	equal(t, "filesCount", s.info().FilesCount, 0)

	all := ""
	for _, f := range s.list("path", ".buntime/executions/"+r.ExecutionID) {
		equal(t, "type of "+f.Path, f.Type, "file")
		all += s.read(f.Path)
	}
	contains(t, "history, code", all, "marker-in-code")
	contains(t, "history, output", all, "marker-in-output")
	contains(t, "history, result", all, `"exitCode"`)

	server := s.background(`Bun.serve({ port: 8080, fetch: () => new Response("x") })`)
	record := s.read(fmt.Sprintf(".buntime/processes/%d.json", server.PID))
	var p map[string]any
	if err := json.Unmarshal([]byte(record), &p); err != nil {
		t.Fatalf("process record: %v: %s", err, record)
	}
	contains(t, "process record", record, server.ExecutionID)
	equal(t, "root listing", names(s.list()), []string{})
}
