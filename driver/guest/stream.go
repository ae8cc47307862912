// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// stream reads what processes print to one pipe or terminal and passes it on.
type stream struct {
	kind wire.Kind
	file *os.File // the reading end; closed by pump
	raw  syscall.RawConn
	// pass is given each piece, behind room for a frame's header. It is called
	// with mu held, so that pieces keep their order.
	pass func(kind wire.Kind, buf []byte)

	mu sync.Mutex
	// done is closed when nothing more can come.
	done chan struct{}
}

// buffers are lent for as long as there is something to read: a process that is
// silent costs none.
var buffers = sync.Pool{New: func() any { return new([wire.HeaderSize + wire.MaxData]byte) }}

// newPipe returns a stream and the end that processes write to.
func newPipe(kind wire.Kind, pass func(wire.Kind, []byte)) (*stream, *os.File, error) {
	r, w, err := pipe(0)
	if err != nil {
		return nil, nil, err
	}
	st, err := newStream(kind, r, pass)
	if err != nil {
		r.Close()
		w.Close()
		return nil, nil, err
	}
	return st, w, nil
}

// pipe returns the ends to read from and to write to, of which ours (0 or 1) is
// non-blocking. The other is for a process, to which that would be a surprise:
// cat fails, and Bun prints some of its output twice.
func pipe(ours int) (r, w *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("create pipe: %w", err)
	}
	if err := unix.SetNonblock(fds[ours], true); err != nil {
		closeAll(fds[:])
		return nil, nil, fmt.Errorf("create pipe: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe"), nil
}

func newStream(kind wire.Kind, f *os.File, pass func(wire.Kind, []byte)) (*stream, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read output: %w", err)
	}
	return &stream{kind: kind, file: f, raw: raw, pass: pass, done: make(chan struct{})}, nil
}

// pump passes on everything until all writers have closed, or file is closed.
func (st *stream) pump() {
	defer close(st.done)
	defer st.file.Close()
	_ = st.raw.Read(func(fd uintptr) bool {
		for {
			switch n, err := st.once(int(fd)); {
			case errors.Is(err, unix.EAGAIN):
				return false
			case err != nil || n == 0:
				return true
			}
		}
	})
}

// drainLimit is more than a pipe can hold, which an unprivileged process may
// have set to 1 MiB at most (fs.pipe-max-size).
const drainLimit = 1<<20 + wire.MaxData

// drain passes on what was printed up to now. A process that goes on printing
// does not hold it up.
func (st *stream) drain() {
	_ = st.raw.Control(func(fd uintptr) {
		for total := 0; total < drainLimit; {
			n, err := st.once(int(fd))
			if err != nil || n == 0 {
				break
			}
			total += n
		}
	})
	// Where pump has closed the file, it has passed on everything.
}

// once reads and passes on one piece. n is 0 at the end.
func (st *stream) once(fd int) (n int, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	buf := buffers.Get().(*[wire.HeaderSize + wire.MaxData]byte)
	defer buffers.Put(buf)
	for {
		n, err = unix.Read(fd, buf[wire.HeaderSize:])
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if n > 0 && err == nil {
		st.pass(st.kind, buf[:wire.HeaderSize+n])
	}
	return n, err
}
