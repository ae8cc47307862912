// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func testFiles(t *testing.T) *files {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &files{root: root, uid: os.Getuid()}
}

// nest makes directories in name, one in the other, n levels below it.
func nest(t *testing.T, f *files, name string, n int) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(f.root.Name(), name, strings.Repeat("d/", n)), 0o755); err != nil {
		t.Fatal(err)
	}
}

// openFiles is a context that notes the most descriptors that were open when it
// was asked for.
type openFiles struct {
	context.Context
	t    *testing.T
	most int
}

func (c *openFiles) Err() error {
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		c.t.Error(err)
	}
	c.most = max(c.most, len(list))
	return c.Context.Err()
}

// TestRemoveAll removes what may be there, follows no link and leaves what is
// nested too deep, for which it keeps no more descriptors than that.
func TestRemoveAll(t *testing.T) {
	f := testFiles(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(f.mkdirAll("keep/in"))
	must(f.put("keep/file", nil))
	for _, name := range []string{"tree/a/b/c", "tree/d", "elsewhere/e/f"} {
		must(f.mkdirAll(name))
		must(f.put(path.Join(name, "file"), []byte("x")))
	}
	for i := range 3 * removeBatch {
		must(f.put(fmt.Sprintf("tree/a/file%d", i), nil))
	}
	must(f.root.Symlink("../keep", "tree/link"))
	must(f.root.Symlink("elsewhere", "way"))
	must(f.put("single", nil))
	nest(t, f, "just", maxDepth)

	for _, name := range []string{"tree", "tree", "single", "way/e", "way", "nowhere/at/all", "just"} {
		if err := f.removeAll(t.Context(), name); err != nil {
			t.Errorf("remove %s: %v", name, err)
		}
	}
	left, err := os.ReadDir(f.root.Name())
	must(err)
	if got := fmt.Sprint(left); len(left) != 2 || left[0].Name() != "elsewhere" || left[1].Name() != "keep" {
		t.Errorf("left: %s, want elsewhere and keep", got)
	}
	for name, want := range map[string]int{"keep": 2, "elsewhere": 0} {
		if list, err := os.ReadDir(filepath.Join(f.root.Name(), name)); err != nil || len(list) != want {
			t.Errorf("left in %s: %v, %v", name, list, err)
		}
	}

	nest(t, f, "deep", 2*maxDepth)
	ctx := &openFiles{Context: t.Context(), t: t}
	_ = ctx.Err()
	before := ctx.most
	if err := f.removeAll(ctx, "deep"); !errors.Is(err, errDeep) {
		t.Errorf("remove what is too deep: %v", err)
	}
	if took := ctx.most - before; took < maxDepth || took > maxDepth+16 { // some for whatever else opens files
		t.Errorf("%d descriptors taken for %d levels", took, maxDepth)
	}
	if _, err := os.Stat(filepath.Join(f.root.Name(), "deep", strings.Repeat("d/", 2*maxDepth))); err != nil {
		t.Error(err)
	}

	done, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.removeAll(done, "keep"); !errors.Is(err, context.Canceled) {
		t.Errorf("with nobody who waits: %v", err)
	}
}

// TestRemoveAllOneAtATime wants a second removal of a session to wait, and no
// longer than its context.
func TestRemoveAllOneAtATime(t *testing.T) {
	f := testFiles(t)
	f.removing() <- struct{}{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := f.removeAll(ctx, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	<-f.removing()
	if err := f.removeAll(t.Context(), "x"); err != nil {
		t.Error(err)
	}
}

// TestPrunePassesOverDeepDirectories has entries among the oldest executions that
// are nested too deep: they stay, the others go.
func TestPrunePassesOverDeepDirectories(t *testing.T) {
	f := testFiles(t)
	const size = 1 << 20
	h := &history{files: f, known: -1, limit: size}
	nest(t, f, entryDir("deep"), 2*maxDepth)
	old := time.Unix(1000, 0)
	if err := f.root.Chtimes(entryDir("deep"), old, old); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		id := fmt.Sprintf("exe_%d", n)
		if err := f.mkdirAll(entryDir(id)); err != nil {
			t.Fatal(err)
		}
		if err := f.put(path.Join(entryDir(id), "stdout"), make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(2000+n), 0)
		if err := f.root.Chtimes(entryDir(id), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.prune(size); err != nil {
		t.Fatal(err)
	}
	all, err := h.entries()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range all {
		names = append(names, e.name)
	}
	if got := strings.Join(names, " "); got != "deep exe_2" {
		t.Errorf("left: %s", got)
	}
}

// TestDeleteDeepDirectory asks the API for it.
func TestDeleteDeepDirectory(t *testing.T) {
	f := newFixture(t)
	if r := f.run(t, map[string]any{"command": "mkdir -p flat/a/b deep/$(printf 'd/%.0s' $(seq 300)) && echo x >flat/a/c"}); r.ExitCode != 0 {
		t.Fatalf("%+v", r)
	}
	var answer struct{ Error Error }
	if status := f.call(t, "DELETE", "/v1/files?recursive=true&path=deep", nil, &answer); status != 400 || !strings.Contains(answer.Error.Message, "nested") {
		t.Errorf("deep: %d %+v", status, answer)
	}
	if status := f.call(t, "DELETE", "/v1/files?recursive=true&path=flat", nil, nil); status != 200 {
		t.Errorf("flat: %d", status)
	}
	if r := f.run(t, map[string]any{"command": "ls; rm -r deep"}); r.Stdout != "deep\n" || r.ExitCode != 0 {
		t.Errorf("%+v", r)
	}
}
