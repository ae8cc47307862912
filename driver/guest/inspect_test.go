// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestInspectIsBounded looks at a process with a long command line, once and
// many times, and at some of one's descriptors.
func TestInspectIsBounded(t *testing.T) {
	cmd := exec.Command("sh", append([]string{"-c", "echo; read x", "sh"}, slices.Repeat([]string{strings.Repeat("x", 100_000)}, 15)...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 1)); err != nil { // only now it surely is that program
		t.Fatal(err)
	}
	for _, n := range []int{1, 1024} {
		list := inspect(slices.Repeat([]int{cmd.Process.Pid}, n))
		all := 0
		for _, p := range list {
			all += len(p.Command)
		}
		if most := min(n*maxCommand, maxCommands); len(list) != n || all > most || all < most/2 || !strings.HasPrefix(list[0].Command, "sh -c echo; read x") {
			t.Errorf("%d of %d processes, with %d bytes of commands", len(list), n, all)
		}
	}

	const some = 50
	for range some {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(pair[0]); syscall.Close(pair[1]) })
	}
	if n := len(sockets(os.Getpid(), maxDescriptors)); n < 2*some {
		t.Errorf("%d sockets, want at least %d", n, 2*some)
	}
	if n := len(sockets(os.Getpid(), some)); n == 0 || n > some {
		t.Errorf("%d sockets among %d descriptors", n, some)
	}
}
