// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// contextOfProcess outlives a test's own context, for its clean-up.
var contextOfProcess = context.Background()

func TestEmpty(t *testing.T) {
	m := newManager(t, Config{})
	for _, size := range []int64{8 << 20, testSize, 1 << 30, 5 << 30} {
		w := create(t, m, fmt.Sprint(size), size)
		root := openRoot(t, w)
		entries, err := fs.ReadDir(root.FS(), ".")
		if len(entries) != 0 || err != nil {
			t.Errorf("not empty: %v, %v", entries, err)
		}
		st, err := root.Stat(".")
		if err != nil {
			t.Fatal(err)
		}
		if sys := st.Sys().(*syscall.Stat_t); sys.Uid != owner || sys.Gid != owner || st.Mode().Perm() != 0o755 {
			t.Errorf("top directory: %d:%d %v", sys.Uid, sys.Gid, st.Mode())
		}
		u := usage(t, w)
		if n := int64(u.Free); n < size || n > size+size/50+2<<20 {
			t.Errorf("%d bytes free of %d: %+v", n, size, u)
		}
		if u.FreeInodes < uint64(size/bytesPerInode) {
			t.Errorf("%d inodes for %d bytes", u.FreeInodes, size)
		}
		if u.Allocated > 2<<20 {
			t.Errorf("%d bytes of the node's disk for an empty workspace", u.Allocated)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), w.dev+" ") {
			t.Errorf("%s is mounted on the host: %v", w.dev, err)
		}
	}
}

func TestNames(t *testing.T) {
	m := newManager(t, Config{})
	for _, id := range []string{"", ".", "..", "../a", "a/b", ".hidden", strings.Repeat("a", 200)} {
		if _, err := m.Create(t.Context(), id, testSize); err == nil {
			t.Errorf("Create(%q) succeeded", id)
		}
		if _, err := m.Open(t.Context(), id); err == nil {
			t.Errorf("Open(%q) succeeded", id)
		}
	}
	create(t, m, "a", testSize)
	if _, err := m.Create(t.Context(), "a", testSize); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second Create: %v", err)
	}
	if _, err := m.Open(t.Context(), "b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of nothing: %v", err)
	}
}

func TestFull(t *testing.T) {
	m := newManager(t, Config{})
	w := create(t, m, "a", testSize)
	root := openRoot(t, w)
	f, err := root.Create("big")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block, written := make([]byte, 1<<20), 0
	for i := range block {
		block[i] = byte(i)
	}
	for err == nil {
		var n int
		n, err = f.Write(block)
		written += n
	}
	if !errors.Is(err, unix.ENOSPC) || written < testSize-1<<20 || written > testSize+2<<20 {
		t.Errorf("%d bytes written, then %v", written, err)
	}
	if err := f.Sync(); err != nil {
		t.Error(err)
	}
	full := usage(t, w)
	if full.Free > 1<<20 || full.Allocated < testSize*9/10 {
		t.Errorf("full: %+v", full)
	}
	f.Close()
	if err := root.Remove("big"); err != nil {
		t.Fatal(err)
	}
	if u := usage(t, w); u.Free < testSize {
		t.Errorf("after removal: %+v", u)
	}
	if _, err := w.Trim(); err != nil {
		t.Fatal(err)
	}
	if u := usage(t, w); u.Allocated > full.Allocated/10 {
		t.Errorf("after Trim: %+v", u)
	}
}

func TestInodes(t *testing.T) {
	m := newManager(t, Config{})
	w := create(t, m, "a", 4<<20)
	root := openRoot(t, w)
	var err error
	n := 0
	for ; err == nil; n++ {
		var f *os.File
		if f, err = root.Create(fmt.Sprint(n)); err == nil {
			f.Close()
		}
	}
	if u := usage(t, w); !errors.Is(err, unix.ENOSPC) || u.FreeInodes != 0 || u.Free == 0 {
		t.Errorf("after %d files %v: %+v", n, err, u)
	}
	if err := root.Remove("0"); err != nil {
		t.Error(err)
	}
	if u := usage(t, w); u.FreeInodes != 1 {
		t.Errorf("after removal: %+v", u)
	}
}

