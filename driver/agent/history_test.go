// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"fmt"
	"os"
	"path"
	"testing"
	"time"
)

// TestHistoryIsBoundedInBytes: the oldest go when all together take too much, and
// the newest stays whatever it takes.
func TestHistoryIsBoundedInBytes(t *testing.T) {
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	const size = 1 << 20
	h := &history{files: &files{root: root, uid: os.Getuid()}, known: -1, limit: 8 * size}
	record := func(n int, bytes int64) {
		t.Helper()
		id := fmt.Sprintf("exe_%03d", n)
		if err := h.files.mkdirAll(entryDir(id)); err != nil {
			t.Fatal(err)
		}
		if err := h.files.put(path.Join(entryDir(id), "stdout"), make([]byte, bytes)); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1000+n), 0)
		if err := root.Chtimes(entryDir(id), at, at); err != nil {
			t.Fatal(err)
		}
		if err := h.prune(bytes); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 40 {
		record(n, size)
		all, err := h.entries()
		if err != nil {
			t.Fatal(err)
		}
		if len(all) > 8+8/4+1 || all[len(all)-1].name != fmt.Sprintf("exe_%03d", n) {
			t.Fatalf("after %d: %d entries, the newest is %s", n, len(all), all[len(all)-1].name)
		}
	}
	record(40, 20*size)
	all, err := h.entries()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].name != "exe_040" {
		t.Fatalf("beside one that is too big alone: %+v", all)
	}
}
