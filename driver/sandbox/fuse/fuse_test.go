// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package fuse

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const size = 8 << 20

// file is a File on a real one.
type file struct {
	*os.File
	// held has everybody wait until it is closed; nil holds nobody.
	held chan struct{}
	// asked is told of who waits.
	asked chan struct{}
}

func (f *file) Ready(int64, int64) bool { return f.held == nil }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if f.held != nil {
		f.asked <- struct{}{}
		<-f.held
	}
	return f.File.ReadAt(p, off)
}

func (f *file) Fallocate(mode uint32, off, n int64) error {
	return unix.Fallocate(int(f.Fd()), mode, off, n)
}

func newFile(t *testing.T) *file {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "file"), os.O_RDWR|os.O_CREATE, 0o600)
	if err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &file{File: f}
}

// serve returns a server and the file open through it, without package os, which
// would want to poll for it.
func serve(t *testing.T, f File) (*Server, int) {
	t.Helper()
	s, fd, err := New(f, size)
	if err != nil {
		t.Fatal(err)
	}
	return s, fd
}

func TestContent(t *testing.T) {
	f := newFile(t)
	s, fd := serve(t, f)
	want := bytes.Repeat([]byte("0123456789abcdef"), 3<<16) // 3 MB: several requests
	if n, err := unix.Pwrite(fd, want, 4096); n != len(want) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	got := make([]byte, len(want))
	if n, err := f.File.ReadAt(got, 4096); n != len(got) || err != nil || !bytes.Equal(got, want) {
		t.Errorf("the file has got %d other bytes, %v", n, err)
	}
	clear(got)
	if n, err := unix.Pread(fd, got, 4096); n != len(got) || err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d other bytes, %v", n, err)
	}
	if err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 4096, 1<<20); err != nil {
		t.Error(err)
	}
	if _, err := f.File.ReadAt(got[:4096], 8192); err != nil || !bytes.Equal(got[:4096], make([]byte, 4096)) {
		t.Errorf("the hole: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Size != size {
		t.Errorf("size %d, %v", st.Size, err)
	}
	if n, err := unix.Pread(fd, got[:4096], size); n != 0 || err != nil {
		t.Errorf("read %d after the end, %v", n, err)
	}
	unix.Close(fd)
	select {
	case <-s.Gone():
	case <-time.After(10 * time.Second):
		t.Error("the server is still there")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestResume: a request that nobody has answered is answered by the next server.
func TestResume(t *testing.T) {
	if err := Supported(); err != nil {
		t.Skip(err) // then nobody makes a server
	}
	f := newFile(t)
	if _, err := f.WriteAt([]byte("content"), 0); err != nil {
		t.Fatal(err)
	}
	f.held, f.asked = make(chan struct{}), make(chan struct{}, 10)
	m, err := Make()
	if err != nil {
		t.Fatal(err)
	}
	dev, err := m.Device()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := m.Device()
	if err != nil {
		t.Fatal(err)
	}
	s := Serve(dev, f, size)
	fd, err := m.Open()
	// Now: with its device open, who closes fd without a server would wait for ever.
	if err := errors.Join(err, m.Close()); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Dev != m.Dev {
		t.Errorf("device %x, not %x, %v", m.Dev, st.Dev, err)
	}
	type result struct {
		text string
		err  error
	}
	read := make(chan result, 1)
	go func() {
		b := make([]byte, 7)
		n, err := unix.Pread(fd, b, 0)
		read <- result{string(b[:max(n, 0)]), err}
	}()
	<-f.asked
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	close(f.held) // its answer comes too late
	if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	select {
	case r := <-read:
		t.Fatalf("it was answered by nobody: %+v", r)
	case <-time.After(100 * time.Millisecond):
	}
	again, err := Resume(kept, &file{File: f.File}, size)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	select {
	case r := <-read:
		if r.text != "content" || r.err != nil {
			t.Errorf("%+v", r)
		}
	case <-time.After(10 * time.Second):
		t.Error("it was not answered")
	}
}

// TestEnd: with nobody left who could answer, who waits gets an error.
func TestEnd(t *testing.T) {
	f := newFile(t)
	f.held, f.asked = make(chan struct{}), make(chan struct{}, 10)
	s, fd := serve(t, f)
	defer unix.Close(fd)
	read := make(chan error, 1)
	go func() {
		_, err := unix.Pread(fd, make([]byte, 10), 0)
		read <- err
	}()
	<-f.asked
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("it was answered")
	}
	close(f.held)
	if err := s.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

// TestResumeRefuses takes no other device for FUSE's.
func TestResumeRefuses(t *testing.T) {
	null, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Resume(null, newFile(t), size); err == nil {
		t.Error("/dev/null was taken")
	}
	if _, err := unix.FcntlInt(uintptr(null), unix.F_GETFD, 0); err == nil {
		t.Error("the descriptor is still open")
	}
}

// TestAbort: who waits gets an error although somebody has the device.
func TestAbort(t *testing.T) {
	f := newFile(t)
	f.held, f.asked = make(chan struct{}), make(chan struct{}, 10)
	s, fd := serve(t, f)
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	read := make(chan error, 1)
	go func() {
		_, err := unix.Pread(fd, make([]byte, 10), 0)
		read <- err
	}()
	<-f.asked
	if err := Abort(st.Dev); err != nil {
		t.Fatal(err)
	}
	if err := <-read; err == nil {
		t.Error("it was answered")
	}
	close(f.held)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := Abort(st.Dev + 1<<20); err != nil { // there is none
		t.Error(err)
	}
}
