// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/driver"
)

// TestIdleKeepsOneRunner: a session with two runners that becomes idle has one, which
// the next execution gets.
func TestIdleKeepsOneRunner(t *testing.T) {
	f := newFixture(t)
	s := f.instance.(*instance).session
	ready := func() []*runner {
		s.runners.mu.Lock()
		defer s.runners.mu.Unlock()
		return slices.Clone(s.runners.ready)
	}
	f.run(t, map[string]any{"code": "console.log(1)"})
	for deadline := time.Now().Add(10 * time.Second); len(ready()) < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d runners are ready", len(ready()))
		}
	}
	f.call(t, "POST", "/v1/sleep", map[string]any{"state": lifeIdle}, nil)
	kept := ready()
	units, err := s.box.Group().Executions()
	if err != nil {
		t.Fatal(err)
	}
	units = slices.DeleteFunc(units, func(u string) bool { return !strings.HasPrefix(u, runnerUnit+"-") })
	if len(kept) != 1 || len(units) != 1 || units[0] != kept[0].unit {
		t.Fatalf("idle, there are %d runners, in %v", len(kept), units)
	}
	if r := f.run(t, map[string]any{"code": "console.log(2)"}); r.Stdout != "2\n" {
		t.Errorf("stdout %q", r.Stdout)
	}
	if slices.Contains(ready(), kept[0]) {
		t.Error("the runner that was kept was not used")
	}
}

// descriptorNames says what the descriptors of this process are.
func descriptorNames(t *testing.T) string {
	t.Helper()
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, fd := range fds {
		name, _ := os.Readlink(fd) // that of the listing itself is gone
		all = append(all, name)
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// TestNothingIsKept: of a session that has ended the plugin holds no goroutine and no
// descriptor, however it was used.
func TestNothingIsKept(t *testing.T) {
	const sessions = 12
	node := newFixture(t)
	live := func(n int) {
		task := *node.task
		task.ID, task.AllocID = fmt.Sprintf("alloc%d/session/1", n), fmt.Sprintf("%s-%d", node.task.AllocID, n)
		task.Session = &driver.Session{ID: fmt.Sprintf("ses_kept%d", n), Epoch: 1, ExpiresAt: time.Now().Add(time.Hour)}
		task.API, task.Preview = freeAddress(t), freeAddress(t)
		f := &fixture{agent: node.agent, config: node.config, task: &task}
		var err error
		if f.instance, err = node.agent.Start(t.Context(), f.task); err != nil {
			t.Fatal(err)
		}
		f.run(t, map[string]any{"code": `Bun.serve({ port: 8080, fetch: () => new Response("x") })`})
		f.run(t, map[string]any{"command": "sleep 1000 & echo written >file"})
		if code := f.call(t, "POST", "/v1/sleep", map[string]any{"state": lifeIdle}, nil); code != 200 {
			t.Fatalf("sleep: status %d", code)
		}
		if n%2 == 0 { // the others end while they stand still
			f.run(t, map[string]any{"code": "console.log(1)"})
		}
		if err := f.instance.Destroy(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	held := func() (goroutines, descriptors int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return runtime.NumGoroutine(), len(fds)
	}
	live(0)
	// What is made in advance has been used up, and is there again when nothing changes
	// any more.
	goroutines, descriptors := held()
	for since, limit := time.Now(), time.Now().Add(30*time.Second); time.Since(since) < time.Second && time.Now().Before(limit); time.Sleep(20 * time.Millisecond) {
		if g, d := held(); g != goroutines || d != descriptors {
			goroutines, descriptors, since = g, d, time.Now()
		}
	}
	for n := range sessions {
		live(n + 1)
	}
	// What is made in advance comes and goes, but less than one for each session.
	deadline := time.Now().Add(30 * time.Second)
	for {
		g, d := held()
		if g < goroutines+sessions && d < descriptors+sessions {
			return
		}
		if time.Now().After(deadline) {
			all := make([]byte, 1<<20)
			t.Fatalf("after %d sessions there are %d goroutines, %d before, and %d descriptors, %d before\n%s\n%s",
				sessions, g, goroutines, d, descriptors, all[:runtime.Stack(all, true)], descriptorNames(t))
		}
		time.Sleep(20 * time.Millisecond)
	}
}
