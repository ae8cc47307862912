// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/sandbox"
)

// newGVisorFixture is newFixture with isolation "gvisor". At its end nothing of
// gVisor may be left.
func newGVisorFixture(t testing.TB) *fixture {
	t.Helper()
	return newGVisorFixtureOf(t, fixtureOptions{})
}

func newGVisorFixtureOf(t testing.TB, o fixtureOptions) *fixture {
	t.Helper()
	var f *fixture
	t.Cleanup(func() { // after those of the fixture
		if f == nil {
			return
		}
		if left := processesNaming(t, f.config.StateDir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if mounts := read(t, "/proc/self/mountinfo"); strings.Contains(mounts, f.config.StateDir) {
			t.Errorf("mounts below %s are left", f.config.StateDir)
		}
	})
	o.configure = func(config *driver.Config) {
		config.Network.Pool = netip.MustParsePrefix("198.18.208.0/20") // apart from the other tests'
		config.Runsc = tool(t, "e2e/tools/get", "runsc")
	}
	o.change = func(task *driver.Task) { task.Isolation = driver.IsolationGVisor }
	f = newFixtureOf(t, o)
	return f
}

func read(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// processesNaming lists the processes with text in their arguments.
func processesNaming(t testing.TB, text string) []string {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, name := range names {
		b, _ := os.ReadFile(name) // one that is gone has none
		if strings.Contains(string(b), text) {
			found = append(found, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}

// try is run for executions that do not end well.
func (f *fixture) try(t testing.TB, req map[string]any, out any) int {
	t.Helper()
	executions++
	req["executionId"] = fmt.Sprintf("exec_%d", executions)
	return f.call(t, "POST", "/v1/execute", req, out)
}

func TestGVisorExecutions(t *testing.T) {
	f := newGVisorFixture(t)
	for _, c := range []struct {
		name           string
		req            map[string]any
		stdout, stderr string
		code           int
		reason         string
	}{
		{"code", map[string]any{"code": "const x: number = 41; console.log(await Promise.resolve(x + 1)); console.error('e')"}, "42\n", "e\n", 0, "exit"},
		{"exit code of code", map[string]any{"code": "console.log(1); process.exit(7)"}, "1\n", "", 7, "exit"},
		{"command", map[string]any{"command": "id -u; pwd; echo e >&2; exit 3"}, "1000\n/workspace\n", "e\n", 3, "exit"},
		{"signal", map[string]any{"command": "kill -TERM $$"}, "", "", 143, "signal"},
		{"environment", map[string]any{"code": "console.log(process.env.A, Bun.argv.length)", "env": map[string]string{"A": "b"}}, "b 2\n", "", 0, "exit"},
		{"input files", map[string]any{"command": "cat a/b.txt", "files": []map[string]string{{"path": "a/b.txt", "content": "hello"}}}, "hello", "", 0, "exit"},
		{"children", map[string]any{"code": "console.log((await Bun.$`echo one | cat`.text()).trim())"}, "one\n", "", 0, "exit"},
		{"a kernel of its own", map[string]any{"command": "grep -o gvisor /proc/version"}, "gvisor\n", "", 0, "exit"},
		{"no privileges", map[string]any{"command": "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status | tr -d '\\t\\n'"}, "CapEff:0000000000000000CapBnd:0000000000000000NoNewPrivs:1", "", 0, "exit"},
		{"memory as limited", map[string]any{"code": "console.log(require('os').totalmem() >> 20)"}, "512\n", "", 0, "exit"},
		{"processors as limited", map[string]any{"code": "console.log(require('os').availableParallelism())"}, "1\n", "", 0, "exit"},
		{"system calls filtered", map[string]any{"command": "grep Seccomp: /proc/self/status | tr -d '\\t\\n'"}, "Seccomp:2", "", 0, "exit"},
		{"unix socket in the workspace", map[string]any{"code": `
			const s = Bun.serve({unix: '/workspace/s.sock', fetch: () => new Response('over unix')});
			console.log(await (await fetch('http://x/', {unix: '/workspace/s.sock'})).text()); process.exit(0)`}, "over unix\n", "", 0, "exit"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := f.run(t, c.req)
			if r.Stdout != c.stdout || r.Stderr != c.stderr || r.ExitCode != c.code || r.Reason != c.reason {
				t.Errorf("%+v", r)
			}
			if r.MemoryUsed <= 0 {
				t.Errorf("used %d bytes of memory, %d ms of CPU", r.MemoryUsed, r.CPUTime)
			}
		})
	}
}

// TestGVisorMeasures wants an execution's own use, not the sandbox's.
func TestGVisorMeasures(t *testing.T) {
	f := newGVisorFixture(t)
	quiet := f.run(t, map[string]any{"code": "console.log(1)"})
	busy := f.run(t, map[string]any{"code": "const b = Buffer.alloc(100 << 20, 1); const begin = process.cpuUsage(); for (let u = begin; u.user + u.system < 500_000;) u = process.cpuUsage(begin); console.log(b.length)"})
	if busy.MemoryUsed < quiet.MemoryUsed+80<<20 || busy.CPUTime < quiet.CPUTime+200 {
		t.Errorf("quiet: %d bytes, %d ms; busy: %d bytes, %d ms", quiet.MemoryUsed, quiet.CPUTime, busy.MemoryUsed, busy.CPUTime)
	}
}

// TestGVisorKillsTrees wants no process left of what ran out of time, daemons
// among them.
func TestGVisorKillsTrees(t *testing.T) {
	f := newGVisorFixture(t)
	r := f.run(t, map[string]any{"command": "setsid sh -c 'sleep 1000 & sleep 1000' & (setsid sleep 1000 &) ; echo begun; sleep 1000", "timeout": 8})
	if !r.TimedOut || r.ExitCode != exitTimeout || r.Stdout != "begun\n" {
		t.Errorf("%+v", r)
	}
	var list struct{ Processes []Process }
	f.call(t, "GET", "/v1/processes", nil, &list)
	if len(list.Processes) != 0 {
		t.Errorf("left: %+v", list.Processes)
	}
	// What a command leaves behind on purpose stays, and is found by its number.
	r = f.run(t, map[string]any{"command": "setsid sh -c 'sleep 1000; :' >/dev/null 2>&1 & echo $!"})
	f.awaitProcesses(t, 2) // sh and, soon, sleep
	pid, _ := strconv.Atoi(strings.TrimSpace(r.Stdout))
	var k Killed
	f.call(t, "POST", "/v1/kill", map[string]any{"pid": pid}, &k)
	if k.Killed != 2 {
		t.Errorf("killed %+v", k)
	}
	f.awaitProcesses(t, 0)
}

// awaitProcesses waits until the session has n processes.
func (f *fixture) awaitProcesses(t testing.TB, n int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		var list struct{ Processes []Process }
		f.call(t, "GET", "/v1/processes", nil, &list)
		if len(list.Processes) == n {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("processes %+v, want %d", list.Processes, n)
		}
	}
}

// get fetches from a port of the session through its preview.
func (f *fixture) get(t testing.TB, port int) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.task.Preview+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = fmt.Sprintf("%d-ses-test.example.org", port)
	res, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// TestGVisorServer keeps servers in the background, whatever address they are
// bound to, and through a freeze and a restart of the agent.
func TestGVisorServer(t *testing.T) {
	f := newGVisorFixture(t)
	for port, host := range map[int]string{8081: "127.0.0.1", 8082: "0.0.0.0", 8083: "::1"} {
		r := f.run(t, map[string]any{"code": fmt.Sprintf("Bun.serve({hostname: %q, port: %d, fetch: () => new Response('%d')})", host, port, port)})
		if !r.Background {
			t.Fatalf("%+v", r)
		}
		if status, body := f.get(t, port); status != 200 || body != strconv.Itoa(port) {
			t.Errorf("%s: %d %q", host, status, body)
		}
	}
	if status, body := f.get(t, 9999); status != 502 || !strings.Contains(body, "Nothing listens on port 9999") {
		t.Errorf("port of nobody: %d %q", status, body)
	}
	var before, after struct{ Processes []Process }
	f.call(t, "GET", "/v1/processes", nil, &before)
	if len(before.Processes) != 3 || len(before.Processes[0].Ports) != 1 {
		t.Errorf("processes %+v", before.Processes)
	}

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	group := f.instance.(*instance).box.Group()
	if err := group.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	var info Info // does not wait for who cannot answer
	if f.call(t, "GET", "/v1/info", nil, &info); info.ActiveProcesses != 3 {
		t.Errorf("frozen: %+v", info)
	}
	if err := group.Thaw(); err != nil {
		t.Fatal(err)
	}
	if status, body := f.get(t, 8081); status != 200 || body != "8081" {
		t.Errorf("after a freeze: %d %q", status, body)
	}

	f.restart(t)
	f.call(t, "GET", "/v1/processes", nil, &after)
	if len(after.Processes) != 3 || after.Processes[0].Pid != before.Processes[0].Pid || after.Processes[0].ExecutionID != before.Processes[0].ExecutionID {
		t.Errorf("processes %+v, before %+v", after.Processes, before.Processes)
	}
	if status, body := f.get(t, 8082); status != 200 || body != "8082" {
		t.Errorf("after a restart: %d %q", status, body)
	}
	if r := f.run(t, map[string]any{"code": "console.log('again')"}); r.Stdout != "again\n" {
		t.Errorf("%+v", r)
	}
	var k Killed
	f.call(t, "POST", "/v1/kill", map[string]any{}, &k)
	if k.Killed != 3 {
		t.Errorf("killed %+v", k)
	}
}

// TestGVisorMemory runs over the memory limit. What grows no faster than most
// programs is ended alone; of what is as fast as it goes the kernel may end more,
// but not the session.
func TestGVisorMemory(t *testing.T) {
	f := newGVisorFixture(t)
	server := f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: () => new Response('alive')})"})
	for i, code := range []string{
		"const keep = []; for (;;) { keep.push(Buffer.alloc(8 << 20, 1)); await Bun.sleep(30) }",
		"const keep = []; for (;;) keep.push(Buffer.alloc(64 << 20, 1))",
	} {
		var answer struct {
			Result
			Error struct {
				Code, Message string
				Details       struct{ Result Result }
			}
		}
		status := f.try(t, map[string]any{"code": code}, &answer)
		if status != 507 || answer.Error.Code != "memory_limit_exceeded" || answer.Error.Details.Result.Reason != reasonOOM {
			t.Errorf("%s: %d %+v", code, status, answer)
		}
		if r := f.run(t, map[string]any{"code": "console.log('next')"}); r.Stdout != "next\n" {
			t.Errorf("%+v", r)
		}
		if i > 0 {
			break
		}
		if status, body := f.get(t, 8080); status != 200 || body != "alive" {
			t.Errorf("server %s: %d %q", server.ExecutionID, status, body)
		}
	}
}

// TestGVisorForkBomb wants the number of processes limited inside, before the
// host's limit would end the sandbox.
func TestGVisorForkBomb(t *testing.T) {
	f := newGVisorFixture(t)
	r := f.run(t, map[string]any{"command": "i=0; while [ $i -lt 2000 ]; do sleep 1000 & i=$((i+1)); done; echo all", "timeout": 25})
	if r.Stdout == "all\n" && r.ExitCode == 0 {
		t.Errorf("%+v", r)
	}
	var k Killed
	f.call(t, "POST", "/v1/kill", map[string]any{}, &k)
	if r := f.run(t, map[string]any{"command": "echo alive"}); r.Stdout != "alive\n" {
		t.Errorf("%+v", r)
	}
}

// TestGVisorFiles writes on one side and reads on the other.
func TestGVisorFiles(t *testing.T) {
	f := newGVisorFixture(t)
	for i := range 3 { // a file that both have seen is seen anew
		text := fmt.Sprintf("from outside %d", i)
		f.call(t, "POST", "/v1/files/write", map[string]any{"path": "both.txt", "content": text}, nil)
		if r := f.run(t, map[string]any{"command": "cat both.txt; stat -c ' %u' both.txt"}); r.Stdout != text+" 1000\n" {
			t.Errorf("inside: %+v", r)
		}
		r := f.run(t, map[string]any{"code": fmt.Sprintf("await Bun.write('dir/inside.txt', 'from inside %d')", i)})
		if len(r.FilesWritten) != 1 || r.FilesWritten[0] != "dir/inside.txt" {
			t.Errorf("files written: %+v", r.FilesWritten)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.task.API+"/v1/files/read?path=dir/inside.txt", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+claim.Token([]byte(testSecret), f.task.Session.ID, f.task.Session.Epoch))
		res, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(b) != fmt.Sprintf("from inside %d", i) {
			t.Errorf("outside: %d %q", res.StatusCode, b)
		}
	}
	r := f.run(t, map[string]any{"command": "dd if=/dev/zero of=big bs=1M count=1000 2>&1; rm -f big; echo x > small && cat small"})
	if !strings.Contains(r.Stdout, "No space left on device") || !strings.HasSuffix(r.Stdout, "x\n") {
		t.Errorf("disk limit: %+v", r)
	}
}

// TestGVisorBoundary wants the packet rules to hold for what gVisor sends, whose
// network stack is not the kernel's.
func TestGVisorBoundary(t *testing.T) {
	f := newGVisorFixture(t)
	r := f.run(t, map[string]any{"timeout": 25, "code": `
		const resolver = (await Bun.file('/etc/resolv.conf').text()).match(/nameserver (\S+)/)[1];
		const outcome = async (host, port) => {
			try {
				const s = await Promise.race([
					Bun.connect({hostname: host, port, socket: {data() {}}}),
					Bun.sleep(3000).then(() => { throw {code: 'timeout'} }),
				]);
				s.end();
				return 'connected';
			} catch (e) { return 'refused' }
		};
		console.log(await outcome(resolver, 53), await outcome(resolver, 22), await outcome('169.254.169.254', 80), await outcome('10.0.0.1', 80));
		process.exit(0)`})
	if r.Stdout != "connected refused refused refused\n" {
		t.Errorf("%+v", r)
	}
}

// TestGVisorExec opens a terminal as `nomad alloc exec` does.
func TestGVisorExec(t *testing.T) {
	f := newGVisorFixture(t)
	for _, tty := range []bool{false, true} {
		var out, errs strings.Builder
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		code, err := f.instance.Exec(ctx, driver.ExecOptions{
			Command: []string{"/bin/sh", "-c", "test -t 1 && echo tty; cat; exit 5"}, TTY: tty,
			Stdin: strings.NewReader("in\n\x04"), Stdout: &out, Stderr: &errs,
		})
		cancel()
		if err != nil || code != 5 || !strings.Contains(out.String(), "in") || strings.Contains(out.String(), "tty") != tty {
			t.Errorf("tty %v: exit %d, %v, %q %q", tty, code, err, out.String(), errs.String())
		}
	}
}

// TestGVisorDies wants the end of the sentry to be the session's, and all of it
// gone.
func TestGVisorDies(t *testing.T) {
	f := newGVisorFixture(t)
	f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: () => new Response('x')})"})
	if err := f.instance.(*instance).box.Kill(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if exit, err := f.instance.Wait(ctx); err != nil || exit.Signal != 9 {
		t.Errorf("exit %+v, %v", exit, err)
	}
}

