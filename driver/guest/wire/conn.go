// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxFDs bounds the descriptors that one call receives; the kernel's own limit
// is 253.
const maxFDs = 64

// HeaderSize is the length of a frame's kind and length.
const HeaderSize = 5

// firstRead is how much room a read is given at first. Nearly all frames but
// those with output are smaller, so that one call receives several.
const firstRead = 4 << 10

// Frame is one frame as read. Payload is valid until the next Read. FDs are the
// reader's to close; they are closed on exec.
type Frame struct {
	Kind    Kind
	Payload []byte
	FDs     []int
}

// CloseFDs closes the frame's descriptors.
func (f *Frame) CloseFDs() {
	closeFDs(f.FDs)
	f.FDs = nil
}

// Conn sends and receives frames. One goroutine may read while others write.
type Conn struct {
	conn *net.UnixConn
	in   decoder

	writing sync.Mutex
	out     []byte
}

// NewConn makes a Conn, which owns conn.
func NewConn(conn *net.UnixConn) *Conn {
	return &Conn{conn: conn, in: decoder{recv: receiver(conn), limit: MaxRequest}}
}

// Close closes the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// Discard closes the connection and the descriptors that came with frames which
// were not read. It is for the goroutine that reads, where it stops before Read
// fails.
func (c *Conn) Discard() {
	c.conn.Close()
	c.in.drop()
}

// CloseWrite tells the other side that nothing more will come.
func (c *Conn) CloseWrite() error { return c.conn.CloseWrite() }

// SetReadDeadline bounds reads, also one that waits.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline bounds writes, also one that waits.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// Read returns the next frame, io.EOF when the other side closed between
// frames. After an error the connection is of no use.
func (c *Conn) Read() (Frame, error) { return c.in.next() }

// Detach gives the connection itself up, with what was received of it behind the
// last frame that was read. The Conn is of no use afterwards.
func (c *Conn) Detach() (*net.UnixConn, []byte) {
	c.in.drop()
	return c.conn, c.in.buf[c.in.start:c.in.end]
}

// HungUp tells, without reading, whether the other side is gone.
func (c *Conn) HungUp() bool {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return true
	}
	gone := true
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(p, 0)
		gone = err == nil && n > 0
	})
	return gone
}

// Write sends a frame, with files, which stay the caller's. After an error the
// connection is closed: the other side cannot tell where the next frame begins.
func (c *Conn) Write(kind Kind, payload []byte, files ...*os.File) error {
	if len(payload) > MaxRequest {
		return fmt.Errorf("send frame %q of %d bytes: at most %d are taken", kind, len(payload), MaxRequest)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = putHeader(c.out[:0], kind, len(payload))
	// Small frames go in one piece; of large ones the copy would cost more than
	// a second call.
	rest := payload
	if len(payload) <= MaxData {
		c.out, rest = append(c.out, payload...), nil
	}
	err := c.send(c.out, files)
	if err == nil && len(rest) > 0 {
		_, err = c.conn.Write(rest)
	}
	if err != nil {
		c.conn.Close()
	}
	return err
}

// WriteJSON sends v as a frame, as Write does.
func (c *Conn) WriteJSON(kind Kind, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame %q: %w", kind, err)
	}
	return c.Write(kind, b, files...)
}

// WriteInPlace sends a frame whose payload is buf from HeaderSize on, without a
// copy; the header is put before it. Errors are as with Write.
func (c *Conn) WriteInPlace(kind Kind, buf []byte) error {
	putHeader(buf[:0], kind, len(buf)-HeaderSize)
	c.writing.Lock()
	defer c.writing.Unlock()
	_, err := c.conn.Write(buf)
	if err != nil {
		c.conn.Close()
	}
	return err
}

func putHeader(b []byte, kind Kind, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, byte(kind)), uint32(n))
}

// send writes b with the descriptors of files at its first byte.
func (c *Conn) send(b []byte, files []*os.File) error {
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			raw, err := f.SyscallConn() // Fd would make the file blocking
			if err != nil {
				return err
			}
			if err := raw.Control(func(fd uintptr) { fds[i] = int(fd) }); err != nil {
				return err
			}
		}
		n, _, err := c.conn.WriteMsgUnix(b, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		if b = b[n:]; len(b) == 0 {
			return nil // an empty write fails when the other side has answered and closed
		}
	}
	_, err := c.conn.Write(b)
	return err
}

