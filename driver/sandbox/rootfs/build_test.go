// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package rootfs

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func run(t testing.TB, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("run %s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.Bytes())
	}
	return strings.TrimSpace(string(out))
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
}

// bun is the one of the tool cache.
func bun(t testing.TB) string {
	t.Helper()
	return run(t, nil, "../../../e2e/tools/get", "bun")
}

// TestReproducible builds twice, the second time from what the first wrote down,
// and wants the same to the byte.
func TestReproducible(t *testing.T) {
	needRoot(t)
	binary := bun(t)
	first, second := t.TempDir(), t.TempDir()
	image := run(t, []string{"BUNTIME_CACHE=" + first}, "./build", "--image", binary)
	tree := run(t, []string{"BUNTIME_CACHE=" + first}, "./build", binary)
	lock := filepath.Join(tree, "etc/buntime-packages")
	pinned := []string{"BUNTIME_CACHE=" + second, "BUNTIME_ROOTFS_LOCK=" + lock}
	again := run(t, pinned, "./build", "--image", binary)
	treeAgain := run(t, pinned, "./build", binary)

	if a, b := list(t, tree), list(t, treeAgain); a != b {
		t.Errorf("trees differ:\n%s", difference(a, b))
	}
	if a, b := digest(t, image), digest(t, again); a != b {
		t.Errorf("images differ: %s, %s", a, b)
	}

	// A list that names another package file is refused.
	text, err := os.ReadFile(lock)
	if err != nil {
		t.Fatal(err)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	wrong := filepath.Join(t.TempDir(), "lock")
	forged := strings.Replace(string(text), line[len(line)-64:], strings.Repeat("0", 64), 1)
	if err := os.WriteFile(wrong, []byte(forged), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "./build", binary)
	cmd.Env = append(os.Environ(), "BUNTIME_CACHE="+second, "BUNTIME_ROOTFS_LOCK="+wrong)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "these are not the packages of") {
		t.Errorf("with a wrong digest: %v\n%s", err, out)
	}
	checkTree(t, tree)
}

// list describes each file of a tree in all that it is.
func list(t *testing.T, tree string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		name, _ := filepath.Rel(tree, path)
		fmt.Fprintf(&b, "%s %s %d:%d %s", name, info.Mode(), st.Uid, st.Gid, info.ModTime())
		switch {
		case info.Mode().IsRegular():
			fmt.Fprintf(&b, " %d links %s", st.Nlink, digest(t, path))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			b.WriteString(" -> " + target)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func digest(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

func difference(a, b string) string {
	have := map[string]bool{}
	for line := range strings.Lines(b) {
		have[line] = true
	}
	var out strings.Builder
	for line := range strings.Lines(a) {
		if !have[line] {
			out.WriteString(line)
		}
	}
	return out.String()
}

// checkTree wants nothing in a root that a sandbox could gain by, and all that
// it mounts over.
func checkTree(t *testing.T, tree string) {
	t.Helper()
	err := filepath.WalkDir(tree, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		mode := info.Mode()
		switch {
		case mode&(fs.ModeSetuid|fs.ModeSetgid) != 0:
			t.Errorf("%s is setuid or setgid", path)
		case mode&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0:
			t.Errorf("%s is a %s", path, mode)
		case mode&fs.ModeSymlink == 0 && mode.Perm()&0o022 != 0 && path != filepath.Join(tree, "tmp"):
			t.Errorf("others may write to %s: %s", path, mode)
		case st.Uid != st.Gid || st.Uid != 0 && st.Uid != 1000:
			t.Errorf("%s belongs to %d:%d", path, st.Uid, st.Gid)
		case strings.Contains(entry.Name(), "shadow"):
			t.Errorf("there is %s", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"alloc", "dev", "home/bun", "local", "proc", "run", "secrets", "sys", "tmp", "workspace"} {
		if info, err := os.Lstat(filepath.Join(tree, dir)); err != nil || !info.IsDir() {
			t.Errorf("no directory /%s: %v", dir, err)
		}
	}
	for _, file := range []string{"etc/hostname", "etc/hosts", "etc/machine-id", "etc/resolv.conf"} {
		if info, err := os.Lstat(filepath.Join(tree, file)); err != nil || !info.Mode().IsRegular() || info.Size() != 0 {
			t.Errorf("no empty file /%s: %v", file, err)
		}
	}
}
