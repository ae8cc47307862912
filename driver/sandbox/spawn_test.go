// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestForkInit: init starts whatever numbers its binary and the files that it is given
// have. The plugin has a hundred sessions' descriptors open, with holes.
func TestForkInit(t *testing.T) {
	init, err := loadInit("/bin/true")
	if err != nil {
		t.Fatal(err)
	}
	defer init.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	at := func(t *testing.T, f *os.File, fd int) *os.File {
		t.Helper()
		if err := unix.Dup3(int(f.Fd()), fd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		moved := os.NewFile(uintptr(fd), f.Name())
		t.Cleanup(func() { moved.Close() })
		return moved
	}
	for name, fds := range map[string][2]int{
		"low":                       {901, 900}, // as they come
		"what is given lies before": {900, 899}, // ForkExec's own pipe goes on the next number
		"what is given lies far":    {900, 950},
	} {
		t.Run(name, func(t *testing.T) {
			binary := at(t, init, fds[0])
			given := at(t, null, fds[1]).Fd()
			attr := &syscall.ProcAttr{Files: []uintptr{given, given, given, ^uintptr(0), given}, Sys: &syscall.SysProcAttr{}}
			pid, err := forkInit(binary, []string{"true"}, attr)
			if err != nil {
				t.Fatal(err)
			}
			if status, err := wait(pid); err != nil || status != 0 {
				t.Errorf("status %v, %v", status, err)
			}
		})
	}
}
