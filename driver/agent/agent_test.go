// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/sandbox"
	"github.com/buntime/buntime/driver/sandbox/network/networktest"
	"github.com/buntime/buntime/driver/snapshot/backend"
)

const testSecret = "a secret of this test alone"

// fixture is a node agent with one session, without Nomad.
type fixture struct {
	agent    driver.Runtime
	instance driver.Instance
	task     *driver.Task
	config   *driver.Config
	client   http.Client
}

func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func tool(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(filepath.Join(root(t), name), args...).Output()
	if err != nil {
		t.Fatalf("run %s: %v", name, err)
	}
	return strings.TrimSpace(string(out))
}

// given are the addresses that freeAddress has returned: the kernel may name one again as
// soon as nobody listens there.
var given sync.Map

func freeAddress(t testing.TB) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := l.Addr().String()
		l.Close()
		if _, again := given.LoadOrStore(address, true); !again {
			return address
		}
	}
}

func newConfig(t testing.TB) *driver.Config {
	t.Helper()
	bun := tool(t, "e2e/tools/get", "bun")
	state, err := os.MkdirTemp("", "bt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	return &driver.Config{
		Rootfs: tool(t, "driver/sandbox/rootfs/build", bun), Bun: driver.DefaultBun,
		Init: filepath.Join(root(t), "out/libexec/buntime-init"), StateDir: state,
		Restorer:   filepath.Join(root(t), "out/libexec/buntime-restorer"),
		NodeSecret: []byte(testSecret),
		Network:    driver.NetworkConfig{Pool: networktest.FreePool(t)},
		Store:      backend.Config{Dir: filepath.Join(state, "store")},
		Defaults:   driver.LimitDefaults{DiskMB: 256},

		RunnerMemory: 256 << 20,
	}
}

func newFixture(t testing.TB) *fixture {
	t.Helper()
	return newFixtureOf(t, fixtureOptions{})
}

// newFixtureFor is newFixture with a session that expires after ttl.
func newFixtureFor(t testing.TB, ttl time.Duration) *fixture {
	t.Helper()
	return newFixtureOf(t, fixtureOptions{ttl: ttl})
}

// fixtureOptions are what a fixture may differ in.
type fixtureOptions struct {
	ttl                         time.Duration // default: an hour
	idleAfter                   time.Duration // default: never, as of the next two
	sleepAfter, checkpointEvery time.Duration
	previewAccess               driver.Access // default: any
	without                     []sandbox.Layer
	change                      func(*driver.Task)
	configure                   func(*driver.Config)
	opened                      func(*Agent) // before there is a session
	rootfs                      string       // default: a directory
}

func newFixtureWith(t testing.TB, without []sandbox.Layer, change func(*driver.Task)) *fixture {
	t.Helper()
	return newFixtureOf(t, fixtureOptions{without: without, change: change})
}

func newFixtureOf(t testing.TB, o fixtureOptions) *fixture {
	t.Helper()
	if o.ttl == 0 {
		o.ttl = time.Hour
	}
	config := newConfig(t)
	if o.previewAccess != "" {
		config.PreviewAccess = o.previewAccess
	}
	if o.rootfs != "" {
		config.Rootfs = o.rootfs
	}
	config.Life = driver.LifeConfig{IdleAfter: o.idleAfter, SleepAfter: o.sleepAfter, CheckpointEvery: o.checkpointEvery}
	if o.configure != nil {
		o.configure(config)
	}
	log := hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: testWriter{t}})
	a, err := open(context.Background(), config, log, o.without)
	if err != nil {
		t.Fatal(err)
	}
	a.stock.short = func() bool { return false } // whatever else this machine does
	if o.opened != nil {
		o.opened(a)
	}
	f := &fixture{agent: a, config: config, task: &driver.Task{
		ID: "alloc/session/1", AllocID: fmt.Sprintf("test-%d", time.Now().UnixNano()), Name: "session",
		Limits:  driver.Limits{Memory: 512 << 20, CPUCores: 1, Pids: 512, Files: 4096, Disk: 256 << 20},
		Session: &driver.Session{ID: "ses_test", Epoch: 1, ExpiresAt: time.Now().Add(o.ttl)},
		API:     freeAddress(t), Preview: freeAddress(t),
	}}
	f.task.Rests = &memoryRests{wanted: 1, expires: f.task.Session.ExpiresAt}
	if o.change != nil {
		o.change(f.task)
	}
	t.Cleanup(func() {
		if err := f.agent.Close(); err != nil {
			t.Error(err)
		}
	})
	if f.instance, err = a.Start(t.Context(), f.task); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.instance.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return f
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

// call sends a request to the node agent and decodes its answer into out.
func (f *fixture) call(t testing.TB, method, path string, body, out any) int {
	t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.task.API+path, in)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+claim.Token([]byte(testSecret), f.task.Session.ID, f.task.Session.Epoch))
	res, err := f.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			t.Fatalf("%s %s: %d %s: %v", method, path, res.StatusCode, b, err)
		}
	}
	return res.StatusCode
}

var executions int

