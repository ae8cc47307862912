// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// tokenServer answers every request with its process id and a token of this
// one process.
const tokenServer = `
	const token = process.pid + " " + crypto.randomUUID();
	Bun.serve({ port: 8080, fetch: () => new Response(token) });
`

// TestBackground: every way to have a server is answered at once, and the
// server stays.
func TestBackground(t *testing.T) {
	t.Parallel()
	cases := map[string]string{
		"Bun.serve":      `Bun.serve({ port: 8080, fetch: () => new Response("served") }); console.log("listening")`,
		"export default": `console.log("listening"); export default { port: 8080, fetch: () => new Response("served") }`,
		"node:http":      `import { createServer } from "node:http"; createServer((_, res) => res.end("served")).listen(8080); console.log("listening")`,
		"after an await": `await Bun.sleep(100); Bun.serve({ port: 8080, fetch: () => new Response("served") }); await Bun.sleep(100); console.log("listening")`,
		"listening late": `import { createServer } from "node:http"; const s = createServer((_, res) => res.end("served")); setTimeout(() => { console.log("listening"); s.listen(8080) }, 300)`,
		"a child's": `
			await Bun.write("child.ts", 'Bun.serve({ port: 8080, fetch: () => new Response("served") }); console.log("up")');
			const child = Bun.spawn(["bun", "child.ts"], { stdout: "pipe" });
			for await (const _ of child.stdout) break;
			console.log("listening");`,
	}
	for name, code := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			begin := time.Now()
			r := s.background(code)
			within(t, "time of the answer", time.Since(begin), 0, 10*time.Second)
			contains(t, "stdout", r.Stdout, "listening\n")
			equal(t, "timedOut", r.TimedOut, false)
			equal(t, "preview", string(s.fetch("/").Body), "served")
			equal(t, "another execution", s.print(`console.log(await (await fetch("http://localhost:8080/")).text())`), "served\n")
			equal(t, "state", decode[execution](t, s.get("/executions/"+r.ExecutionID)).State, "background")
			if !slices.ContainsFunc(s.processes(), func(p process) bool { return p.ExecutionID == r.ExecutionID && slices.Contains(p.Ports, 8080) }) {
				t.Errorf("no process of the execution with port 8080 in %+v", s.processes())
			}
		})
	}
}

// TestBackgroundOnlyWhenEvaluated: a socket alone does not end an execution,
// nor does the end of the module alone.
func TestBackgroundOnlyWhenEvaluated(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	cases := map[string]struct{ code, stdout string }{
		"a server that is stopped again": {`const s = Bun.serve({ port: 8080, fetch: () => new Response("own") }); console.log(await (await fetch(s.url)).text()); await Bun.sleep(500); await s.stop(true); console.log("end")`, "own\nend\n"},
		"a timer":                        {`setTimeout(() => console.log("end"), 700); console.log("begin")`, "begin\nend\n"},
		"a connection":                   {`fetch("http://localhost:1").catch(() => {}); setTimeout(() => console.log("end"), 300)`, "end\n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := s.in(t).code(c.code)
			equal(t, "stdout", s.in(t).well(r), c.stdout)
			equal(t, "background", r.Background, false)
			equal(t, "reason", r.Reason, "exit")
		})
	}
}

// TestBackgroundOutlivesTimeout: the timeout is for the answer, not for what
// stays in the background.
func TestBackgroundOutlivesTimeout(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	r := s.execute(M{"code": tokenServer, "timeout": 5})
	equal(t, "background", r.Background, true)
	token := string(s.fetch("/").Body)
	s.print(`await Bun.sleep(6000)`)
	equal(t, "after the timeout", string(s.fetch("/").Body), token)
}

// TestCommandLeavesChild: a child left behind neither holds the answer nor dies.
func TestCommandLeavesChild(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		command string
		left    int // processes that stay, shells included
	}{
		"ampersand":     {`sleep 1000 & echo started`, 1},
		"nohup":         {`nohup sleep 1000 >/dev/null 2>&1 & echo started`, 1},
		"setsid":        {`setsid sleep 1000 & echo started`, 1},
		"open pipes":    {`(sleep 1000; echo never) & echo started`, 2},
		"a grandchild":  {`sh -c 'sleep 1000 & exit' ; echo started`, 1},
		"many of them":  {`for i in 1 2 3 4 5; do sleep 1000 & done; echo started`, 5},
		"with a server": {`bun -e 'Bun.serve({ port: 8080, fetch: () => new Response("x") })' & echo started`, 1},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSession(t)
			reply := s.post("/execute", M{"command": c.command})
			r := decode[execution](t, reply)
			equal(t, "stdout", s.well(r), "started\n")
			within(t, "time of the answer", reply.Took, 0, 10*time.Second)
			// The answer may come before a child has become its program, or a shell
			// in between has gone.
			eventually(t, s.ctx, "the children in the list", 20*time.Second, func() (bool, string) {
				left := s.processes()
				programs := 0
				for _, p := range left {
					if p.ExecutionID == r.ExecutionID && (strings.HasPrefix(p.Command, "sleep") || strings.HasPrefix(p.Command, "bun")) {
						programs++
					}
				}
				return len(left) == c.left && programs >= (c.left+1)/2, brief(left)
			})
			s.print(`1`)
			equal(t, "processes after another execution", len(s.processes()), c.left)
		})
	}
}

// TestCodeLeavesChild: the same for code whose own process ends.
func TestCodeLeavesChild(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	reply := s.post("/execute", M{"code": `Bun.spawn(["sleep", "1000"], { stdio: ["ignore", "inherit", "inherit"] }).unref(); console.log("started")`})
	r := decode[execution](t, reply)
	equal(t, "stdout", s.well(r), "started\n")
	within(t, "time of the answer", reply.Took, 0, 10*time.Second)
	left := s.processes()
	equal(t, "processes", len(left), 1)
	contains(t, "command", left[0].Command, "sleep 1000")
}

// TestBackgroundSeveral: a session may have several servers, and one more
// Bun.serve on a taken port is an ordinary error.
func TestBackgroundSeveral(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for port := 8080; port < 8083; port++ {
		s.background(fmt.Sprintf(`Bun.serve({ port: %d, fetch: () => new Response("%d") })`, port, port))
	}
	for port := 8080; port < 8083; port++ {
		equal(t, "answer", string(s.fetchPort(port, "/").Body), fmt.Sprint(port))
	}
	equal(t, "processes", len(s.processes()), 3)
	r := s.code(`Bun.serve({ port: 8081, fetch: () => new Response("x") })`)
	equal(t, "exitCode", r.ExitCode, 1)
	equal(t, "background", r.Background, false)
	contains(t, "stderr", r.Stderr, "8081")
}