// TestGVisorCutOff removes a sandbox whose start was cut off before the plugin
// knew its process.
func TestGVisorCutOff(t *testing.T) {
	f := newGVisorFixture(t)
	st, err := sandbox.UnmarshalState(f.instance.State())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.agent.Close(); err != nil {
		t.Fatal(err)
	}
	if f.agent, err = Open(context.Background(), f.config, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	st.Pid, st.Start = 0, 0
	if f.instance, err = f.agent.Recover(t.Context(), f.task, sandbox.MarshalState(st)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := f.instance.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	// Its interface went with the last process, or goes now.
	if err := f.agent.(*Agent).node.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	// The fixture looks for what is left.
}

// TestGVisorSocketIsNoLink has a sentry that was taken over lead the agent to
// another socket of the host's.
func TestGVisorSocketIsNoLink(t *testing.T) {
	f := newGVisorFixture(t)
	dir := filepath.Join(f.config.StateDir, "sandboxes", "0", "host")
	other := filepath.Join(f.config.StateDir, "other.sock")
	l, err := net.Listen("unix", other)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	box := f.instance.(*instance).box
	c, err := box.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if err := os.Rename(filepath.Join(dir, "init.sock"), filepath.Join(dir, "kept")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, filepath.Join(dir, "init.sock")); err != nil {
		t.Fatal(err)
	}
	if c, err := box.Dial(t.Context()); err == nil {
		c.Close()
		t.Error("the agent follows a link")
	}
	if err := os.Rename(filepath.Join(dir, "kept"), filepath.Join(dir, "init.sock")); err != nil {
		t.Fatal(err)
	}
}

// TestGVisorRests lets a session be idle, then sleep, and finds it as it was.
func TestGVisorRests(t *testing.T) {
	f := newGVisorFixtureOf(t, fixtureOptions{idleAfter: 700 * time.Millisecond})
	f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: () => new Response(String(process.pid))})"})
	_, before := f.get(t, 8080)
	f.awaitIdle(t)
	if _, after := f.get(t, 8080); after != before {
		t.Errorf("server is %q after idleness, was %q", after, before)
	}
	if r := f.run(t, map[string]any{"command": makeTree}); r.ExitCode != 0 {
		t.Fatalf("%+v", r)
	}
	want := f.run(t, map[string]any{"command": describeTree}).Stdout
	for deadline := time.Now().Add(20 * time.Second); ; {
		status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil)
		if status == 200 {
			break
		}
		if status != 409 || time.Now().After(deadline) { // busy with the execution until a moment after its answer
			t.Fatalf("sleep: status %d", status)
		}
	}
	f.gone(t)
	f.wake(t)
	if got := f.run(t, map[string]any{"command": describeTree}).Stdout; got != want {
		t.Errorf("awake:\n%s\nwant\n%s", got, want)
	}
	if r := f.run(t, map[string]any{"command": "grep -o gvisor /proc/version"}); r.Stdout != "gvisor\n" {
		t.Errorf("%+v", r)
	}
}
