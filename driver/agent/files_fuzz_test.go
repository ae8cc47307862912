// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"path"
	"strings"
	"testing"
)

// FuzzClean: what is let through lies in the workspace, as far as a text can
// tell. Links are the os.Root's to refuse.
func FuzzClean(f *testing.F) {
	for _, seed := range []string{"a/b", "./a/../b", "/workspace/a", "/workspace/../x", "..", "a/../../b", "/workspacex", "//workspace//a", "a\x00", "", "/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, p string) {
		c, err := clean("path", p)
		if err == nil && (c == "" || path.IsAbs(c) || path.Clean(c) != c || c == ".." || strings.HasPrefix(c, "../") || strings.IndexByte(c, 0) >= 0) {
			t.Errorf("%q becomes %q", p, c)
		}
	})
}