// receive is one call to the socket: bytes into p, descriptors as a result,
// also with an error. It returns io.EOF at the end.
type receive func(p []byte) (n int, fds []int, err error)

func receiver(conn *net.UnixConn) receive {
	oob := make([]byte, unix.CmsgSpace(4*maxFDs))
	return func(p []byte) (int, []int, error) {
		// net receives with MSG_CMSG_CLOEXEC.
		n, oobn, flags, _, err := conn.ReadMsgUnix(p, oob)
		var fds []int
		if oobn > 0 {
			var ferr error
			if fds, ferr = parseFDs(oob[:oobn]); err == nil {
				err = ferr
			}
		}
		switch {
		case err != nil:
		case flags&unix.MSG_CTRUNC != 0:
			err = fmt.Errorf("receive descriptors: more than %d came", maxFDs)
		case n == 0:
			err = io.EOF
		}
		return n, fds, err
	}
}

func parseFDs(oob []byte) (all []int, err error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("parse control message: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials, which nobody asked for
		}
		all = append(all, fds...)
	}
	return all, nil
}

// decoder cuts what it receives into frames.
type decoder struct {
	recv receive
	// limit bounds the payload of a frame.
	limit int

	buf        []byte // buf[start:end] was received and not returned
	start, end int
	// offset is the place of buf[start] in the stream.
	offset int64
	// batches are descriptors that belong to frames to come.
	batches []batch
}

// batch is what came with one receive. The kernel ends a receive with the send
// that brought descriptors, and descriptors travel with the first byte of their
// frame: they belong to the last frame that begins before upTo, the place in the
// stream where the receive ended.
type batch struct {
	upTo int64
	fds  []int
}

func (d *decoder) next() (f Frame, err error) {
	defer func() {
		if err != nil {
			d.drop()
		}
	}()
	if err := d.fill(HeaderSize); err != nil {
		return Frame{}, err
	}
	head := d.buf[d.start:]
	kind, length := Kind(head[0]), binary.BigEndian.Uint32(head[1:HeaderSize])
	if int64(length) > int64(d.limit) {
		return Frame{}, fmt.Errorf("receive frame %q of %d bytes: at most %d are taken", kind, length, d.limit)
	}
	size := HeaderSize + int(length)
	if err := d.fill(size); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	f = Frame{Kind: kind, Payload: d.buf[d.start+HeaderSize : d.start+size : d.start+size]}
	d.start += size
	d.offset += int64(size)
	for len(d.batches) > 0 && d.batches[0].upTo <= d.offset {
		f.FDs = append(f.FDs, d.batches[0].fds...)
		d.batches = d.batches[1:]
	}
	return f, nil
}

// drop closes the descriptors that no frame will take.
func (d *decoder) drop() {
	for _, b := range d.batches {
		closeFDs(b.fds)
	}
	d.batches = nil
}

// fill receives until n bytes are in the buffer.
func (d *decoder) fill(n int) error {
	for d.end-d.start < n {
		d.makeRoom(n)
		got, fds, err := d.recv(d.buf[d.end:])
		d.end += got
		if len(fds) > 0 {
			d.batches = append(d.batches, batch{d.offset + int64(d.end-d.start), fds})
		}
		if errors.Is(err, io.EOF) && d.end > d.start {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// makeRoom makes the buffer ready for the next receive on the way to n bytes. It
// grows with what has come, not with what a header promises.
func (d *decoder) makeRoom(n int) {
	have := d.end - d.start
	want := min(n, max(firstRead, 2*have))
	if have == 0 {
		d.start, d.end = 0, 0
		if len(d.buf) > 2*MaxData {
			d.buf = nil // after one large frame
		}
	}
	if len(d.buf)-d.start >= want && d.end < len(d.buf) {
		return
	}
	to := d.buf
	if len(to) < want || have == len(to) {
		to = make([]byte, max(want, firstRead))
	}
	d.end = copy(to, d.buf[d.start:d.end])
	d.start, d.buf = 0, to
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
