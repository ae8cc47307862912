// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestFreeze has a writer wait while the workspace is frozen, and what was
// written before it be in the image.
func TestFreeze(t *testing.T) {
	m := newManager(t, Config{})
	w := create(t, m, "a", testSize)
	root := openRoot(t, w)
	if err := root.WriteFile("f", []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Freeze(); err != nil {
			t.Fatal(err)
		}
	}
	written := make(chan error, 1)
	go func() { written <- root.WriteFile("g", []byte("after"), 0o600) }()
	select {
	case err := <-written:
		t.Errorf("written while it is frozen: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	copied := filepath.Join(m.config.Dir, readyDir, "copy")
	copyFile(t, w.Image(), copied)
	for range 2 {
		if err := w.Thaw(); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-written; err != nil {
		t.Error(err)
	}

	again, err := m.CreateFrom(t.Context(), "b", testSize, "", func(_ context.Context, path string) (Source, error) {
		return nil, os.Rename(copied, path)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := again.Destroy(contextOfProcess); err != nil {
			t.Error(err)
		}
	})
	other := openRoot(t, again)
	if b, err := other.ReadFile("f"); string(b) != "before" || err != nil {
		t.Errorf("in the image of the frozen workspace: %q, %v", b, err)
	}
	if _, err := other.Stat("g"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was written later: %v", err)
	}
	if err := other.WriteFile("h", []byte("goes on"), 0o600); err != nil {
		t.Error(err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestFrozenEnds has a frozen workspace be destroyed, closed, and opened after a
// process that froze it has died.
func TestFrozenEnds(t *testing.T) {
	m := newManager(t, Config{})
	w := create(t, m, "destroyed", testSize)
	if err := errors.Join(w.Freeze(), w.Destroy(t.Context())); err != nil {
		t.Error(err)
	}

	w = create(t, m, "died", testSize)
	if err := w.Freeze(); err != nil {
		t.Fatal(err)
	}
	w.mount.Close() // as the kernel does for a process that dies
	w.image.Close()
	w.path = "" // for create's clean-up: there is nothing to destroy
	again, err := m.Open(t.Context(), "died")
	if err != nil {
		t.Fatal(err)
	}
	root := openRoot(t, again)
	if err := errors.Join(root.WriteFile("f", []byte("x"), 0o600), root.Close()); err != nil {
		t.Error(err)
	}
	if err := again.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCreateFromFails(t *testing.T) {
	m := newManager(t, Config{})
	broken := errors.New("broken")
	_, err := m.CreateFrom(t.Context(), "a", testSize, "", func(_ context.Context, path string) (Source, error) {
		return nil, errors.Join(os.WriteFile(path, []byte("half"), 0o600), broken)
	})
	if !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	_, err = m.CreateFrom(t.Context(), "a", testSize, "", func(_ context.Context, path string) (Source, error) {
		return nil, os.WriteFile(path, make([]byte, testSize), 0o600)
	})
	if err == nil {
		t.Error("mounted zeroes")
	}
	create(t, m, "a", testSize)
	left, err := filepath.Glob(filepath.Join(m.config.Dir, readyDir, "*"))
	if len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestWritten has the count stay as long as nothing changes, and rise when
// something does.
func TestWritten(t *testing.T) {
	m := newManager(t, Config{})
	w := create(t, m, "a", testSize)
	root := openRoot(t, w)
	count := func() uint64 {
		t.Helper()
		if err := w.Sync(); err != nil {
			t.Fatal(err)
		}
		n, err := w.Written()
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := root.WriteFile("f", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := count()
	if second := count(); second != first {
		t.Errorf("nothing was written, but %d bytes", second-first)
	}
	if err := root.WriteFile("f", []byte("y"), 0o600); err != nil {
		t.Fatal(err)
	}
	if third := count(); third == first {
		t.Error("a change went unseen")
	}
}
