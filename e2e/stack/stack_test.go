// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/driver/sandbox"
	"github.com/buntime/buntime/e2e/client"
)

// abandon makes the test binary start a stack with a task and a session and
// hang, to be killed.
const abandon = "BUNTIME_TEST_ABANDON"

func TestMain(m *testing.M) {
	if os.Getenv(abandon) == "" {
		os.Exit(m.Run())
	}
	s, err := Start(context.Background(), Options{})
	if err == nil {
		err = errors.Join(sleeper(context.Background(), s), session(context.Background(), s))
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Dir)
	select {}
}

// sleeper runs a task of Nomad's own raw_exec driver: here it is the stack
// that is tested.
func sleeper(ctx context.Context, s *Stack) error {
	task := nomad.NewTask("sleep", "raw_exec").SetConfig("command", "/bin/sleep").SetConfig("args", []string{"1000"})
	job := nomad.NewBatchJob("sleeper", "sleeper", "global", 50).AddTaskGroup(nomad.NewTaskGroup("sleep", 1).AddTask(task))
	if _, _, err := s.Nomad.Jobs().Register(job, (&nomad.WriteOptions{}).WithContext(ctx)); err != nil {
		return fmt.Errorf("register job: %w", err)
	}
	return s.Clients[0].Agent.process.until(ctx, func(ctx context.Context) error {
		left, err := s.Leftovers(ctx)
		if err == nil && !strings.Contains(strings.Join(left, "\n"), "/bin/sleep 1000") {
			err = errors.New("the task does not run")
		}
		return err
	})
}

// session creates a session and leaves a process in it.
func session(ctx context.Context, s *Stack) error {
	api := client.New(s.URL, s.Keys[0].Key)
	created, err := api.Do(ctx, client.Call{Method: http.MethodPost, Path: "/sessions/create"})
	if err != nil {
		return err
	}
	var answer struct{ SessionID string }
	if err := json.Unmarshal(created.Body, &answer); err != nil {
		return fmt.Errorf("decode session: %w: %s", err, created.Body)
	}
	ran, err := api.Do(ctx, client.Call{Method: http.MethodPost, Path: "/execute", JSON: map[string]any{
		"sessionId": answer.SessionID, "command": "sleep 1000 &",
	}})
	if err != nil {
		return err
	}
	if ran.Status != http.StatusOK {
		return fmt.Errorf("execute in %s: status %d: %s", created.Body, ran.Status, ran.Body)
	}
	return nil
}

// during is a context with a deadline.
func during(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, fmt.Errorf("test step took over %s", d))
	t.Cleanup(cancel)
	return ctx
}

