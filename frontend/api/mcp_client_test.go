// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/sdk/cli"
)

// The test's own program is the command line, too, for clients that start it.
func init() {
	if os.Getenv("BUNTIME_TEST_COMMAND") != "" {
		os.Exit(cli.Main(os.Args[1:], cli.Std{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Getenv: os.Getenv}))
	}
}

// TestMCPClient: the official TypeScript client on both transports.
func TestMCPClient(t *testing.T) {
	modules, bun := tool(t, "mcp/install"), tool(t, "get", "bun")
	for _, kind := range []string{"http", "stdio"} {
		t.Run(kind, func(t *testing.T) {
			w := newWorld(t)
			killed := w.runs42()
			srv := httptest.NewServer(w)
			defer srv.Close()
			dir := t.TempDir()
			if err := os.Symlink(filepath.Join(modules, "node_modules"), filepath.Join(dir, "node_modules")); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(dir, os.DirFS("testdata/mcp")); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), bun, "run", "protocol.ts", kind)
			cmd.Dir = dir
			cmd.Env = append(os.Environ(), "BUNTIME_BASE_URL="+srv.URL, "BUNTIME_API_KEY="+paid, "BUNTIME_OTHER_KEY="+other, "BUNTIME_COMMAND="+os.Args[0])
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			select {
			case <-killed:
			case <-time.After(20 * time.Second):
				t.Error("what was cancelled was not killed")
			}
		})
	}
}

// runs42 has the node run what testdata/mcp/protocol.ts says, and returns what is closed
// when the sleeping one is killed.
func (w *world) runs42() (killed chan struct{}) {
	const result = "event: result\ndata: {\"stdout\":\"42\\n\",\"exitCode\":0,\"reason\":\"exit\",\"filesWritten\":[]}\n\n"
	killed = make(chan struct{})
	var mu sync.Mutex
	sleeping := "" // its execution
	w.node.answers(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/v1/execute":
			rw.Header().Set("Content-Type", "text/event-stream")
			var body struct{ ExecutionID, Command string }
			_ = json.Unmarshal([]byte(bodyOf(r)), &body)
			if body.Command == "sleep" {
				mu.Lock()
				sleeping = body.ExecutionID
				mu.Unlock()
			}
			fmt.Fprint(rw, "event: stdout\nid: 3\ndata: {\"data\":\"42\\n\"}\n\n")
			_ = http.NewResponseController(rw).Flush()
			if body.Command == "sleep" {
				<-killed
			}
			// The official client loses what it is told in one piece with the answer.
			time.Sleep(time.Second)
			fmt.Fprint(rw, result)
		case "/v1/processes":
			mu.Lock()
			defer mu.Unlock()
			if sleeping == "" {
				fmt.Fprint(rw, `{"processes":[]}`)
			} else {
				fmt.Fprintf(rw, `{"processes":[{"pid":7,"executionId":%q,"ports":[]}]}`, sleeping)
			}
		case "/v1/kill":
			close(killed)
			fmt.Fprint(rw, `{"killed":1,"pids":[7]}`)
		case "/v1/files/read":
			rw.WriteHeader(http.StatusNotFound)
			fmt.Fprint(rw, `{"error":{"code":"file_not_found","message":"there is no file"}}`)
		default:
			fmt.Fprint(rw, "{}")
		}
	})
	return killed
}

// tool is what a script of e2e/tools prints.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join("../../e2e/tools", name), args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v; run `make deps`", name, err)
	}
	return strings.TrimSpace(string(out))
}
