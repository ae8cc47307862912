// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/buntime/buntime/driver/snapshot/store/swift"
	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// trees are what the sessions have in their workspaces: packages of npm, in exact
// versions, as Bun installs them.
var trees = []struct {
	rounds   int
	packages string
}{
	{12, "typescript@5.9.3 express@5.1.0 lodash@4.17.21 react@19.1.0 react-dom@19.1.0 zod@4.0.0 hono@4.9.0"},
	{4, "typescript@5.9.3 next@15.5.4 @mui/material@7.3.2 react@19.1.0 react-dom@19.1.0 " +
		"aws-sdk@2.1692.0 vite@7.1.5 eslint@9.35.0 lodash@4.17.21 three@0.170.0"},
}

// withSwift gives the benchmark a system of its own that stores in a Swift.
func (m *bench) withSwift() {
	s, err := stack.Start(m.ctx, stack.Options{
		Swift: true,
		Keys:  []stack.Key{{Key: stack.NewKey(), Account: "bench", Plan: "enterprise", Limits: M{"requests": 1_000_000}}},
	})
	m.must(err)
	m.b.Cleanup(func() {
		ctx, cancel := context.WithTimeoutCause(context.Background(), 3*time.Minute, errors.New("the system is still there after 3 minutes"))
		defer cancel()
		if err := s.Stop(ctx); err != nil {
			m.b.Error(err)
		}
	})
	m.stack, m.api = s, client.New(s.URL, s.Keys[0].Key)
}

// rest measures how a session comes to rest and back.
func (m *bench) rest() {
	m.withSwift()
	m.idle()
	for _, tree := range trees {
		m.deepSleep(tree.rounds, tree.packages)
	}
}

// idle compares a visit of a session whose processes stand still with one of a
// session that is awake.
func (m *bench) idle() {
	s, err := m.open(0, new(spans))
	m.must(err)
	_, err = s.run(`Bun.serve({ port: 8080, fetch: () => new Response("x") })`, new(spans))
	m.must(err)
	site := client.New("http://"+s.label()+"."+m.stack.PreviewDomain, "")
	visit := func() error {
		reply, err := site.Do(m.ctx, client.Call{Method: "GET", Path: "/"})
		if err == nil && (reply.Status != http.StatusOK || string(reply.Body) != "x") {
			err = fmt.Errorf("preview: status %d: %s", reply.Status, reply.Body)
		}
		return err
	}
	awake := &contender{name: "visit, awake", run: visit}
	idle := &contender{name: "visit, idle: thaw and first byte", before: func() error { return s.sleep("idle") }, run: visit}
	freeze := &contender{name: "sleep to idle, the whole request", before: visit, run: func() error { return s.sleep("idle") }}
	m.race(5, 1, awake, idle, freeze)
	for _, c := range []*contender{awake, idle, freeze} {
		c.took = nil
	}
	m.race(200, 1, awake, idle, freeze)
	m.table("Idle, one request at a time", awake, idle, freeze, awake)
	m.must(m.close(s))
	m.must(m.quiet())
}

func (s *benchSession) sleep(state string) error {
	_, err := s.m.call(client.Call{Method: "POST", Path: "/sessions/" + s.id + "/sleep", JSON: M{"state": state}}, nil)
	return err
}

// deepSleep compares sleeping and waking with an archive of all files, compressed
// and stored in the same Swift, that is unpacked in a session made for it. There is
// one sandbox at a time.
func (m *bench) deepSleep(rounds int, packages string) {
	s, err := m.open(1, new(spans))
	m.must(err)
	_, err = s.runCommand("bun add --silent " + packages + " && sync /workspace")
	m.must(err)
	files, err := s.runCommand("find . -type f | wc -l; du -sm . | cut -f1")
	m.must(err)
	a := m.newArchive()
	var timing spans
	first, second := &contender{name: "sleep, the first"}, &contender{name: "sleep, 1 % of files changed"}
	pack := &contender{name: "tar and zstd, stored"}
	wake, imports := &contender{name: "wake, until a result"}, &contender{name: "wake, until TypeScript is imported"}
	unpack := &contender{name: "create and untar, until a result"}
	for round := range rounds {
		m.must(timed(pack, a.pack))
		asleep := second
		if round == 0 {
			asleep = first
		}
		m.must(timed(asleep, func() error { return s.sleep("deep-sleep") }))
		m.must(m.quiet())
		m.must(timed(wake, func() error { return s.execute(&timing) }))
		m.must(s.whole())
		m.must(s.sleep("deep-sleep"))
		m.must(m.quiet())
		m.must(timed(imports, s.importTypeScript))
		m.must(s.whole())
		_, err := s.runCommand(appendToSome)
		m.must(err)
		m.must(s.sleep("deep-sleep"))
		m.must(m.quiet())
		m.must(timed(unpack, a.wake))
		m.must(m.close(a.woken))
		m.must(m.quiet())
		m.must(s.execute(new(spans)))
		m.must(s.whole())
		_, err = s.runCommand(appendToSome)
		m.must(err)
	}
	m.must(m.close(s))
	m.must(m.quiet())
	counted := strings.Fields(files.Stdout)
	title := fmt.Sprintf("%s files, %s MB", counted[0], counted[1])
	m.table(title+": wake", unpack, wake, imports, unpack)
	m.table(title+": sleep", pack, first, second, pack)
	note("wake; Server-Timing, p50: "+timing.String(), fmt.Sprintf("archive: %.1f MB", float64(len(a.data))/1e6))
}

