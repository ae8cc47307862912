// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

const (
	// holdLimit bounds the output that is kept of an execution without journal.
	holdLimit = 1 << 20
	// holdPatience is how long an execution waits for a journal before its
	// oldest output is dropped.
	holdPatience = 10 * time.Second
)

// journalLimit bounds the output in one execution's journal, which lies in the
// session's workspace: a program that prints all day long is not to fill that.
const journalLimit = 64 << 20

// errJournalFull is why a journal of journalLimit bytes takes no more.
var errJournalFull = errors.New("the journal is full")

// piece is output of one stream.
type piece struct {
	kind wire.Kind
	data []byte
}

// held is output that waits for a journal.
type held struct {
	pieces []piece
	size   int
	// lost is how many bytes were dropped before the first piece.
	lost int64
}

func (h *held) add(kind wire.Kind, data []byte) {
	h.size += len(data)
	if n := len(h.pieces); n > 0 && h.pieces[n-1].kind == kind && len(h.pieces[n-1].data)+len(data) <= wire.MaxData {
		h.pieces[n-1].data = append(h.pieces[n-1].data, data...)
		return
	}
	h.pieces = append(h.pieces, piece{kind, append([]byte(nil), data...)})
}

// dropTo drops the oldest pieces until at most size bytes are held.
func (h *held) dropTo(size int) {
	n := 0
	for ; n < len(h.pieces) && h.size > size; n++ {
		h.size -= len(h.pieces[n].data)
		h.lost += int64(len(h.pieces[n].data))
	}
	h.pieces = h.pieces[n:]
}

// each calls f with what is held, in order, after a note of what is not.
func (h *held) each(f func(wire.Kind, []byte)) {
	if h.lost > 0 {
		f(wire.KindStderr, fmt.Appendf(nil, "[buntime: %d bytes of output were dropped here]\n", h.lost))
	}
	for _, p := range h.pieces {
		f(p.kind, p.data)
	}
}

// journal is the record of an execution's output, in files that the agent made.
type journal struct {
	stdout, stderr, order int
	// written counts the bytes of output in it.
	written int64
	// broken is the first failure, such as a full disk. Nothing is written from
	// then on.
	broken error
}

func newJournal(fds []int) (*journal, error) {
	if len(fds) != 3 {
		return nil, fmt.Errorf("a journal of %d descriptors instead of 3", len(fds))
	}
	return &journal{stdout: fds[0], stderr: fds[1], order: fds[2]}, nil
}

// append writes one piece. When only a part of it fits, the order tells of that
// part.
func (j *journal) append(kind wire.Kind, data []byte) {
	if j.broken != nil {
		return
	}
	fd := j.stdout
	if kind == wire.KindStderr {
		fd = j.stderr
	}
	room := journalLimit - j.written
	full := int64(len(data)) > room
	if full {
		data = data[:room]
	}
	n, err := writeAll(fd, data)
	if n > 0 {
		j.written += int64(n)
		head := binary.BigEndian.AppendUint32([]byte{byte(kind)}, uint32(n))
		if _, oerr := writeAll(j.order, head); err == nil {
			err = oerr
		}
	}
	if full && err == nil {
		// So that who reads it is not told that this was all.
		_, _ = writeAll(j.order, []byte{byte(wire.JournalFull), 0, 0, 0, 0})
		err = errJournalFull
	}
	j.broken = err
}

func (j *journal) close() {
	for _, fd := range []int{j.stdout, j.stderr, j.order} {
		unix.Close(fd)
	}
}

func writeAll(fd int, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := unix.Write(fd, p[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return n, err
		}
		if m == 0 {
			return n, io.ErrShortWrite
		}
		n += m
	}
	return n, nil
}