func (f *fixture) run(t testing.TB, req map[string]any) Result {
	t.Helper()
	executions++
	req["executionId"] = fmt.Sprintf("exec_%d", executions)
	var r Result
	if status := f.call(t, "POST", "/v1/execute", req, &r); status != 200 {
		t.Fatalf("execute %v: status %d", req, status)
	}
	return r
}

func TestExecute(t *testing.T) {
	f := newFixture(t)
	r := f.run(t, map[string]any{"code": "const x: number = 41; console.log(await Promise.resolve(x + 1)); console.error('e')"})
	if r.Stdout != "42\n" || r.Stderr != "e\n" || r.ExitCode != 0 {
		t.Errorf("%+v", r)
	}
	r = f.run(t, map[string]any{"command": "id; pwd; cat /proc/self/cgroup; exit 3"})
	if r.ExitCode != 3 {
		t.Errorf("%+v", r)
	}
	t.Logf("%+v", r)
	for range 5 {
		begin := time.Now()
		r = f.run(t, map[string]any{"code": "console.log(1)"})
		t.Log(time.Since(begin), r.ExecutionTime, r.MemoryUsed, r.CPUTime)
	}
}

// TestRestart lets another node agent take over, as after a restart of the
// plugin, while a server and an execution run.
func TestRestart(t *testing.T) {
	f := newFixture(t)
	server := f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: () => new Response(String(process.pid))})"})
	if !server.Background {
		t.Fatalf("server is not in the background: %+v", server)
	}
	f.restart(t)
	for range 3 {
		if r := f.run(t, map[string]any{"code": "console.log('again')"}); r.Stdout != "again\n" {
			t.Errorf("%+v", r)
		}
	}
	var list struct{ Processes []Process }
	f.call(t, "GET", "/v1/processes", nil, &list)
	if len(list.Processes) != 1 || list.Processes[0].Pid != server.Pid {
		t.Errorf("processes %+v, want only %d", list.Processes, server.Pid)
	}
	var found Result
	f.call(t, "GET", "/v1/executions/"+server.ExecutionID, nil, &found)
	if found.State != stateBackground {
		t.Errorf("server is %q", found.State)
	}
}

// TestRestartKeepsWhatACommandLeft restarts the agent while the child of an
// ended command runs, and a server that is older than its time-out.
func TestRestartKeepsWhatACommandLeft(t *testing.T) {
	f := newFixture(t)
	server := f.run(t, map[string]any{"timeout": 5, "code": "Bun.serve({port: 8080, fetch: () => new Response('x')})"})
	f.run(t, map[string]any{"command": "nohup sleep 1000 >/dev/null 2>&1 &"})
	<-time.After(5100 * time.Millisecond) // the server's time-out
	var before, after struct{ Processes []Process }
	f.call(t, "GET", "/v1/processes", nil, &before)
	if len(before.Processes) != 2 {
		t.Fatalf("processes %+v", before.Processes)
	}
	for range 2 {
		f.restart(t)
		f.call(t, "GET", "/v1/processes", nil, &after)
		if len(after.Processes) != 2 || after.Processes[0].Pid != before.Processes[0].Pid || after.Processes[1].Pid != before.Processes[1].Pid {
			t.Fatalf("processes %+v, before %+v", after.Processes, before.Processes)
		}
	}
	if status := f.call(t, "GET", "/v1/files/read?path=.buntime/executions/"+server.ExecutionID+"/code.ts", nil, nil); status != 200 {
		t.Errorf("code of the server: status %d", status)
	}
	var k Killed
	f.call(t, "POST", "/v1/kill", map[string]any{}, &k)
	if k.Killed != 2 {
		t.Errorf("killed %+v", k)
	}
}

// TestSpoiledHistory puts into .buntime what would make the agent wait for ever.
func TestSpoiledHistory(t *testing.T) {
	f := newFixture(t)
	r := f.run(t, map[string]any{"code": "console.log('a')"})
	r2 := f.run(t, map[string]any{"command": `
		cd .buntime/executions
		mkdir evil && echo '{}' >evil/result.json && : >evil/stdout && : >evil/stderr && truncate -s 20G evil/order 2>/dev/null || truncate -s 200M evil/order
		rm -rf ` + r.ExecutionID + ` && ln -s /etc ` + r.ExecutionID + `
		mkfifo ../processes 2>/dev/null; true`})
	if r2.ExitCode != 0 {
		t.Fatalf("%+v", r2)
	}
	// Where the next execution's result belongs, a pipe that somebody reads none of.
	next := fmt.Sprintf(".buntime/executions/exec_%d", executions+2)
	f.run(t, map[string]any{"command": "mkdir " + next + " && mkfifo " + next + "/result.json " + next + "/stdout && (sleep 1000 <>" + next + "/result.json >/dev/null 2>&1 &)"})
	begin := time.Now()
	f.call(t, "GET", "/v1/executions/evil/output", nil, nil)
	for range 3 {
		f.run(t, map[string]any{"code": "console.log('x'.repeat(900_000)); await Bun.sleep(50)"})
		f.call(t, "GET", "/v1/files/list", nil, nil)
	}
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("took %s", took)
	}
}

