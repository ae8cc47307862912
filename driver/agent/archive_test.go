// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"archive/tar"
	"bytes"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/buntime/buntime/driver/claim"
)

// surrounded is a workspace in a directory that has something else in it.
func surrounded(t testing.TB) (f *files, around string) {
	t.Helper()
	around = t.TempDir()
	if err := os.Mkdir(filepath.Join(around, "workspace"), 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(filepath.Join(around, "workspace"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return &files{root: root, uid: os.Getuid()}, around
}

// made is a tar of headers, each with its name as the content.
func made(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func unpackTo(t testing.TB, f *files, dir string, archive []byte) error {
	t.Helper()
	u := unpacker{files: f, dir: dir, maxFile: 1000, maxFiles: 10, room: 1 << 20}
	return u.unpack(t.Context(), bytes.NewReader(archive))
}

// TestArchive packs a tree and unpacks it.
func TestArchive(t *testing.T) {
	from, _ := surrounded(t)
	at := time.Unix(1_700_000_000, 0)
	for name, content := range map[string]string{"a/b/c": "c", "a/run": "x", "a/empty": "", ".buntime/hidden": "h", "a/ü": "u"} {
		if _, err := from.write("path", name, []byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		from.root.Chmod("a/run", 0o755), from.root.Chtimes("a/run", at, at), from.root.Symlink("b/c", "a/link"), from.root.Symlink("/etc", "a/out"), from.root.Mkdir("a/none", 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	packed := func(kind, of string) []byte {
		t.Helper()
		dir, name, err := from.openDir(of)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		var b bytes.Buffer
		if err := pack(t.Context(), &b, kind, dir, name, 1<<20); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	if bytes.Contains(packed(tarKind, "."), []byte("hidden")) {
		t.Error("the history is in the archive")
	}
	to, _ := surrounded(t)
	if err := (&unpacker{files: to, dir: ".", maxFile: 1000, maxFiles: 100, room: 1 << 20}).unpack(t.Context(), bytes.NewReader(packed(tarKind, "a"))); err == nil || !strings.Contains(err.Error(), "leads out") {
		t.Errorf("a link that leads out: %v", err)
	}
	if err := from.root.Remove("a/out"); err != nil {
		t.Fatal(err)
	}
	z, err := zstd.NewReader(bytes.NewReader(packed(zstdKind, "a")))
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	b, err := io.ReadAll(z)
	if err != nil || !bytes.Equal(b, packed(tarKind, "a")) {
		t.Fatalf("%d bytes unpacked, %v", len(b), err)
	}
	u := unpacker{files: to, dir: "x/y", maxFile: 1000, maxFiles: 100, room: 1 << 20}
	if err := u.unpack(t.Context(), bytes.NewReader(b)); err != nil {
		t.Fatal(err)
	}
	if u.count != 4 || u.size != 3 {
		t.Errorf("%d files of %d bytes", u.count, u.size)
	}
	for name, want := range map[string]string{"x/y/b/c": "c", "x/y/run": "x", "x/y/empty": "", "x/y/link": "c", "x/y/ü": "u"} {
		if got, err := to.root.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if st, err := to.root.Stat("x/y/run"); err != nil || st.Mode() != 0o755 || !st.ModTime().Equal(at) {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err := to.root.Stat("x/y/none"); err != nil || !st.IsDir() {
		t.Errorf("empty directory: %v", err)
	}
}

// TestEvilArchives: nothing is written outside, whatever an archive says.
func TestEvilArchives(t *testing.T) {
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name} }
	link := func(kind byte, name, target string) tar.Header {
		return tar.Header{Typeflag: kind, Name: name, Linkname: target}
	}
	for name, headers := range map[string][]tar.Header{
		"above":            {reg("../out")},
		"deep above":       {reg("a/../../../out")},
		"absolute":         {reg("/tmp/out")},
		"link out":         {link(tar.TypeSymlink, "l", "../../out"), reg("l")},
		"absolute link":    {link(tar.TypeSymlink, "l", "/etc"), reg("l/out")},
		"link to proc":     {link(tar.TypeSymlink, "l", "/proc/self/root"), reg("l/out")},
		"hard link out":    {link(tar.TypeLink, "l", "../../secret")},
		"absolute hard":    {link(tar.TypeLink, "l", "/etc/passwd")},
		"hard to nothing":  {link(tar.TypeLink, "l", "nothing")},
		"hard to link":     {link(tar.TypeSymlink, "s", "x"), link(tar.TypeLink, "l", "s")},
		"device":           {{Typeflag: tar.TypeChar, Name: "d", Devmajor: 1, Devminor: 3}},
		"pipe":             {{Typeflag: tar.TypeFifo, Name: "p"}},
		"file over dir":    {{Typeflag: tar.TypeDir, Name: "d/"}, reg("d")},
		"below a file":     {reg("f"), reg("f/g")},
		"too many":         {reg("1"), reg("2"), reg("3"), reg("4"), reg("5"), reg("6"), reg("7"), reg("8"), reg("9"), reg("10"), reg("11")},
		"long name":        {reg(strings.Repeat("x", 300))},
		"itself":           {reg(".")},
		"empty link":       {link(tar.TypeSymlink, "l", "")},
		"through old link": {reg("evil/out")},
	} {
		t.Run(name, func(t *testing.T) {
			f, around := surrounded(t)
			if err := os.WriteFile(filepath.Join(around, "secret"), []byte("s"), 0o600); err != nil {
				t.Fatal(err)
			}
			for link, to := range map[string]string{"evil": "..", "in": "/workspace/dir"} { // the session's own
				if err := f.root.Symlink(to, link); err != nil {
					t.Fatal(err)
				}
			}
			err := unpackTo(t, f, ".", made(t, headers...))
			if e := asError(err); err == nil || e.Status != 400 {
				t.Errorf("got %v", err)
			}
			entries, err := os.ReadDir(around)
			if err != nil || len(entries) != 2 {
				t.Errorf("beside the workspace: %v, %v", entries, err)
			}
			if got, err := os.ReadFile(filepath.Join(around, "secret")); err != nil || string(got) != "s" {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

// TestUnpackEdges: limits, links that stay inside, and archives that are cut off.
func TestUnpackEdges(t *testing.T) {
	f, _ := surrounded(t)
	whole := made(t, tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("x", 100)}, tar.Header{Typeflag: tar.TypeReg, Name: "b"})
	u := unpacker{files: f, dir: ".", maxFile: 100, maxFiles: 2, room: 1 << 20}
	if err := u.unpack(t.Context(), bytes.NewReader(whole)); err != nil {
		t.Error(err)
	}
	u = unpacker{files: f, dir: ".", maxFile: 99, maxFiles: 2, room: 1 << 20}
	if err := u.unpack(t.Context(), bytes.NewReader(whole)); err == nil || asError(err).Code != "file_too_large" {
		t.Errorf("a file that is too large: %v", err)
	}
	u = unpacker{files: f, dir: ".", maxFile: 100, maxFiles: 1, room: 1 << 20}
	if err := u.unpack(t.Context(), bytes.NewReader(whole)); err == nil || asError(err).Status != 400 {
		t.Errorf("too many: %v", err)
	}
	again := tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("x", 100)}
	u = unpacker{files: f, dir: ".", maxFile: 100, maxFiles: 10, room: 250}
	if err := u.unpack(t.Context(), bytes.NewReader(made(t, again, again, again))); err == nil || asError(err).Status != 413 {
		t.Errorf("one file again and again: %v", err)
	}
	for _, cut := range []int{0, 10, 511, 550, 600} {
		if err := unpackTo(t, f, "cut", whole[:cut]); err == nil || asError(err).Status != 400 {
			t.Errorf("cut off behind %d bytes: %v", cut, err)
		}
	}
	err := unpackTo(t, f, "l", made(
		t, tar.Header{Typeflag: tar.TypeReg, Name: "d/a"}, tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "d/a"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "w", Linkname: "/workspace/l/d"}, tar.Header{Typeflag: tar.TypeReg, Name: "w/b"}, tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "d/a"},
	))
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"l/s": "d/a", "l/h": "d/a", "l/d/b": "w/b"} {
		if got, err := f.root.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// FuzzUnpack: whatever arrives as an archive, nothing is written outside, and what is
// wrong with it is no fault of ours.
func FuzzUnpack(f *testing.F) {
	for _, h := range [][]tar.Header{
		{{Typeflag: tar.TypeReg, Name: "a/b"}, {Typeflag: tar.TypeDir, Name: "d/"}},
		{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, {Typeflag: tar.TypeReg, Name: "l/x"}},
		{{Typeflag: tar.TypeReg, Name: "a"}, {Typeflag: tar.TypeLink, Name: "b", Linkname: "a"}},
		{{Typeflag: tar.TypeReg, Name: "../x"}},
	} {
		f.Add(made(f, h...))
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		w, around := surrounded(t)
		err := unpackTo(t, w, "in", archive)
		if err != nil && asError(err).Status >= 500 && !strings.Contains(err.Error(), "operation not permitted") {
			t.Errorf("%v", err)
		}
		entries, err := os.ReadDir(around)
		if err != nil || len(entries) != 1 {
			t.Errorf("beside the workspace: %v, %v", entries, err)
		}
	})
}

// TestArchivesAreBounded: the plugin makes them outside of the session's limits, so
// that holes, and many at once, would cost its time and memory.
func TestArchivesAreBounded(t *testing.T) {
	f := newFixture(t)
	archive := func(method string, body io.Reader) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://"+f.task.API+"/v1/files/archive?path=.&maxFile=1&maxFiles=1", body)
		if err != nil {
			return nil, err
		}
		r.Header.Set("Authorization", "Bearer "+claim.Token([]byte(testSecret), f.task.Session.ID, f.task.Session.Epoch))
		return http.DefaultClient.Do(r)
	}
	f.run(t, map[string]any{"command": "truncate -s 15T holes"})
	res, err := archive(http.MethodGet, nil)
	if err == nil {
		var n int64
		n, err = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if n > 1<<20 {
			t.Errorf("%d bytes of a file of holes", n)
		}
	}
	if err == nil {
		t.Error("a file of holes that is larger than the disk was packed")
	}
	f.run(t, map[string]any{"command": "rm holes"})

	var unpacking sync.WaitGroup
	defer unpacking.Wait()
	over := make(chan struct{})
	defer close(over)
	for range sessionArchives {
		unpacking.Go(func() {
			for { // an archive below may just have had the room
				res, err := archive(http.MethodPut, endless(over))
				if err != nil {
					return
				}
				res.Body.Close()
				if res.StatusCode != http.StatusServiceUnavailable {
					return
				}
			}
		})
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		res, err := archive(http.MethodGet, nil)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode == http.StatusServiceUnavailable {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("one more than %d at a time: status %d", sessionArchives, res.StatusCode)
		}
	}
}

// endless is an archive that does not end before its channel is closed.
type endless <-chan struct{}

func (e endless) Read([]byte) (int, error) {
	<-e
	return 0, io.EOF
}
