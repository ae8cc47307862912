// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair returns two connected Conns, the first also bare.
func pair(t *testing.T) (*net.UnixConn, *Conn, *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	return conns[0], NewConn(conns[0]), NewConn(conns[1])
}

func openFDs(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func temp(t *testing.T, content string) *os.File {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	if _, err := f.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return f
}

func contents(t *testing.T, fds []int) string {
	t.Helper()
	var all []string
	for _, fd := range fds {
		b := make([]byte, 100)
		n, err := unix.Pread(fd, b, 0)
		if err != nil {
			t.Fatal(err)
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("descriptor %d is not closed on exec: %v", fd, err)
		}
		all = append(all, string(b[:n]))
	}
	return strings.Join(all, ",")
}

func TestFramesWithDescriptors(t *testing.T) {
	_, a, b := pair(t)
	one, two, three := temp(t, "one"), temp(t, "two"), temp(t, "three")
	large := bytes.Repeat([]byte("x"), 3*MaxData)
	sent := make(chan struct{})
	go func() {
		_ = a.Write('1', []byte("plain"))
		_ = a.Write('2', nil, one, two)
		_ = a.Write('3', []byte("plain again"))
		_ = a.Write('4', []byte("p"), three)
		close(sent)
		_ = a.Write('5', large, two)
		buf := append(make([]byte, HeaderSize), "in place"...)
		_ = a.WriteInPlace('6', buf)
		a.Close()
	}()
	<-sent // so that frames with and without descriptors share a receive
	for _, want := range []struct {
		kind    Kind
		payload string
		files   string
	}{
		{'1', "plain", ""},
		{'2', "", "one,two"},
		{'3', "plain again", ""},
		{'4', "p", "three"},
		{'5', string(large), "two"},
		{'6', "in place", ""},
	} {
		f, err := b.Read()
		if err != nil {
			t.Fatal(err)
		}
		if f.Kind != want.kind || string(f.Payload) != want.payload {
			t.Errorf("frame %q with %d bytes, want %q with %d", f.Kind, len(f.Payload), want.kind, len(want.payload))
		}
		if got := contents(t, f.FDs); got != want.files {
			t.Errorf("frame %q came with %q, want %q", f.Kind, got, want.files)
		}
		f.CloseFDs()
	}
	if _, err := b.Read(); !errors.Is(err, io.EOF) {
		t.Errorf("error at the end is %v, want EOF", err)
	}
}

func TestNoDescriptorLeaks(t *testing.T) {
	file := temp(t, "x")
	rights := unix.UnixRights(int(file.Fd()))
	for name, send := range map[string]func(*net.UnixConn){
		"in the middle of a header": func(c *net.UnixConn) { _, _, _ = c.WriteMsgUnix([]byte{'a', 0, 0}, rights, nil) },
		"in the middle of a frame":  func(c *net.UnixConn) { _, _, _ = c.WriteMsgUnix([]byte{'a', 0, 0, 0, 9, 1}, rights, nil) },
		"with a frame too large":    func(c *net.UnixConn) { _, _, _ = c.WriteMsgUnix([]byte{'a', 255, 0, 0, 9}, rights, nil) },
		"with too many descriptors": func(c *net.UnixConn) {
			_, _, _ = c.WriteMsgUnix([]byte{'a', 0, 0, 0, 0}, unix.UnixRights(slices.Repeat([]int{int(file.Fd())}, maxFDs+9)...), nil)
		},
		"behind the last frame read": func(c *net.UnixConn) {
			_, _ = c.Write([]byte{'a', 0, 0, 0, 0})
			_, _, _ = c.WriteMsgUnix([]byte{'b', 0, 0, 0, 0}, rights, nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := openFDs(t)
			raw, _, b := pair(t)
			send(raw)
			raw.Close()
			f, err := b.Read()
			if name == "behind the last frame read" {
				if err != nil || len(f.FDs) != 0 {
					t.Errorf("first frame: %v with %d descriptors", err, len(f.FDs))
				}
			} else if err == nil {
				t.Error("a broken frame was read")
			}
			b.Discard()
			if after := openFDs(t); after != before {
				t.Errorf("%d descriptors are open, %d were before", after, before)
			}
		})
	}
}

func TestWriteDeadlineClosesConnection(t *testing.T) {
	_, a, b := pair(t)
	if err := a.SetWriteDeadline(time.Now().Add(30 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	err := a.Write('a', make([]byte, 8<<20))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("error is %v, want a deadline", err)
	}
	if err := a.Write('a', nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("error of the next write is %v, want closed", err)
	}
	if _, err := b.Read(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("error of the reader is %v, want unexpected EOF", err)
	}
}

func TestHungUp(t *testing.T) {
	_, a, b := pair(t)
	if a.HungUp() {
		t.Error("hung up while connected")
	}
	b.Close()
	if !a.HungUp() {
		t.Error("not hung up after the other side closed")
	}
}

// script feeds a decoder: each step is one receive.
type script struct {
	data   []byte
	splits []byte // lengths of the receives, 0 for one with a descriptor
	fds    int
}

// firstFakeFD numbers descriptors that are not open.
const firstFakeFD = 1 << 30

func (s *script) recv(p []byte) (int, []int, error) {
	if len(s.data) == 0 {
		return 0, nil, io.EOF
	}
	n := len(s.data)
	var fds []int
	if len(s.splits) > 0 {
		n = int(s.splits[0])
		s.splits = s.splits[1:]
		if n == 0 {
			s.fds++
			fds = []int{firstFakeFD + s.fds}
			n = 1
		}
	}
	n = copy(p, s.data[:min(n, len(s.data))])
	s.data = s.data[n:]
	return n, fds, nil
}

func FuzzDecoder(f *testing.F) {
	frame := func(kind byte, payload string) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(payload))), payload...)
	}
	f.Add(frame('a', "hello"), []byte{1, 2, 3})
	f.Add(append(frame('a', ""), frame('b', strings.Repeat("x", 300))...), []byte{0, 5, 0, 255, 0})
	f.Add(frame('a', strings.Repeat("y", 9000)), []byte{0})
	f.Add([]byte{'a', 255, 255, 255, 255, 1}, []byte{})
	f.Add([]byte{'a', 0, 15, 255, 255, 1}, []byte{0, 0, 0})
	f.Fuzz(func(t *testing.T, data, splits []byte) {
		const limit = 1 << 20
		s := &script{data: data, splits: splits}
		d := decoder{recv: s.recv, limit: limit}
		rest, taken := data, 0
		for {
			got, err := d.next()
			// One receive may ask for twice of what it has, and a frame may keep
			// as much as was sent.
			if len(d.buf) > 2*len(data)+2*MaxData {
				t.Fatalf("%d bytes are held for %d", len(d.buf), len(data))
			}
			if err != nil {
				if errors.Is(err, io.EOF) != (len(rest) == 0) {
					t.Fatalf("error with %d bytes left: %v", len(rest), err)
				}
				break
			}
			want := frame(byte(got.Kind), string(got.Payload))
			if !bytes.HasPrefix(rest, want) {
				t.Fatalf("frame %q is not what was sent: %q", want, rest)
			}
			rest = rest[len(want):]
			taken += len(got.FDs)
		}
		if len(d.batches) != 0 || taken > s.fds {
			t.Fatalf("%d batches are left, %d of %d descriptors were taken", len(d.batches), taken, s.fds)
		}
	})
}

func BenchmarkFrames(b *testing.B) {
	for _, size := range []int{100, MaxData} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				b.Fatal(err)
			}
			var conns [2]*Conn
			for i, fd := range fds {
				f := os.NewFile(uintptr(fd), "pair")
				c, err := net.FileConn(f)
				f.Close()
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				conns[i] = NewConn(c.(*net.UnixConn))
			}
			go func() {
				buf := make([]byte, HeaderSize+size)
				for conns[0].WriteInPlace('o', buf) == nil {
				}
			}()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := conns[1].Read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