func (f *fixture) restart(t testing.TB) {
	t.Helper()
	state := f.instance.State()
	if err := f.agent.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	if f.agent, err = Open(context.Background(), f.config, hclog.New(&hclog.LoggerOptions{Level: hclog.Info, Output: testWriter{t}})); err != nil {
		t.Fatal(err)
	}
	if f.instance, err = f.agent.Recover(t.Context(), f.task, state); err != nil {
		t.Fatal(err)
	}
}

// TestLastAnswers: an execution that is under way when the plugin is to end, and short, is
// answered.
func TestLastAnswers(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"code": "1"})
	done := make(chan Result, 1)
	go func() {
		defer close(done) // also when run fails
		done <- f.run(t, map[string]any{"command": "touch begun; sleep 0.05; echo done"})
	}()
	for deadline := time.Now().Add(10 * time.Second); f.call(t, "GET", "/v1/files/read?path=begun", nil, nil) != 200; {
		if time.Now().After(deadline) {
			t.Fatal("it has not begun for 10 s")
		}
	}
	f.restart(t)
	if r := <-done; r.Stdout != "done\n" {
		t.Errorf("got %+v", r)
	}
	if r := f.run(t, map[string]any{"command": "echo again"}); r.Stdout != "again\n" {
		t.Errorf("got %+v", r)
	}
}

// TestExpiry wants the node to end a session by itself when its time has come,
// with nobody asking, and as a success.
func TestExpiry(t *testing.T) {
	ttl := 12 * time.Second // long enough to execute something on a busy machine
	if os.Getenv("BUNTIME_TEST_VM") != "" {
		ttl = 15 * time.Second // a sandbox takes seconds to start there
	}
	f := newFixtureFor(t, ttl)
	f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: () => new Response('x')})"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	exit, err := f.instance.Wait(ctx)
	if err != nil || exit.Code != 0 || exit.Err != nil {
		t.Fatalf("exit %+v, %v", exit, err)
	}
	if time.Now().Before(f.task.Session.ExpiresAt) {
		t.Error("ended before its time")
	}
	if _, err := net.Dial("tcp", f.task.API); err == nil {
		t.Error("the session's port answers after its end")
	}
}

// TestPreviewIsOfOneSession wants the node to keep from a session what was meant
// for another, and an API key from any.
func TestPreviewIsOfOneSession(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: r => new Response(r.headers.get('authorization') ?? 'none')})"})
	for _, c := range []struct {
		host, authorization string
		status              int
		body                string
	}{
		{"ses-test.example.org", "Bearer btk_secret", 200, "none"},
		{"8080-SES_test.example.org", "Basic eDp5", 200, "Basic eDp5"},
		{f.task.Preview, "", 200, "none"},
		{"ses-other.example.org", "Basic eDp5", 421, ""},
		{"8080-ses-other.example.org", "", 421, ""},
		{door.NodeHost, "", 421, ""},
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.task.Preview+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = c.host
		if c.authorization != "" {
			req.Header.Set("Authorization", c.authorization)
		}
		res, err := f.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != c.status || c.body != "" && string(body) != c.body {
			t.Errorf("host %q with %q: %d %q, %v", c.host, c.authorization, res.StatusCode, body, err)
		}
	}
}

// TestPreviewAccess: where previews are the front-ends' alone, nobody else gets
// in, and the token of another session, life or purpose opens nothing.
func TestPreviewAccess(t *testing.T) {
	for _, access := range []driver.Access{driver.AccessAny, driver.AccessFrontEnd} {
		t.Run(string(access), func(t *testing.T) {
			f := newFixtureOf(t, fixtureOptions{previewAccess: access})
			f.run(t, map[string]any{"code": "Bun.serve({port: 8080, fetch: r => Response.json([...r.headers])})"})
			secret, id := []byte(testSecret), f.task.Session.ID
			right := claim.PreviewToken(secret, id, 1)
			for name, token := range map[string]string{
				"right": right, "none": "", "other session": claim.PreviewToken(secret, "ses_other", 1), "other life": claim.PreviewToken(secret, id, 2),
				"API's": claim.Token(secret, id, 1), "cut": right[1:], "capitals": strings.ToUpper(right), "other secret": claim.PreviewToken([]byte("x"), id, 1),
			} {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+f.task.Preview+"/", nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("X-Buntime-Token", token)
				req.Header.Set("X-Forwarded-For", "203.0.113.7")
				res, err := f.client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil {
					t.Fatal(err)
				}
				want := http.StatusOK
				if access == driver.AccessFrontEnd && name != "right" {
					want = http.StatusForbidden
				}
				if res.StatusCode != want || token != "" && strings.Contains(string(body), token) {
					t.Errorf("token %s: %d %s", name, res.StatusCode, body)
				}
				if want != http.StatusOK {
					continue
				}
				// A front-end's word is passed on as it is; of others we say whom we have seen.
				said := `["x-forwarded-for","203.0.113.7"]`
				if name != "right" {
					said = `["x-forwarded-for","203.0.113.7, 127.0.0.1"]`
				}
				if !strings.Contains(string(body), said) {
					t.Errorf("token %s: the app sees %s, want %s", name, body, said)
				}
			}
		})
	}
}
