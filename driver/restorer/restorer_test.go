// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package restorer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/fuse"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/driver/snapshot/backend"
)

// TestMain has the test binary be a restorer, if it is called as one.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && filepath.IsAbs(os.Args[1]) {
		if err := Run(os.Args[1]); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fixture is a restorer, a snapshot to restore, and a file of FUSE for it.
type fixture struct {
	dir, image string
	client     *Client
	made       *fuse.Made
	restore    *Restore
	want       []byte
	fd         int // of the file
	learnt     chan []uint32
}

const imageSize = 8 << 20

// testTimeout bounds a test.
const testTimeout = 30 * time.Second

func newFixture(t *testing.T) *fixture {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if err := fuse.Supported(); err != nil {
		t.Skip(err)
	}
	f := &fixture{dir: t.TempDir(), want: make([]byte, imageSize), fd: -1, learnt: make(chan []uint32, 10)}
	source := rand.NewChaCha8([32]byte{1})
	source.Read(f.want) // never fails
	f.image = filepath.Join(f.dir, "image")
	original := filepath.Join(f.dir, "original")
	must(t, os.WriteFile(original, f.want, 0o600))
	config := backend.Config{Dir: filepath.Join(f.dir, "store")}
	store, closeStore, err := backend.Open(config)
	must(t, err)
	defer closeStore()
	repo, err := snapshot.New(store, snapshot.Config{})
	must(t, err)
	session := snapshot.Session{ID: "ses_1", Key: snapshot.NewKey(), Expires: time.Now().Add(time.Hour)}
	p, _, err := repo.Snapshot(t.Context(), snapshot.Request{Session: session, Epoch: 1, Image: original})
	must(t, err)
	f.restore = &Restore{Store: config, Session: session, Pointer: p, Arrived: filepath.Join(f.dir, "arrived")}
	f.made, err = fuse.Make()
	must(t, err)
	// This process has the device, and waits for the file: with nobody to serve it, it
	// could not even be killed.
	release := time.AfterFunc(testTimeout, func() { _ = fuse.Abort(f.made.Dev) })
	t.Cleanup(func() {
		release.Stop()
		if err := fuse.Abort(f.made.Dev); err != nil {
			t.Error(err)
		}
		if f.fd >= 0 {
			_ = unix.Close(f.fd)
		}
		_ = f.made.Close()
		f.gone(t)
	})
	f.client = f.newClient(t)
	return f
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newClient is a plugin that starts.
func (f *fixture) newClient(t *testing.T) *Client {
	c := New(Config{Path: "/proc/self/exe", Env: os.Environ(), StateDir: f.dir}, hclog.NewNullLogger())
	t.Cleanup(c.Close)
	return c
}

// hide has the store fail for all but the manifest, or give the data again: links that
// lead to themselves are an error that passes, where what is not there is lost for good.
func (f *fixture) hide(t *testing.T, hide bool) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(f.restore.Store.Dir, f.restore.Session.ID, "*", "*"))
	must(t, err)
	for _, path := range found {
		there, isAway := strings.CutSuffix(path, ".away")
		switch {
		case hide && filepath.Base(path) != "manifest":
			must(t, os.Rename(path, path+".away"))
			must(t, os.Symlink(path, path))
			later := unix.NsecToTimespec(f.restore.Session.Expires.UnixNano()) // or it is swept
			must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{later, later}, unix.AT_SYMLINK_NOFOLLOW))
		case !hide && isAway:
			must(t, os.Rename(path, there))
		}
	}
}

// serve has the file served, for the first time or again.
func (f *fixture) serve(t *testing.T, c *Client, again bool) (*Served, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	dev, err := f.made.Device()
	must(t, err)
	defer unix.Close(dev)
	r := Request{ID: "one", Path: f.image, Device: dev, Restore: f.restore, Learnt: func(early []uint32) { f.learnt <- early }}
	if again {
		r.Image, err = os.OpenFile(f.image, os.O_RDWR, 0)
		must(t, err)
		defer r.Image.Close()
		r.Path = ""
	}
	return c.Serve(ctx, r)
}

// begin serves the file and opens it.
func (f *fixture) begin(t *testing.T) *Served {
	t.Helper()
	s, err := f.serve(t, f.client, false)
	must(t, err)
	f.fd, err = f.made.Open()
	must(t, err)
	return s
}

// read reads the file in the background.
func (f *fixture) read(off int64) <-chan error {
	result := make(chan error, 1)
	go func() {
		b := make([]byte, 4096)
		_, err := unix.Pread(f.fd, b, off)
		if err == nil && !bytes.Equal(b, f.want[off:off+4096]) {
			err = unix.EILSEQ
		}
		result <- err
	}()
	return result
}

func within[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("not in 20 s: %s", what)
		panic("not reached")
	}
}

// pids lists the restorers of the fixture.
func (f *fixture) pids(t *testing.T) (list []int) {
	t.Helper()
	found, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, path := range found {
		text, _ := os.ReadFile(path) // empty for one that has ended
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if strings.HasSuffix(string(text), "\x00"+f.dir+"\x00") {
			list = append(list, pid)
		}
	}
	return list
}

// gone waits for the end of the restorer, after that of its last client.
func (f *fixture) gone(t *testing.T) {
	t.Helper()
	f.client.Close()
	for deadline := time.Now().Add(20 * time.Second); len(f.pids(t)) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Errorf("the restorer is still there: %v", f.pids(t))
			return
		}
	}
}

