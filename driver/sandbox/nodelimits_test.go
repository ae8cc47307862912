// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestRaiseNodeLimits: what is too low is raised, what is high enough or not
// there is left alone.
func TestRaiseNodeLimits(t *testing.T) {
	dir := t.TempDir()
	put := func(key, value string) {
		t.Helper()
		path := filepath.Join(dir, key)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("fs/file-max", "2466177")
	put("kernel/pid_max", "32768")
	put("kernel/threads-max", "9999999")
	if err := raiseNodeLimits(dir); err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"fs/file-max": strconv.Itoa(math.MaxInt64), "kernel/pid_max": "4194304", "kernel/threads-max": "9999999",
	} {
		got, err := os.ReadFile(filepath.Join(dir, key))
		if err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: got %q, %v, want %s", key, got, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "fs/fanotify")); err == nil {
		t.Error("a limit was made up")
	}
	put("kernel/pid_max", "many")
	if err := raiseNodeLimits(dir); err == nil {
		t.Error("no error of a limit that is no number")
	}
}
