// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMkdirWhileSwapped: a session that exchanges a directory for a link out of its
// workspace, while the API makes one in it, is left with none of root's.
func TestMkdirWhileSwapped(t *testing.T) {
	f := testFiles(t)
	f.uid = 12345
	at := func(name string) string { return filepath.Join(f.root.Name(), name) }
	if err := os.Mkdir(at("cur"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(t.TempDir(), at("link")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var swapper sync.WaitGroup
	defer swapper.Wait()
	defer stop()
	swapper.Go(func() {
		for ctx.Err() == nil {
			_ = unix.Renameat2(unix.AT_FDCWD, at("cur"), unix.AT_FDCWD, at("link"), unix.RENAME_EXCHANGE)
		}
	})
	made, refused := 0, 0
	for deadline := time.Now().Add(20 * time.Second); (made < 2000 || refused < 2000) && time.Now().Before(deadline); {
		if err := f.mkdirAll("cur/made"); err != nil {
			refused++
		} else {
			made++
		}
		for _, name := range []string{"cur/made", "link/made"} { // one of them leads into the workspace
			var st unix.Stat_t
			if unix.Lstat(at(name), &st) == nil && st.Uid != uint32(f.uid) {
				t.Fatalf("%s is of user %d, after %d that were made", name, st.Uid, made)
			}
			_ = os.Remove(at(name))
		}
	}
	if made == 0 || refused == 0 {
		t.Errorf("no race: %d were made, %d refused", made, refused)
	}
}
