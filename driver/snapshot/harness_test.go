// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/workspace"
	"github.com/buntime/buntime/driver/snapshot/store"
	"github.com/buntime/buntime/driver/snapshot/store/dir"
	swiftstore "github.com/buntime/buntime/driver/snapshot/store/swift"
	"github.com/buntime/buntime/e2e/swift"
)

// swiftServer is a Swift for all tests of the package that want one.
var swiftServer = sync.OnceValues(func() (*swift.Server, error) {
	dir, err := os.MkdirTemp("", "buntime-swift-")
	if err != nil {
		return nil, err
	}
	atEnd = append(atEnd, func() { os.RemoveAll(dir) })
	s, err := swift.Start(context.Background(), dir)
	if err == nil {
		atEnd = append(atEnd, func() { _ = s.Stop() })
	}
	return s, err
})

var atEnd []func()

func TestMain(m *testing.M) {
	code := m.Run()
	for _, f := range slices.Backward(atEnd) {
		f()
	}
	os.Exit(code)
}

// newDir returns a store in a directory.
func newDir(t testing.TB) (*dir.Store, string) {
	t.Helper()
	path := t.TempDir()
	s, err := dir.New(path, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

var containers atomic.Int32

// newSwift returns a store in Swift and the proxy that it talks to.
func newSwift(t testing.TB, tries int) (store.Store, *swift.Proxy) {
	t.Helper()
	server, err := swiftServer()
	if err != nil {
		t.Fatal(err)
	}
	p, err := swift.NewProxy(server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return dialSwift(t, server, p.AuthURL(), tries), p
}

func dialSwift(t testing.TB, server *swift.Server, url string, tries int) store.Store {
	t.Helper()
	s, err := swiftstore.New(swiftstore.Config{
		AuthURL: url, User: server.User(), Key: server.Key(), Tries: tries,
		Container: fmt.Sprintf("snapshots-%d", containers.Add(1)), Timeout: 30 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newRepository(t testing.TB, s store.Store) *Repository {
	t.Helper()
	r, err := New(s, Config{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newSession() Session {
	return Session{ID: "ses_test", Key: NewKey(), Expires: time.Now().Add(time.Hour)}
}

func newManager(t testing.TB) *workspace.Manager {
	t.Helper()
	m, err := workspace.New(workspace.Config{Dir: t.TempDir()}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

var ids atomic.Int32

func destroyAtEnd(t testing.TB, w *workspace.Workspace) {
	t.Cleanup(func() {
		if err := w.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
}

// newWorkspace makes an empty one.
func newWorkspace(t testing.TB, m *workspace.Manager, size int64) *workspace.Workspace {
	t.Helper()
	w, err := m.Create(t.Context(), fmt.Sprintf("w%d", ids.Add(1)), size)
	if err != nil {
		t.Fatal(err)
	}
	destroyAtEnd(t, w)
	return w
}

// restored makes a workspace from a snapshot, all of it at once.
func restored(t testing.TB, m *workspace.Manager, r *Repository, s Session, p Pointer) *workspace.Workspace {
	t.Helper()
	return restoredBy(t, m, p, func(ctx context.Context, path string) (workspace.Source, error) {
		return nil, r.Restore(ctx, s, p, path)
	})
}

// restoredLazily makes one that is there before its content.
func restoredLazily(t testing.TB, m *workspace.Manager, r *Repository, s Session, p Pointer) *workspace.Workspace {
	t.Helper()
	arrived := filepath.Join(t.TempDir(), "arrived")
	return restoredBy(t, m, p, func(context.Context, string) (workspace.Source, error) {
		return here{r, s, p, arrived}, nil
	})
}

// here is a workspace.Source in this process, for tests that do not kill it.
type here struct {
	r       *Repository
	session Session
	pointer Pointer
	arrived string
}

// served is what here serves.
type served struct {
	server *workspace.Server
	lazy   *Lazy
}

func (h here) Serve(ctx context.Context, o workspace.Handover) (workspace.Service, error) {
	l, err := h.r.RestoreLazily(ctx, h.session, h.pointer, o.Path, h.arrived)
	if err != nil {
		return nil, err
	}
	image, err := os.OpenFile(o.Path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	dev, err := unix.FcntlInt(uintptr(o.Device), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, err
	}
	s, err := workspace.Serve(dev, image, l)
	if err != nil {
		return nil, err
	}
	go func() {
		<-s.Gone()
		_ = s.Close()
	}()
	return served{s, l}, nil
}

func (s served) Done() <-chan struct{}   { return s.lazy.Done() }
func (s served) Broken() <-chan struct{} { return s.server.Gone() }
func (s served) End() error              { s.server.Abandon(); return nil }
func (s served) Close()                  {}

func restoredBy(t testing.TB, m *workspace.Manager, p Pointer, fill workspace.Fill) *workspace.Workspace {
	t.Helper()
	w, err := m.CreateFrom(t.Context(), fmt.Sprintf("w%d", ids.Add(1)), p.Size, t.TempDir(), fill)
	if err != nil {
		t.Fatal(err)
	}
	destroyAtEnd(t, w)
	return w
}

// asleep takes a snapshot as of a session that goes to sleep.
func asleep(t testing.TB, r *Repository, s Session, w *workspace.Workspace, epoch uint64, last Pointer) (Pointer, Stats) {
	t.Helper()
	_, err := w.Trim()
	if err := errors.Join(err, w.Freeze()); err != nil {
		t.Fatal(err)
	}
	p, stats, err := r.Snapshot(t.Context(), Request{Session: s, Epoch: epoch, Last: last, Image: w.Image()})
	if err := errors.Join(err, w.Thaw()); err != nil {
		t.Fatal(err)
	}
	return p, stats
}

// within calls f with a path at which the workspace's files are.
func within(t testing.TB, w *workspace.Workspace, f func(path string)) {
	t.Helper()
	root, err := w.Root()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	top, err := root.Open(".")
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	// With the pid, for other processes that are started with the path.
	f(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), top.Fd()))
}

// node is all there is to a file.
type node struct {
	Mode         uint32
	UID, GID     uint32
	Size         int64
	Modified     unix.Timespec
	Links        uint64
	First        string // the first of the names that are hard links of it
	Target       string // of a symbolic link
	Content      [32]byte
	Attributes   string
	Data         string // where it has no holes
	Device       uint64
	ChangedBirth unix.Timespec // time of birth, which nothing but the disk has
}

// tree describes all files of a workspace.
func tree(t testing.TB, w *workspace.Workspace) map[string]node {
	t.Helper()
	nodes := map[string]node{}
	first := map[uint64]string{}
	within(t, w, func(top string) {
		err := filepath.WalkDir(top+"/", func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var n node
			name := strings.TrimPrefix(path, top)
			if n, err = describe(path, name, first); err == nil {
				nodes[name] = n
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
	return nodes
}

func describe(path, name string, first map[uint64]string) (node, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_ALL, &st); err != nil {
		return node{}, fmt.Errorf("statx %q: %w", path, err)
	}
	n := node{
		Mode: uint32(st.Mode), UID: st.Uid, GID: st.Gid, Size: int64(st.Size), Links: uint64(st.Nlink),
		Modified: unix.Timespec{Sec: st.Mtime.Sec, Nsec: int64(st.Mtime.Nsec)}, Device: uint64(st.Rdev_major)<<32 | uint64(st.Rdev_minor),
		ChangedBirth: unix.Timespec{Sec: st.Btime.Sec, Nsec: int64(st.Btime.Nsec)},
	}
	if first[st.Ino] == "" {
		first[st.Ino] = name
	}
	n.First = first[st.Ino]
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		n.Target, err = os.Readlink(path)
	case unix.S_IFREG:
		if n.Content, n.Data, err = content(path); err == nil {
			n.Attributes, err = attributes(path)
		}
	case unix.S_IFDIR:
		n.Attributes, err = attributes(path)
	}
	return n, err
}

func content(path string) (sum [32]byte, data string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return sum, "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return sum, "", err
	}
	for at := int64(0); ; {
		begin, err := f.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return [32]byte(h.Sum(nil)), data, nil
		}
		if err != nil {
			return sum, "", err
		}
		if at, err = f.Seek(begin, unix.SEEK_HOLE); err != nil {
			return sum, "", err
		}
		data += fmt.Sprint(begin, "-", at, " ")
	}
}

func attributes(path string) (string, error) {
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return "", fmt.Errorf("list attributes of %q: %w", path, err)
	}
	names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
	sort.Strings(names)
	var all string
	for _, name := range names {
		if name == "" {
			continue
		}
		n, err := unix.Lgetxattr(path, name, buf)
		if err != nil {
			return "", fmt.Errorf("read attribute %s of %q: %w", name, path, err)
		}
		all += fmt.Sprintf("%s=%q ", name, buf[:n])
	}
	return all, nil
}

// same tells what is different, up to a few.
func same(t testing.TB, what string, got, want map[string]node) {
	t.Helper()
	bad := 0
	for name, w := range want {
		if g, ok := got[name]; !ok || !reflect.DeepEqual(g, w) {
			if bad++; bad < 5 {
				t.Errorf("%s: %q is %+v (there: %v), not %+v", what, name, g, ok, w)
			}
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			if bad++; bad < 5 {
				t.Errorf("%s: %q should not be there", what, name)
			}
		}
	}
	if bad > 0 {
		t.Fatalf("%s: %d of %d files are different", what, bad, len(want))
	}
}

func names(t testing.TB, s store.Store, folder string) map[string]bool {
	t.Helper()
	list := map[string]bool{}
	for name, err := range s.List(t.Context(), folder) {
		if err != nil {
			t.Fatal(err)
		}
		list[name] = true
	}
	return list
}
