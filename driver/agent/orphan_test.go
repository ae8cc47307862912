// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/sandbox"
)

// TestOrphanInParts sweeps a sandbox whose task Nomad has given up while it was being
// started: some of its cgroups are gone, and its init lives.
func TestOrphanInParts(t *testing.T) {
	f := newFixture(t)
	st, err := sandbox.UnmarshalState(f.instance.State())
	if err != nil {
		t.Fatal(err)
	}
	if err := f.agent.Close(); err != nil {
		t.Fatal(err)
	}
	f.instance = nothing{f.instance}
	loseSession(t, st.Scope.Path)
	if f.agent, err = Open(context.Background(), f.config, hclog.NewNullLogger()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := f.agent.(*Agent).node.Sweep(ctx); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(st.Pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("init is still there: %v", err)
	}
	left, err := filepath.Glob(filepath.Join(f.config.StateDir, "sandboxes", "*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// nothing is an instance of which nothing is there any more.
type nothing struct{ driver.Instance }

func (nothing) Destroy(context.Context) error { return nil }

// loseSession removes the session's cgroup, in one of the hierarchies if there are
// several. The processes in it go to init's.
func loseSession(t *testing.T, scope string) {
	t.Helper()
	var dirs []string
	for _, hierarchy := range []string{"cpu", ""} { // of v1, of v2
		dirs = append(dirs, filepath.Join("/sys/fs/cgroup", hierarchy, scope))
	}
	dir := dirs[0]
	if _, err := os.Stat(dir); err != nil {
		dir = dirs[1]
	}
	session := filepath.Join(dir, "session")
	all, _ := filepath.Glob(filepath.Join(session, "*", "cgroup.procs")) // the pattern is right
	for _, procs := range append(all, filepath.Join(session, "cgroup.procs")) {
		text, err := os.ReadFile(procs)
		if err != nil {
			t.Fatal(err)
		}
		for pid := range strings.FieldsSeq(string(text)) {
			if err := os.WriteFile(filepath.Join(dir, "init", "cgroup.procs"), []byte(pid), 0); err != nil && !errors.Is(err, unix.ESRCH) {
				t.Fatal(err)
			}
		}
		if err := os.Remove(filepath.Dir(procs)); err != nil {
			t.Fatal(err)
		}
	}
}
