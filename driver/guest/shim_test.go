// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/buntime/buntime/driver/guest/wire"
)

// TestPrivileges looks at a process from inside.
func TestPrivileges(t *testing.T) {
	b := newBox(t, func(c *Config) { c.UID, c.GID, c.MaxFiles = 1000, 1001, 512 })
	if err := os.Chmod(b.workspace, 0o777); err != nil {
		t.Fatal(err)
	}
	c := b.request(wire.Request{
		Op: wire.OpRun, ID: "x", Dir: b.workspace, Argv: []string{
			"sh", "-c",
			`cat /proc/self/status; id -u; id -G; ulimit -n; ulimit -Hn; ulimit -c; echo fds: $(ls /proc/self/fd); cut -d' ' -f5,6 /proc/self/stat; echo $$`,
		},
	})
	r := c.finish()
	for _, want := range []string{
		"Uid:\t1000\t1000\t1000\t1000\n", "Gid:\t1001\t1001\t1001\t1001\n", "Groups:\t \n",
		"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
		"CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n",
		"SigBlk:\t0000000000000000\n", "SigIgn:\t0000000000000000\n",
		"\n1000\n1001\n512\n512\n0\nfds: 0 1 2 3\n", // 3 is ls's own, of the directory
	} {
		if !strings.Contains(r.stdout, want) {
			t.Errorf("no %q in\n%s%s", want, r.stdout, r.stderr)
		}
	}
	var group, session, pid int
	lines := strings.Split(strings.TrimSpace(r.stdout), "\n")
	if _, err := fmt.Sscan(strings.Join(lines[len(lines)-2:], " "), &group, &session, &pid); err != nil || group != pid || session != pid {
		t.Errorf("process %d is in group %d, session %d: %v", pid, group, session, err)
	}
}

// TestJoin puts a process into cgroups of this machine's, by descriptors as the
// host's side of a sandbox opens them.
func TestJoin(t *testing.T) {
	b := newBox(t)
	name := fmt.Sprintf("guest-test-%d", os.Getpid())
	var files []*os.File
	var want []string
	for _, h := range []struct{ dir, file, line string }{
		{"/sys/fs/cgroup", "", "0::/" + name},
		{"/sys/fs/cgroup/unified", "", "0::/" + name},
		{"/sys/fs/cgroup/pids", "tasks", ":pids:/" + name},
		{"/sys/fs/cgroup/freezer", "tasks", ":freezer:/" + name},
	} {
		if _, err := os.Stat(h.dir + "/cgroup.procs"); err != nil {
			continue
		}
		dir := filepath.Join(h.dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			b.eventually("removal of "+dir, func() bool { err := os.Remove(dir); return err == nil || os.IsNotExist(err) })
		})
		flags := os.O_RDONLY
		if h.file != "" {
			flags = os.O_WRONLY
		}
		f, err := os.OpenFile(filepath.Join(dir, h.file), flags, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files, want = append(files, f), append(want, h.line)
	}
	if len(files) == 0 {
		t.Fatal("this machine has no cgroups")
	}
	seen := b.root + "/seen"                  // until it is there, the process stays
	t.Cleanup(func() { b.write("seen", "") }) // also for a check that gave up
	check := func(c *client) {
		t.Helper()
		pid := c.await(wire.EventStarted).Pid
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			t.Fatal(err)
		}
		b.write("seen", "")
		for _, line := range want {
			if !strings.Contains(string(text), line+"\n") {
				t.Errorf("no %q in\n%s", line, text)
			}
		}
		r := c.finish()
		if err := os.Remove(seen); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(r.stdout) {
			if strings.Contains(line, name) {
				t.Errorf("the process sees the host's %q", line)
			}
		}
	}
	script := "cat /proc/self/cgroup; until [ -e " + seen + " ]; do sleep 0.01; done"
	check(b.request(wire.Request{Op: wire.OpRun, ID: "x", Argv: []string{"sh", "-c", script}}, files...))
	// A runner, and a fresh Bun in its place.
	for id, env := range map[string]map[string]string{"warm": nil, "cold": {"A": "B"}} {
		b.request(wire.Request{Op: wire.OpPrepare, ID: id, Dir: b.workspace}, files...).await(wire.EventReady)
		check(b.code(id, fmt.Sprintf("console.log(require('fs').readFileSync('/proc/self/cgroup', 'utf8')); while (!(await Bun.file(%q).exists())) await Bun.sleep(10);", seen), env))
	}
}
