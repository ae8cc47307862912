// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package testserver starts real Consul and Nomad servers for tests. They end
// with the test, and with the test's process however it ends.
package testserver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startTimeout is for a machine that builds something else meanwhile.
const startTimeout = 60 * time.Second

// Consul starts a Consul server that keeps everything in memory, with more
// arguments if there are any, and returns its address.
func Consul(t testing.TB, more ...string) string {
	t.Helper()
	address, _ := ConsulProcess(t, append([]string{"-dev"}, more...)...)
	return address
}

// ConsulOnDisk starts a Consul server that keeps its raft log and its snapshots in a
// folder, as a cluster's does, and returns its address and its process.
func ConsulOnDisk(t testing.TB, dir string) (address string, pid int) {
	t.Helper()
	return ConsulProcess(t, "-server", "-bootstrap-expect=1", "-data-dir="+dir,
		`-hcl=limits { http_max_conns_per_client = -1 }`, `-hcl=performance { raft_multiplier = 1 }`)
}

// ConsulProcess starts a Consul agent with these arguments, and returns its address
// and its process.
func ConsulProcess(t testing.TB, args ...string) (address string, pid int) {
	t.Helper()
	p := ports(t, 3)
	pid = start(t, "consul", append([]string{
		"agent", "-bind=127.0.0.1", "-log-level=warn",
		fmt.Sprintf("-http-port=%d", p[0]), fmt.Sprintf("-server-port=%d", p[1]), fmt.Sprintf("-serf-lan-port=%d", p[2]),
		"-dns-port=-1", "-grpc-port=-1", "-grpc-tls-port=-1", "-serf-wan-port=-1",
	}, args...)...)
	address = fmt.Sprintf("127.0.0.1:%d", p[0])
	until(t, "http://"+address+"/v1/status/leader")
	return address, pid
}

// Nomad starts a Nomad server without clients, so that it places nothing, and
// returns its URL. Memory oversubscription is on as oversubscription says.
func Nomad(t testing.TB, oversubscription bool) string {
	t.Helper()
	address, _ := NomadProcess(t, oversubscription)
	return address
}

// NomadProcess is Nomad, and returns its process as well.
func NomadProcess(t testing.TB, oversubscription bool) (address string, pid int) {
	t.Helper()
	p := ports(t, 3)
	config := filepath.Join(t.TempDir(), "nomad.hcl")
	text := fmt.Sprintf(`
		data_dir             = %q
		bind_addr            = "127.0.0.1"
		log_level            = "WARN"
		disable_update_check = true
		ports { http = %d, rpc = %d, serf = %d }
		advertise { http = "127.0.0.1", rpc = "127.0.0.1", serf = "127.0.0.1" }
		server {
			enabled          = true
			bootstrap_expect = 1
			raft_multiplier  = 1
			default_scheduler_config { memory_oversubscription_enabled = %t }
		}
		limits { http_max_conns_per_client = 0 }`, t.TempDir(), p[0], p[1], p[2], oversubscription)
	if err := os.WriteFile(config, []byte(strings.ReplaceAll(text, ", ", "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	pid = start(t, "nomad", "agent", "-config="+config)
	address = fmt.Sprintf("http://127.0.0.1:%d", p[0])
	until(t, address+"/v1/status/leader")
	return address, pid
}

// tool is the path of a pinned server, as `make deps` leaves it.
func tool(t testing.TB, name string) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("no source path")
	}
	get := filepath.Join(filepath.Dir(file), "../../e2e/tools/get")
	out, err := exec.Command(get, name).Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("find %s: %v; run `make deps`", name, err)
	}
	return strings.TrimSpace(string(out))
}

// start runs a server until the test ends, and returns its process.
func start(t testing.TB, name string, args ...string) (pid int) {
	t.Helper()
	log := new(output)
	cmd := exec.Command(tool(t, name), args...)
	cmd.Stdout, cmd.Stderr = log, log
	// It dies with the thread that starts it, which therefore waits for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		defer close(ended)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it is killed
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		<-ended
		if t.Failed() {
			t.Logf("output of %s:\n%s", name, log)
		}
	})
	return cmd.Process.Pid
}

// output is what a server has printed so far.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// until waits for a server to know its leader. It announces that by no event.
func until(t testing.TB, url string) {
	t.Helper()
	deadline := time.Now().Add(startTimeout)
	for {
		answer, err := get(url)
		if err == nil && len(answer) > len(`""`) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no leader within %v: %q, %v", startTimeout, answer, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func get(url string) (string, error) {
	res, err := http.Get(url)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return strings.TrimSpace(string(body)), err
}

// given are the ports that were returned: the kernel may name one again before the server
// it is for has it.
var given sync.Map

// ports are some that were free a moment ago.
func ports(t testing.TB, n int) []int {
	t.Helper()
	var out []int
	for len(out) < n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		if _, again := given.LoadOrStore(port, true); !again {
			out = append(out, port)
		}
	}
	return out
}
