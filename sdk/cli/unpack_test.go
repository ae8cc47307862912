// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// archive is a tar of headers, each with its content's length filled in.
func archive(t *testing.T, entries ...any) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h, content := entries[i].(tar.Header), entries[i+1].(string)
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(content))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func unpackTo(t *testing.T, dir string, room int64, from io.Reader) (u *unpacker, said string, err error) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var told bytes.Buffer
	u = &unpacker{root: root, room: room, left: 100, refused: leftOut(&told)}
	err = u.unpack(from)
	return u, told.String(), err
}

// TestUnpackEscapes: whatever an archive has, nothing outside of the folder changes.
func TestUnpackEscapes(t *testing.T) {
	outside := t.TempDir()
	dir := filepath.Join(outside, "in")
	kept := filepath.Join(outside, "kept")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(kept, []byte("kept"), 0o600), os.Symlink(kept, filepath.Join(dir, "there")), os.Symlink(outside, filepath.Join(dir, "door"))); err != nil {
		t.Fatal(err)
	}
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	link := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}
	}
	u, said, err := unpackTo(t, dir, 1<<20, archive(t,
		file("../kept"), "bad", file("/"+kept), "bad", file("a/../../kept"), "bad",
		file("there"), "new", // a link that was there before is replaced, not written through
		file("door/kept"), "bad", file("door/new"), "bad",
		link("abs", kept), "", file("abs"), "a file of that name",
		link("up", "../kept"), "", link("deep/up", "../../kept"), "", link("d", "."), "", file("d/inside"), "fine",
		link("chain", "d/.."), "", file("chain/x"), "inside still",
		tar.Header{Typeflag: tar.TypeLink, Name: "hard", Linkname: "../kept"}, "",
		tar.Header{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8}, "", tar.Header{Typeflag: tar.TypeFifo, Name: "fifo"}, "",
		tar.Header{Typeflag: tar.TypeReg, Name: "suid", Mode: 0o4777}, "#!", file("odd\x1b]0;x\a"), "fine",
		tar.Header{Typeflag: tar.TypeDir, Name: "there/"}, "", tar.Header{Typeflag: tar.TypeDir, Name: "."}, "",
		file("last"), "last",
	))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(kept); err != nil || string(text) != "kept" {
		t.Errorf("the file outside: %q, %v", text, err)
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 2 {
		t.Errorf("outside: %v, %v", entries, err)
	}
	for name, want := range map[string]string{"there": "new", "inside": "fine", "last": "last", "abs": "a file of that name"} {
		st, serr := os.Lstat(filepath.Join(dir, name))
		text, err := os.ReadFile(filepath.Join(dir, name))
		if serr != nil || err != nil || !st.Mode().IsRegular() || string(text) != want {
			t.Errorf("%s: %v, %q, %v", name, st, text, errors.Join(err, serr))
		}
	}
	if _, err := os.Lstat(filepath.Join(dir, "chain")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link out by way of another: %v", err)
	}
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		info, ierr := d.Info()
		if ierr == nil && info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeDevice|fs.ModeNamedPipe) != 0 {
			t.Errorf("%s is %v", file, info.Mode())
		}
		if target, rerr := os.Readlink(file); rerr == nil && filepath.Base(file) != "door" && !filepath.IsLocal(target) {
			t.Errorf("%s leads to %s", file, target)
		}
		return errors.Join(err, ierr)
	})
	if err != nil {
		t.Error(err)
	}
	if u.skipped < 9 || strings.ContainsAny(said, "\x1b\a") || !strings.Contains(said, "left out ../kept") {
		t.Errorf("%d left out: %s", u.skipped, said)
	}
}

// TestUnpackSize: neither what an archive says nor what it has goes beyond the room.
func TestUnpackSize(t *testing.T) {
	var b bytes.Buffer
	if err := tar.NewWriter(&b).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "huge", Size: 1 << 60, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := unpackTo(t, t.TempDir(), 1<<20, &b); !errors.Is(err, errLarge) {
		t.Errorf("a huge file: %v", err)
	}
	part := strings.Repeat("x", 600<<10)
	file := tar.Header{Typeflag: tar.TypeReg, Name: "f"} // again and again
	if _, _, err := unpackTo(t, t.TempDir(), 1<<20, archive(t, file, part, file, part)); !errors.Is(err, errLarge) {
		t.Errorf("a file twice: %v", err)
	}
	if _, _, err := unpackTo(t, t.TempDir(), 1<<20, io.LimitReader(archive(t, file, part), 2000)); err == nil {
		t.Error("an archive that ends early is taken for a whole one")
	}
	var many []any
	for range 101 {
		many = append(many, tar.Header{Typeflag: tar.TypeDir, Name: "d/"}, "")
	}
	if _, _, err := unpackTo(t, t.TempDir(), 1<<20, archive(t, many...)); err == nil {
		t.Error("too many entries are taken")
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add("a", "b", "../x", byte(tar.TypeSymlink))
	f.Add("d/", "d/f", "/etc", byte(tar.TypeReg))
	f.Fuzz(func(t *testing.T, one, two, target string, kind byte) {
		outside := t.TempDir()
		dir := filepath.Join(outside, "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range []tar.Header{{Name: one, Typeflag: kind, Linkname: target}, {Name: two, Typeflag: tar.TypeReg}, {Name: two + "/" + one, Typeflag: tar.TypeReg}} {
			_ = w.WriteHeader(&h)
		}
		_ = w.Close()
		_, _, _ = unpackTo(t, dir, 1<<10, &b)
		if entries, err := os.ReadDir(outside); err != nil || len(entries) != 1 {
			t.Errorf("outside: %v, %v", entries, err)
		}
	})
}
