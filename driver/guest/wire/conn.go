// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxFiles bounds the descriptors of a frame; the kernel's own limit is 253.
const maxFiles = 64

const headerSize = 5

// Frame is one frame as read. Payload is valid until the next Read. Files are
// the reader's to close.
type Frame struct {
	Kind    Kind
	Payload []byte
	Files   []*os.File
}

// Conn sends and receives frames. One goroutine may read while others write.
type Conn struct {
	conn *net.UnixConn
	// limit bounds what Read takes.
	limit int

	buf        []byte // what was received and not yet returned
	start, end int
	files      []*os.File // that came and belong to no frame yet

	writing sync.Mutex
	out     []byte
}

// NewConn makes a Conn, which owns conn.
func NewConn(conn *net.UnixConn) *Conn {
	return &Conn{conn: conn, limit: MaxRequest}
}

// Close closes the connection and what was received with it unasked.
func (c *Conn) Close() error {
	return c.conn.Close()
}

// SetReadDeadline bounds reads, also one that waits.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.conn.SetReadDeadline(t) }

// SetWriteDeadline bounds writes, also one that waits.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.conn.SetWriteDeadline(t) }

// Write sends a frame, with files, which stay the caller's.
func (c *Conn) Write(kind Kind, payload []byte, files ...*os.File) error {
	if len(payload) > MaxRequest {
		return fmt.Errorf("send frame %q of %d bytes: at most %d are taken", kind, len(payload), MaxRequest)
	}
	c.writing.Lock()
	defer c.writing.Unlock()
	c.out = append(c.out[:0], byte(kind))
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(len(payload)))
	// Small frames go in one piece; of large ones the copy would cost more than
	// a second call.
	rest := payload
	if len(payload) <= MaxData {
		c.out, rest = append(c.out, payload...), nil
	}
	if len(files) == 0 {
		if _, err := c.conn.Write(c.out); err != nil {
			return err
		}
	} else {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		n, _, err := c.conn.WriteMsgUnix(c.out, unix.UnixRights(fds...), nil)
		if err != nil {
			return err
		}
		if n < len(c.out) {
			if _, err := c.conn.Write(c.out[n:]); err != nil {
				return err
			}
		}
	}
	if len(rest) > 0 {
		_, err := c.conn.Write(rest)
		return err
	}
	return nil
}

// Read returns the next frame, io.EOF when the other side closed between frames.
func (c *Conn) Read() (Frame, error) {
	if err := c.fill(headerSize); err != nil {
		return Frame{}, err
	}
	head := c.buf[c.start:]
	kind, n := Kind(head[0]), int(binary.BigEndian.Uint32(head[1:headerSize]))
	if n > c.limit {
		return Frame{}, fmt.Errorf("receive frame %q of %d bytes: at most %d are taken", kind, n, c.limit)
	}
	if err := c.fill(headerSize + n); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return Frame{}, err
	}
	f := Frame{Kind: kind, Payload: c.buf[c.start+headerSize : c.start+headerSize+n], Files: c.files}
	c.files = nil
	c.start += headerSize + n
	return f, nil
}

// fill receives until n bytes are in the buffer.
func (c *Conn) fill(n int) error {
	if c.start > 0 && c.start+n > len(c.buf) {
		c.end = copy(c.buf, c.buf[c.start:c.end])
		c.start = 0
	}
	if n > len(c.buf) {
		grown := make([]byte, max(n, 4096))
		c.end = copy(grown, c.buf[c.start:c.end])
		c.start, c.buf = 0, grown
	}
	for c.end-c.start < n {
		if err := c.receive(); err != nil {
			if errors.Is(err, io.EOF) && c.end > c.start {
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

func (c *Conn) receive() error {
	var oob [128 + 4*maxFiles]byte
	n, oobn, flags, _, err := c.conn.ReadMsgUnix(c.buf[c.end:], oob[:])
	if oobn > 0 {
		if ferr := c.takeFiles(oob[:oobn]); ferr != nil && err == nil {
			err = ferr
		}
	}
	if err != nil {
		return err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return errors.New("receive descriptors: more than are taken")
	}
	if n == 0 {
		return io.EOF
	}
	c.end += n
	return nil
}

func (c *Conn) takeFiles(oob []byte) error {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return fmt.Errorf("parse control message: %w", err)
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue // credentials, which nobody asked for
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd) // net receives with MSG_CMSG_CLOEXEC; this costs nothing to be sure
			c.files = append(c.files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return nil
}