// appendToSome changes every hundredth file.
const appendToSome = `n=0; find node_modules -type f | while read -r f; do n=$((n+1)); if [ $((n % 100)) = 50 ]; then echo "// a line" >>"$f"; fi; done; sync /workspace`

func (s *benchSession) importTypeScript() error {
	r, err := s.run(`const ts = await import("typescript"); console.log(ts.default.version)`, new(spans))
	if err == nil && r.ExitCode != 0 {
		err = fmt.Errorf("import ended with %d: %s", r.ExitCode, r.Stderr)
	}
	return err
}

func timed(c *contender, do func() error) error {
	c.run = do
	if err := c.turn(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return nil
}

// whole waits until all of the workspace is on the node.
func (s *benchSession) whole() error {
	for {
		box, _, err := s.m.box()
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(box, "arrived")); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err := s.m.pause(20 * time.Millisecond); err != nil {
			return err
		}
	}
}

// box is the folder of the only sandbox, and the pid of its init.
func (m *bench) box() (dir string, pid int, err error) {
	states, err := filepath.Glob(filepath.Join(m.stack.Dir, "driver/sandboxes/*/state.json"))
	if err != nil || len(states) != 1 {
		return "", 0, errors.Join(err, fmt.Errorf("there are %d sandboxes, not one", len(states)))
	}
	text, err := os.ReadFile(states[0])
	var state struct{ Pid int }
	if err == nil {
		err = json.Unmarshal(text, &state)
	}
	return filepath.Dir(states[0]), state.Pid, err
}

// archive is all files of a session, packed and stored.
type archive struct {
	m     *bench
	store *swift.Store
	data  []byte
	woken *benchSession
}

func (m *bench) newArchive() *archive {
	s, err := swift.New(swift.Config{
		AuthURL: m.stack.Swift.Proxy.AuthURL(), User: m.stack.Swift.User(), Key: m.stack.Swift.Key(), Container: "archives",
	})
	m.must(err)
	m.b.Cleanup(func() { _ = s.Close() })
	return &archive{m: m, store: s}
}

// inside runs a command in the only sandbox, as its user and outside its limits.
func (a *archive) inside(input []byte, command string) ([]byte, error) {
	_, pid, err := a.m.box()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(a.m.ctx, "/bin/bash", "-o", "pipefail", "-c",
		fmt.Sprintf(command, fmt.Sprintf("nsenter -t %d -U -m -S 1000 -G 1000 --", pid)))
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		return nil, fmt.Errorf("%s: %w", command, err)
	}
	return out, nil
}

func (a *archive) pack() (err error) {
	if a.data, err = a.inside(nil, "%s tar -C /workspace -cf - . | zstd -3 -T0 -q"); err != nil {
		return err
	}
	return a.store.Put(a.m.ctx, "archive/1", a.data, time.Now().Add(time.Hour))
}

func (a *archive) wake() (err error) {
	if a.woken, err = a.m.open(1, new(spans)); err != nil {
		return err
	}
	data := make([]byte, len(a.data))
	if err := a.store.Get(a.m.ctx, "archive/1", 0, data); err != nil {
		return err
	}
	for { // a create answers before there is a sandbox
		if _, pid, err := a.m.box(); err == nil && pid != 0 {
			if _, err := os.Stat(fmt.Sprintf("/proc/%d/root/workspace/", pid)); err == nil {
				break
			}
		}
		if err := a.m.pause(time.Millisecond); err != nil {
			return err
		}
	}
	if _, err := a.inside(data, "zstd -dcq | %s tar -C /workspace -xf -"); err != nil {
		return err
	}
	return a.woken.execute(new(spans))
}
