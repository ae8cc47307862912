// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFinish: what a client has given up is removed once nobody uses it, and not before.
func TestFinish(t *testing.T) {
	s := &Stack{Dir: t.TempDir()}
	c := &Client{stack: s, Name: "client"}
	c.Agent.process = &process{log: filepath.Join(s.Dir, "log")}
	alloc := filepath.Join(s.Dir, "client", allocsIn, "id")
	secrets := filepath.Join(alloc, "task", "secrets")
	if err := os.MkdirAll(secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", secrets, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(secrets, unix.MNT_DETACH) })
	used, err := os.Create(filepath.Join(secrets, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer used.Close()
	said := fmt.Sprintf("failed to remove alloc dir %q: device or resource busy\nfailed to remove alloc dir %q: x\n", alloc, s.Dir)
	if err := os.WriteFile(c.Agent.process.log, []byte(said), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.finish(); !errors.Is(err, unix.EBUSY) {
		t.Errorf("while it is used: %v", err)
	}
	if _, err := os.Stat(used.Name()); err != nil {
		t.Errorf("while it is used: %v", err)
	}
	used.Close()
	for range 2 {
		if err := c.finish(); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(alloc); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there still: %v", err)
	}
}
