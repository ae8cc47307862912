// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"path"
	"strings"
	"testing"
)

func TestCleanPath(t *testing.T) {
	for given, want := range map[string]string{
		"": ".", ".": ".", "./": ".", "/workspace": ".", "/workspace/": ".", "/workspace/.": ".", "a/..": ".",
		"a": "a", "./a": "a", "a/": "a", "a//b": "a/b", "a/./b": "a/b", "a/../b": "b", "/workspace/a/b": "a/b", "//workspace/a": "a",
		"..a": "..a", "a..": "a..", "...": "...", "workspace": "workspace", " ": " ", "ü/😀": "ü/😀", `a\b`: `a\b`, "~": "~", "C:": "C:",
		"/workspace/../workspace/a": "a",
	} {
		if got, err := cleanPath("path", given); err != nil || got != want {
			t.Errorf("%q: got %q, %v, want %q", given, got, err, want)
		}
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, seed := range []string{"a/../..", "/workspace/../x", "./..", "a/./b//c/", "/workspace/a/../../workspace2", "..\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, p string) {
		got, err := cleanPath("path", p)
		if err != nil {
			return
		}
		whole := path.Join(workspace, got)
		if path.IsAbs(got) || whole != workspace && !strings.HasPrefix(whole, workspace+"/") || strings.Contains(got, "\x00") {
			t.Errorf("%q becomes %q", p, got)
		}
		if again, err := cleanPath("path", got); err != nil || again != got {
			t.Errorf("%q becomes %q and then %q, %v", p, got, again, err)
		}
	})
}
