// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package fuse

import (
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// What is used of linux/fuse.h: operations, flags and lengths.
const (
	opForget      = 2
	opGetattr     = 3
	opSetattr     = 4
	opOpen        = 14
	opRead        = 15
	opWrite       = 16
	opStatfs      = 17
	opRelease     = 18
	opFsync       = 20
	opInit        = 26
	opInterrupt   = 36
	opDestroy     = 38
	opBatchForget = 42
	opFallocate   = 43

	// notifyResend, in the place of an error, asks for all requests again that have
	// been read and not answered.
	notifyResend = 7

	flagAsyncRead      = 1 << 0
	flagBigWrites      = 1 << 5
	flagAsyncDIO       = 1 << 15
	flagMaxPages       = 1 << 22
	flagInitExt        = 1 << 30
	flagHasResend      = 1 << (39 - 32) // in the upper half
	openKeepCache      = 1 << 1
	openNoFlush        = 1 << 5
	headIn, headOut    = 40, 16
	headRead, headTail = 40, 4096
)

// most is how much is read or written at once: what the kernel allows.
const most = 1 << 20

// attrValid is for how many seconds the kernel need not ask for attributes again:
// they do not change.
const attrValid = 1 << 31

var le = binary.LittleEndian

// buffers are as long as a request, or an answer, can be.
var buffers = sync.Pool{New: func() any { b := make([]byte, headIn+headRead+most+headTail); return &b }}

// serve reads requests until there will be no more.
func (s *Server) serve() {
	conn, err := s.dev.SyscallConn()
	if err != nil {
		return
	}
	for {
		var buf *[]byte
		var n int
		var got error
		// The buffer is taken when there is something to read: most files are asked
		// for nothing most of the time.
		err := conn.Read(func(fd uintptr) bool {
			buf = buffers.Get().(*[]byte)
			n, got = unix.Read(int(fd), *buf)
			if got == nil {
				return true
			}
			buffers.Put(buf)
			return !errors.Is(got, unix.EAGAIN)
		})
		switch {
		case err != nil:
			return
		case errors.Is(got, unix.EINTR), errors.Is(got, unix.ENOENT): // one that was interrupted
			continue
		case got != nil || n < headIn:
			return // ENODEV: the file system has ended
		}
		if !s.answer(buf, n) {
			return
		}
	}
}

// request is one of the kernel's.
type request struct {
	op     uint32
	unique uint64
	body   []byte
}

// answer answers the request in the first n bytes of buf, which it takes over. It
// says whether there will be more.
func (s *Server) answer(buf *[]byte, n int) bool {
	b := (*buf)[:n]
	r := request{op: le.Uint32(b[4:]), unique: le.Uint64(b[8:]), body: b[headIn:]}
	if off, length, ok := r.span(); ok && !s.file.Ready(off, length) {
		if r.op != opWrite { // what it is about is short, and may wait for long
			r.body = slices.Clone(r.body[:min(len(r.body), headRead)])
			buffers.Put(buf)
			s.late.Go(func() { s.transfer(r) })
			return true
		}
		s.late.Go(func() {
			defer buffers.Put(buf)
			s.transfer(r)
		})
		return true
	}
	defer buffers.Put(buf)
	switch r.op {
	case opRead, opWrite, opFallocate:
		s.transfer(r)
	case opInit:
		s.init(r)
	case opGetattr, opSetattr:
		s.reply(r, nil, s.attributes())
	case opOpen:
		s.reply(r, nil, open())
	case opStatfs:
		s.reply(r, nil, s.statfs())
	case opFsync, opRelease:
		// What was written is in the image's pages. A loop device asks for more only
		// for file systems with barriers, which a workspace has not.
		s.reply(r, nil, nil)
	case opForget, opBatchForget, opInterrupt: // want no answer
	case opDestroy:
		s.reply(r, nil, nil)
		return false
	default:
		s.reply(r, unix.ENOSYS, nil) // the kernel does not ask again
	}
	return true
}

// span is what of the file a request is about, if it is about content.
func (r request) span() (off, n int64, ok bool) {
	switch {
	case (r.op == opRead || r.op == opWrite) && len(r.body) >= headRead:
		return int64(le.Uint64(r.body[8:])), int64(le.Uint32(r.body[16:])), true
	case r.op == opFallocate && len(r.body) >= 28:
		return int64(le.Uint64(r.body[8:])), int64(le.Uint64(r.body[16:])), true
	}
	return 0, 0, false
}

// transfer reads or writes content, and may wait for it.
func (s *Server) transfer(r request) {
	off, n, ok := r.span()
	switch {
	case !ok:
		s.reply(r, unix.EINVAL, nil)
	case r.op == opRead:
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		b := (*buf)[:min(n, most)]
		got, err := s.file.ReadAt(b, off)
		if errors.Is(err, io.EOF) {
			err = nil
		}
		s.reply(r, err, b[:got])
	case r.op == opWrite:
		data := r.body[headRead:]
		if int64(len(data)) < n {
			s.reply(r, unix.EINVAL, nil)
			return
		}
		written, err := s.file.WriteAt(data[:n], off)
		answer := make([]byte, 8)
		le.PutUint32(answer, uint32(written))
		s.reply(r, err, answer)
	default:
		s.reply(r, s.file.Fallocate(le.Uint32(r.body[24:]), off, n), nil)
	}
}

// reply answers a request: with body, or with an error, which is EIO unless it is
// one of the system's.
func (s *Server) reply(r request, err error, body []byte) {
	code := int32(0)
	if err != nil {
		errno := unix.EIO
		errors.As(err, &errno)
		code, body = -int32(errno), nil
	}
	_ = s.write(code, r.unique, body) // or nobody waits any more
}

// write sends an answer, or a notification if nothing was asked.
func (s *Server) write(code int32, unique uint64, body []byte) error {
	head := make([]byte, headOut)
	le.PutUint32(head, uint32(headOut+len(body)))
	le.PutUint32(head[4:], uint32(code))
	le.PutUint64(head[8:], unique)
	conn, err := s.dev.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = conn.Control(func(fd uintptr) { // it never has to wait
		parts := [][]byte{head}
		if len(body) > 0 {
			parts = append(parts, body)
		}
		_, failed = unix.Writev(int(fd), parts)
	})
	return errors.Join(err, failed)
}

// init answers the first request, by which both sides say what they can do.
func (s *Server) init(r request) {
	if len(r.body) < 16 {
		s.reply(r, unix.EPROTO, nil)
		return
	}
	offered := uint64(le.Uint32(r.body[12:]))
	if offered&flagInitExt != 0 && len(r.body) >= 20 {
		offered |= uint64(le.Uint32(r.body[16:])) << 32
	}
	wanted := uint64(flagAsyncRead | flagBigWrites | flagAsyncDIO | flagMaxPages | flagInitExt | flagHasResend<<32)
	agreed := offered & wanted
	b := make([]byte, 64)
	le.PutUint32(b, 7)
	le.PutUint32(b[4:], 36)   // of the protocol
	le.PutUint32(b[8:], most) // to read ahead
	le.PutUint32(b[12:], uint32(agreed))
	le.PutUint16(b[16:], 64) // requests that nobody waits for, and
	le.PutUint16(b[18:], 48) // when there are many of them
	le.PutUint32(b[20:], most)
	le.PutUint32(b[24:], 1) // ns between times
	le.PutUint16(b[28:], most/4096)
	le.PutUint32(b[32:], uint32(agreed>>32))
	s.mu.Lock()
	s.resend = agreed&(flagHasResend<<32) != 0
	s.mu.Unlock()
	s.reply(r, nil, b)
	s.once.Do(func() { close(s.inited) })
}

// attributes of the file.
func (s *Server) attributes() []byte {
	b := make([]byte, 16+88)
	le.PutUint64(b, attrValid)
	a := b[16:]
	le.PutUint64(a, 1) // inode
	le.PutUint64(a[8:], uint64(s.size))
	le.PutUint64(a[16:], uint64(s.size)/512)
	le.PutUint32(a[60:], unix.S_IFREG|0o600)
	le.PutUint32(a[64:], 1)
	le.PutUint32(a[80:], 4096)
	return b
}

// open also says that no close asks for anything. A child of a process with the file
// open closes it before it becomes another program: were that to be who serves the file,
// both would wait for ever.
func open() []byte {
	b := make([]byte, 16)
	le.PutUint32(b[8:], openKeepCache|openNoFlush)
	return b
}

// statfs is what a loop device takes the size of holes from.
func (s *Server) statfs() []byte {
	b := make([]byte, 80)
	le.PutUint64(b, uint64(s.size)/4096)
	le.PutUint32(b[40:], 4096)
	le.PutUint32(b[44:], 255)
	le.PutUint32(b[48:], 4096)
	return slices.Clip(b)
}
