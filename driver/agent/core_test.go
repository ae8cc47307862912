// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestCoreHandler has the host hand core files to a program, as systemd and
// apport do, and wants no crash in a sandbox to start it. The setting is the
// whole machine's, so that this runs in the virtual machine of e2e/vm only.
func TestCoreHandler(t *testing.T) {
	if os.Getenv("BUNTIME_TEST_VM") == "" {
		t.Skip("changes kernel.core_pattern of the machine: run by TestCgroupV2 in e2e/vm")
	}
	dir, err := os.MkdirTemp("", "core") // short: a core_pattern ends at 127 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	log := filepath.Join(dir, "log")
	handler := filepath.Join(dir, "handler")
	script := fmt.Sprintf("#!/bin/sh\ncat >/dev/null\necho \"$@\" >>%s\n", log)
	if err := os.WriteFile(handler, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	sysctl(t, "core_pattern", "|"+handler+" %e %P")
	// The kernel then lets a process go only when its handler has ended: what
	// was to be written has been when the crash is over.
	sysctl(t, "core_pipe_limit", "16")
	handled := func() string {
		text, err := os.ReadFile(log)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return string(text)
	}

	f := newFixture(t)
	seen := ""
	for _, crash := range []string{
		"kill -SEGV $$", "kill -ABRT $$", "kill -SYS $$",
		"ulimit -c unlimited; kill -SEGV $$", "ulimit -S -c 4096; kill -SEGV $$",
		"ulimit -c 0; kill -SEGV $$", "ulimit -S -c 0; kill -SEGV $$",
		"prlimit --core=0 --pid $$; kill -SEGV $$", "prlimit --core=0:0 sh -c 'kill -SEGV $$'; kill -SEGV $$",
	} {
		// bash goes on where dash gives up: at a limit that it may not set.
		if r := f.run(t, map[string]any{"command": "exec bash -c '" + strings.ReplaceAll(crash, "'", `'\''`) + "'"}); r.ExitCode < 128 {
			t.Errorf("%s: no crash: %+v", crash, r)
		}
		if text := handled(); text != seen {
			t.Errorf("%s: the host's core handler ran: %s", crash, text[len(seen):])
			seen = text
		}
	}
	f.run(t, map[string]any{"code": "process.abort()"})
	f.run(t, map[string]any{"code": "process.kill(process.pid, 'SIGSEGV'); await Bun.sleep(10_000)"})
	if text := handled(); text != seen {
		t.Errorf("Bun crashed: the host's core handler ran: %s", text[len(seen):])
		seen = text
	}

	// Outside: this process has the sandboxes' limit itself by now.
	_ = exec.Command("/bin/sh", "-c", "ulimit -c unlimited; kill -SEGV $$").Run()
	if text := handled(); !strings.Contains(text[len(seen):], "sh ") {
		t.Errorf("the handler does not run at all, so that nothing is shown: %q", text)
	}
}

// sysctl sets a setting of the kernel until the test ends.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	path := "/proc/sys/kernel/" + name
	before, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(path, before, 0); err != nil {
			t.Error(err)
		}
	})
}