func TestKillAndRestart(t *testing.T) {
	s, err := Start(during(t, time.Minute), Options{})
	if err != nil {
		t.Fatal(err)
	}
	stopped := false
	defer func() {
		if !stopped {
			s.Stop(context.Background())
		}
	}()
	// A plugin that has no task ends with its agent, whatever that dies of; the next agent
	// would not know of it if this one had not come to write it down.
	agent, idle := &s.Clients[0].Agent, pids(t, s)["plugin"]
	if err := agent.Kill(during(t, time.Minute), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, fmt.Sprintf("the end of plugin %d", idle), func() bool { return syscall.Kill(idle, 0) != nil })
	if err := agent.Restart(during(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := sleeper(during(t, time.Minute), s); err != nil {
		t.Fatal(err)
	}
	before, err := s.Leftovers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	first := pids(t, s)

	for name, part := range map[string]struct{ kill, restart func(context.Context) error }{
		"front-end": {
			kill:    func(ctx context.Context) error { return s.Frontends[0].Kill(ctx, syscall.SIGKILL) },
			restart: s.Frontends[0].Restart,
		},
		"nomad-client": {
			kill:    func(ctx context.Context) error { return agent.Kill(ctx, syscall.SIGKILL) },
			restart: agent.Restart,
		},
		"plugin": {
			kill: func(ctx context.Context) error { return s.Clients[0].KillPlugin(ctx, syscall.SIGKILL) },
			restart: func(ctx context.Context) error {
				return s.Clients[0].Agent.process.until(ctx, func(context.Context) error {
					if pid, err := s.Clients[0].plugin(); err != nil || pid == 0 {
						return errors.Join(err, errors.New("no plugin"))
					}
					return nil
				})
			},
		},
	} {
		if err := part.kill(during(t, time.Minute)); err != nil {
			t.Errorf("kill %s: %v", name, err)
		}
		if err := part.restart(during(t, time.Minute)); err != nil {
			t.Errorf("restart %s: %v", name, err)
		}
		if now := pids(t, s); now[name] == first[name] || now[name] == 0 {
			t.Errorf("%s: pid %d, before the kill %d", name, now[name], first[name])
		}
	}
	after, err := s.Leftovers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Join(before, "\n") != strings.Join(after, "\n") {
		t.Errorf("the task had\n\t%s\nand after the restarts\n\t%s", strings.Join(before, "\n\t"), strings.Join(after, "\n\t"))
	}

	// One with a task stays, and is found again.
	if err := session(during(t, time.Minute), s); err != nil {
		t.Fatal(err)
	}
	busy := pids(t, s)["plugin"]
	if err := agent.Kill(during(t, time.Minute), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := agent.Restart(during(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if now := pids(t, s)["plugin"]; now != busy {
		t.Errorf("plugin %d has a task, and is %d after its agent's end", busy, now)
	}

	stopped = true
	if err := s.Stop(during(t, time.Minute)); err != nil {
		t.Errorf("stop: %v", err)
	}
	checkGone(t, s.Dir)
}

func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s for %s", what)
		}
	}
}

func pids(t *testing.T, s *Stack) map[string]int {
	t.Helper()
	pids, err := s.Pids()
	if err != nil {
		t.Fatal(err)
	}
	return pids
}

func TestCleansAfterKill(t *testing.T) {
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), abandon+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	dir, err := bufio.NewReader(out).ReadString('\n')
	child.Process.Kill()
	child.Wait()
	dir = strings.TrimSpace(dir)
	if err != nil || !strings.HasPrefix(dir, "/") {
		t.Fatalf("start a stack in another process: %v: %s", err, dir)
	}
	found := newDebris(dir)
	items, err := found.find()
	if err != nil {
		t.Fatal(err)
	}
	left := strings.Join(texts(items), "\n")
	for _, want := range []string{"nomad", "consul", "nomad-driver-bun", "/bin/sleep 1000", "(sleep 1000)", "mount", "loop device", "cgroup"} {
		if !strings.Contains(left, want) {
			t.Errorf("no %s among what the killed process has left:\n%s", want, left)
		}
	}

	block, err := acquireBlock(during(t, time.Minute), "")
	if err != nil {
		t.Fatal(err)
	}
	defer block.release()
	defer block.forget()
	defer os.Remove(block.dir)
	checkGone(t, dir)
}

// checkGone looks for what a stack may have left by itself, without the
// stack's own idea of what that is.
func checkGone(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("directory of the stack: %v", err)
	}
	for _, command := range []string{
		"grep -F '" + dir + "' /proc/mounts",
		"cat /sys/block/loop*/loop/backing_file | grep -F '" + dir + "'",
		"grep -lzF '" + marker + "=" + dir + "' /proc/[0-9]*/environ",
	} {
		if out, _ := exec.Command("sh", "-c", command+" 2>/dev/null").Output(); len(out) > 0 {
			t.Errorf("%s:\n%s", command, out)
		}
	}
}

func TestTail(t *testing.T) {
	path := t.TempDir() + "/log"
	for _, c := range []struct{ text, want string }{
		{"", ""},
		{"a\n", "a"},
		{"a\nb\nc\n", "b\nc"},
		{"a\nb\nc", "b\nc"},
	} {
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := tail(path, 2); err != nil || got != c.want {
			t.Errorf("tail of %q: %q, %v, want %q", c.text, got, err, c.want)
		}
	}
}