func TestParallel(t *testing.T) {
	m := newManager(t, Config{Ready: 2, ReadySize: testSize})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			w, err := m.Create(t.Context(), fmt.Sprint(i), testSize)
			if err != nil {
				t.Error(err)
				return
			}
			root, err := w.Root()
			if err == nil {
				err = errors.Join(root.WriteFile("a", []byte("b"), 0o600), root.Close(), w.Destroy(t.Context()))
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	eventually(t, "the trash to be empty", func() bool {
		names, err := filepath.Glob(filepath.Join(m.config.Dir, trashDir, "*"))
		return err == nil && len(names) == 0
	})
}

// TestRestart opens a workspace that a sandbox has mounted, as a plugin does
// that was killed and started again.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	before := newManager(t, Config{Dir: dir})
	w, err := before.Create(t.Context(), "a", testSize)
	if err != nil {
		t.Fatal(err)
	}
	mnt := mountFor(t, w)
	box := startSandbox(t, mnt)
	mnt.Close()
	if got := box.run(t, "stat -c '%u %g' . && echo old > f"); got != "1000 1000 <nil>" {
		t.Errorf("the top directory in the sandbox: %s", got)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}

	after := newManager(t, Config{Dir: dir})
	w, err = after.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	root := openRoot(t, w)
	st, err := root.Stat("f")
	if err != nil {
		t.Fatal(err)
	}
	if sys := st.Sys().(*syscall.Stat_t); sys.Uid != owner || sys.Gid != owner {
		t.Errorf("a file of the sandbox, on the disk: %d:%d", sys.Uid, sys.Gid)
	}
	// Without a sync in between, only one and the same superblock shows it.
	if err := root.WriteFile("f", []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := box.run(t, "cat f"); got != "new <nil>" {
		t.Errorf("in the sandbox: %s", got)
	}
	if n := len(loops(t, dir)); n != 1 {
		t.Errorf("%d loop devices", n)
	}
	root.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := w.Destroy(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Destroy with the sandbox alive: %v", err)
	}
	box.end()
	for range 2 {
		if err := w.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if _, err := after.Open(t.Context(), "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open of a destroyed one: %v", err)
	}
}

// TestReopen opens one whose sandbox is gone too: it is bound anew.
func TestReopen(t *testing.T) {
	m := newManager(t, Config{})
	w, err := m.Create(t.Context(), "a", testSize)
	if err != nil {
		t.Fatal(err)
	}
	root := openRoot(t, w)
	if err := root.WriteFile("f", []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	root.Close()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the loop device to go", func() bool { return len(loops(t, m.config.Dir)) == 0 })
	w, err = m.Open(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	root = openRoot(t, w)
	if b, err := root.ReadFile("f"); string(b) != "kept" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	root.Close()
	if err := w.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestReady(t *testing.T) {
	m := newManager(t, Config{Ready: 3, ReadySize: testSize})
	for i := range 6 {
		eventually(t, "ready workspaces", func() bool { return len(m.ready) == 3 })
		begin := time.Now()
		w := create(t, m, fmt.Sprint(i), testSize)
		t.Logf("taken in %v", time.Since(begin))
		if filepath.Base(w.path) != fmt.Sprint(i)+suffix {
			t.Errorf("image %s", w.path)
		}
	}
	create(t, m, "other", 2*testSize)
}

func TestSweep(t *testing.T) {
	dir := t.TempDir()
	m := newManager(t, Config{Dir: dir})
	kept, dropped := create(t, m, "kept", testSize), create(t, m, "dropped", testSize)
	for _, w := range []*Workspace{kept, dropped} {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		w.path = "" // for create's clean-up: there is nothing to destroy
	}
	leftover := filepath.Join(dir, readyDir, "new-1"+suffix)
	if err := os.WriteFile(leftover, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	again := newManager(t, Config{Dir: dir})
	if err := again.Sweep([]string{"kept"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "only one image to be left", func() bool {
		var left []string
		err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				left = append(left, d.Name())
			}
			return err
		})
		return (err == nil || errors.Is(err, fs.ErrNotExist)) && len(left) == 1 && left[0] == "kept"+suffix
	})
}

func TestFullNode(t *testing.T) {
	m := newManager(t, Config{Reserve: 1 << 60})
	if _, err := m.Create(t.Context(), "a", testSize); !errors.Is(err, ErrNoSpace) {
		t.Errorf("got %v", err)
	}
}

func TestBareDev(t *testing.T) {
	dir := t.TempDir()
	newManager(t, Config{Dir: dir}) // which looks for what is left
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), dirEnv+"="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	launch(t, cmd, "bare /dev")
}

func BenchmarkCreate(b *testing.B) {
	m := newManager(b, Config{})
	for b.Loop() {
		w, err := m.Create(b.Context(), "a", 1<<30)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := w.Destroy(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
