// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

const testSize = 64 << 20

func newManager(t *testing.T, ready int) *Manager {
	t.Helper()
	m, err := New(Config{Dir: t.TempDir(), Ready: ready, ReadySize: testSize}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		m.Close()
		noLoops(t, m.config.Dir)
	})
	return m
}

// noLoops waits until no loop device has an image of dir: the kernel frees them
// a moment after the last unmount.
func noLoops(t *testing.T, dir string) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		var left []string
		names, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
		for _, name := range names {
			if b, err := os.ReadFile(name); err == nil && strings.HasPrefix(string(b), dir) {
				left = append(left, name)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("loop devices left: %v", left)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func create(t *testing.T, m *Manager, id string) (*Workspace, *os.Root) {
	t.Helper()
	w, err := m.Create(t.Context(), id, testSize)
	if err != nil {
		t.Fatal(err)
	}
	root, err := w.Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		root.Close()
		if err := w.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return w, root
}

func TestEmptyAndOwned(t *testing.T) {
	_, root := create(t, newManager(t, 0), "a")
	st, err := root.Stat(".")
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); sys.Uid != 1000 || sys.Gid != 1000 {
		t.Errorf("root belongs to %d:%d", sys.Uid, sys.Gid)
	}
	d, err := root.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if names, _ := d.Readdirnames(-1); len(names) != 0 {
		t.Errorf("not empty: %v", names)
	}
}

func TestSizeIsTheLimit(t *testing.T) {
	w, root := create(t, newManager(t, 0), "a")
	f, err := root.Create("big")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := make([]byte, 1<<20)
	var written int
	for err == nil {
		var n int
		n, err = f.Write(block)
		written += n
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("full disk says %v", err)
	}
	if written > testSize || written < testSize*9/10 {
		t.Errorf("took %d bytes of %d", written, testSize)
	}
	if err := f.Truncate(0); err != nil {
		t.Fatal(err)
	}
	if u, err := w.Usage(); err != nil || u.Free < testSize*9/10 {
		t.Errorf("after deletion %+v, %v", u, err)
	}
}

func TestFoundAgain(t *testing.T) {
	m := newManager(t, 0)
	_, root := create(t, m, "a")
	if err := root.WriteFile("x", []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	again, err := New(Config{Dir: m.config.Dir}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	w, err := again.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	r, err := w.Root()
	if err != nil {
		t.Fatal(err)
	}
	b, err := r.ReadFile("x")
	r.Close()
	w.mount.Close()
	if err != nil || string(b) != "kept" {
		t.Fatalf("read %q, %v", b, err)
	}
	if _, err := again.Open(t.Context(), "other"); !errors.Is(err, ErrGone) {
		t.Fatalf("an unknown workspace: %v", err)
	}
}

func TestManyAtOnceLeaveNoLoopDevice(t *testing.T) {
	m := newManager(t, 2)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			w, err := m.Create(t.Context(), string(rune('a'+i)), testSize)
			if err != nil {
				t.Error(err)
				return
			}
			if err := w.Destroy(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func BenchmarkCreate(b *testing.B) {
	for _, ready := range []int{0, 4} {
		name := "made when asked"
		if ready > 0 {
			name = "made in advance"
		}
		b.Run(name, func(b *testing.B) {
			m, err := New(Config{Dir: b.TempDir(), Ready: ready, ReadySize: 1 << 30}, hclog.NewNullLogger())
			if err != nil {
				b.Fatal(err)
			}
			defer m.Close()
			for b.Loop() {
				w, err := m.Create(b.Context(), "x", 1<<30)
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if err := w.Destroy(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}