// all checks that all is as it has to be.
func (f *fixture) all(t *testing.T) {
	t.Helper()
	for off := int64(0); off < imageSize; off += 1 << 20 {
		if err := within(t, "a read", f.read(off)); err != nil {
			t.Errorf("at %d: %v", off, err)
		}
	}
}

func TestServe(t *testing.T) {
	f := newFixture(t)
	s := f.begin(t)
	f.all(t)
	within(t, "all to be there", s.Done())
	if early := within(t, "what was learnt", f.learnt); len(early) == 0 {
		t.Error("it has learnt nothing")
	}
	got, err := os.ReadFile(f.image)
	must(t, err)
	if !bytes.Equal(got, f.want) {
		t.Error("the image is not what it was")
	}
	_, err = unix.Pwrite(f.fd, []byte("after"), 4096)
	must(t, err)
	copy(f.want[4096:], "after")
	f.all(t)
	s.Close()
	st, err := os.Stat(socketOf(f.dir))
	must(t, err)
	if st.Mode().Perm()&0o077 != 0 {
		t.Errorf("socket: %v", st.Mode())
	}
}

// TestPluginDies: what is served is served on, and the next plugin hears of its end.
func TestPluginDies(t *testing.T) {
	f := newFixture(t)
	f.hide(t, true)
	s := f.begin(t)
	read := f.read(5 << 20)
	before := f.pids(t)
	s.Close()
	f.client.Close()
	f.hide(t, false)
	if err := within(t, "a read without a plugin", read); err != nil {
		t.Error(err)
	}
	f.client = f.newClient(t)
	again, err := f.serve(t, f.client, true)
	must(t, err)
	defer again.Close()
	within(t, "all to be there", again.Done())
	within(t, "what was learnt", f.learnt)
	if after := f.pids(t); len(before) != 1 || len(after) != 1 || before[0] != after[0] {
		t.Errorf("restorers %v, then %v", before, after)
	}
	f.all(t)
}

// TestKilled: the next restorer goes on, also with what waits, and with what was written.
func TestKilled(t *testing.T) {
	f := newFixture(t)
	s := f.begin(t)
	_, err := unix.Pwrite(f.fd, []byte("written"), 0) // which needs what is beside it
	must(t, err)
	copy(f.want, "written")
	for round := range 3 {
		if round == 1 { // now all is there
			within(t, "all to be there", s.Done())
		}
		pids := f.pids(t)
		if len(pids) != 1 {
			t.Fatalf("restorers: %v", pids)
		}
		must(t, unix.Kill(pids[0], unix.SIGKILL))
		within(t, "the end to be noticed", s.Broken())
		s.Close()
		began := time.Now()
		read := f.read(7 << 20)
		s, err = f.serve(t, f.client, true)
		must(t, err)
		if took := time.Since(began); took > 15*time.Second {
			t.Errorf("it took %s until somebody served it again", took)
		}
		if err := within(t, "a read", read); err != nil {
			t.Error(err)
		}
		off := int64(round+1) << 20
		_, err = unix.Pwrite(f.fd, []byte("again"), off)
		must(t, err)
		copy(f.want[off:], "again")
	}
	defer s.Close()
	within(t, "all to be there", s.Done())
	f.all(t)
}

// TestEnd: what will not come is an error for who waits for it.
func TestEnd(t *testing.T) {
	f := newFixture(t)
	f.hide(t, true)
	s := f.begin(t)
	defer s.Close()
	read := f.read(5 << 20)
	select {
	case err := <-read:
		t.Fatalf("it has come from nowhere: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	must(t, s.End())
	if err := within(t, "a read", read); err == nil {
		t.Error("it has come from nowhere")
	}
}

// TestCannotBegin: without the manifest there is nothing to serve.
func TestCannotBegin(t *testing.T) {
	f := newFixture(t)
	must(t, os.Rename(f.restore.Store.Dir, f.restore.Store.Dir+".away"))
	if _, err := f.serve(t, f.client, false); err == nil {
		t.Error("it is served")
	}
	if _, err := os.Stat(f.image); err == nil {
		t.Error("there is an image")
	}
}

// TestOtherUser: who is not root gets nothing of the restorer, even with a way to its
// socket.
func TestOtherUser(t *testing.T) {
	f := newFixture(t)
	f.hide(t, true)
	s := f.begin(t)
	defer s.Close()
	const nobody = 65534
	socket := socketOf(f.dir)
	for _, path := range []string{filepath.Dir(f.dir), f.dir} {
		must(t, os.Chmod(path, 0o711))
	}
	must(t, os.Chmod(socket, 0o777))
	ask := func(uid int) error {
		result := make(chan error, 1)
		go func() {
			// The thread's own user, and the thread ends with the goroutine.
			runtime.LockOSThread()
			if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); errno != 0 {
				result <- errno
				return
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				result <- err
				return
			}
			defer unix.Close(fd)
			if err := unix.Connect(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
				result <- fmt.Errorf("connect: %w", err)
				return
			}
			b, err := json.Marshal(message{Op: opHold})
			if err != nil {
				result <- err
				return
			}
			_, _ = unix.Write(fd, b) // it may have hung up already
			_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000})
			n, err := unix.Read(fd, make([]byte, 1))
			if err == nil && n == 0 {
				err = io.EOF // it has hung up
			}
			result <- err
		}()
		return within(t, "an answer", result)
	}
	if err := ask(nobody); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("it listens to another user: %v", err)
	}
	if err := ask(0); !errors.Is(err, unix.EAGAIN) { // it waits for more
		t.Errorf("it does not listen to root: %v", err)
	}
}