func TestBlocksAreApart(t *testing.T) {
	for clients := 1; clients <= maxClients; clients++ {
		port, id, address := 0, 0, netip.Addr{}
		for n := range blocks {
			b := &block{number: n}
			for c, pool := range b.pools(clients) {
				from, to := b.dynamicPorts(c, clients)
				if from <= port || to < from || to >= b.firstPort()+blockPorts || to >= 32768 {
					t.Errorf("client %d of %d in block %d has ports %d to %d; those before end with %d", c, clients, n, from, to, port)
				}
				first, last := b.ids(c, clients)
				if first <= id || last <= first || first < sandbox.DefaultFirstID || last > sandbox.DefaultLastID {
					t.Errorf("client %d of %d in block %d has ids %d to %d; those before end with %d", c, clients, n, first, last, id)
				}
				if pool != pool.Masked() || !b.pool().Overlaps(pool) || pool.Bits() < b.pool().Bits() || address.IsValid() && !address.Less(pool.Addr()) {
					t.Errorf("client %d of %d in block %d has addresses %s", c, clients, n, pool)
				}
				port, id, address = to, last, pool.Addr()
			}
		}
	}
}

// TestSeveral: parts of a kind are apart, and each can be taken away and come back.
func TestSeveral(t *testing.T) {
	s, err := Start(during(t, time.Minute), Options{Clients: 2, Frontends: 2, Swift: true, Heartbeat: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Stop(during(t, time.Minute)); err != nil {
			t.Errorf("stop: %v", err)
		}
		checkGone(t, s.Dir)
	}()
	for i, c := range s.Clients {
		other := s.Clients[1-i]
		for _, step := range []func(context.Context) error{
			func(ctx context.Context) error { return other.TakeNew(ctx, false) },
			func(ctx context.Context) error { return session(ctx, s) },
			func(ctx context.Context) error { return other.TakeNew(ctx, true) },
		} {
			if err := step(during(t, time.Minute)); err != nil {
				t.Fatal(err)
			}
		}
		if len(leftovers(t, c)) == 0 {
			t.Fatalf("%s does not have the session that was to be there", c.Name)
		}
	}
	first := pids(t, s)
	for _, part := range []*Part{&s.ConsulServer, &s.NomadServer, &s.Frontends[1].Part} {
		before := consulKeys(t, s)
		if err := errors.Join(part.Pause(during(t, 10*time.Second)), part.Resume(), part.Kill(during(t, 10*time.Second), syscall.SIGKILL)); err != nil {
			t.Fatal(err)
		}
		if part.Alive() {
			t.Errorf("%s is alive after SIGKILL", part.name)
		}
		if err := part.Restart(during(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		if after := consulKeys(t, s); !slices.Equal(before, after) {
			t.Errorf("Consul had %q before %s was killed, and has %q", before, part.name, after)
		}
	}
	gone, stays := s.Clients[1], s.Clients[0]
	there := leftovers(t, stays)
	if err := gone.Kill(during(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	if left := strings.Join(leftovers(t, gone), "\n"); strings.Contains(left, "process") {
		t.Errorf("a dead machine has\n%s", left)
	}
	if now := leftovers(t, stays); !slices.Equal(now, there) {
		t.Errorf("the other machine had\n\t%s\nand has\n\t%s", strings.Join(there, "\n\t"), strings.Join(now, "\n\t"))
	}
	if err := gone.Restart(during(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	// A minute after its start the plugin removes what Nomad has forgotten.
	if err := gone.Agent.process.until(during(t, 90*time.Second), func(ctx context.Context) error {
		if left := leftovers(t, gone); len(left) > 0 {
			return fmt.Errorf("left of its sessions:\n\t%s", strings.Join(left, "\n\t"))
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	now := pids(t, s)
	for name, pid := range first {
		same := now[name] == pid
		if stays := name == "front-end" || name == "nomad-client" || name == "plugin"; same != stays || now[name] == 0 {
			t.Errorf("%s: pid %d, before %d", name, now[name], pid)
		}
	}
}

func leftovers(t *testing.T, c *Client) []string {
	t.Helper()
	left, err := c.Leftovers(during(t, time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

// consulKeys are the sessions' keys in KV.
func consulKeys(t *testing.T, s *Stack) []string {
	t.Helper()
	keys, _, err := s.Consul.KV().Keys("buntime/sessions/", "", nil)
	if err != nil || len(keys) == 0 {
		t.Fatalf("list keys: %q, %v", keys, err)
	}
	return keys
}
