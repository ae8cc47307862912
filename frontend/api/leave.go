// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// errLeaving ends streams and terminals of a front-end that ends.
var errLeaving = errors.New("the front-end ends")

// lastWord is how long a client may take nothing of what it is told last.
const lastWord = time.Second

// leaving tells streams and terminals of the end.
type leaving struct {
	ctx  context.Context // done when they are to end
	end  context.CancelFunc
	mu   sync.Mutex
	left bool
	open sync.WaitGroup
}

func (l *leaving) begin() { l.ctx, l.end = context.WithCancel(context.Background()) }

// enter notes a terminal until leave is called, which Leave waits for.
func (l *leaving) enter() (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left {
		return func() {}
	}
	l.open.Add(1)
	return l.open.Done
}

// Leave tells streams of output and terminals that they are to go on elsewhere, and
// returns when those know, or are not to be told.
func (s *Server) Leave() {
	s.leaving.mu.Lock()
	s.leaving.left = true
	s.leaving.mu.Unlock()
	s.leaving.end()
	s.leaving.open.Wait() // each at most lastWord
}

// restarting is a close frame of WebSocket's status 1012.
var restarting = closeFrame(1012, "the front-end ends; a new terminal is opened at another")

func closeFrame(status uint16, reason string) []byte {
	frame := []byte{0x88, byte(2 + len(reason))} // the last and only frame of opcode 8, not masked
	frame = binary.BigEndian.AppendUint16(frame, status)
	return append(frame, reason...)
}

// frames passes the frames of a WebSocket's server to its client, and can end them with
// one of its own.
type frames struct {
	to net.Conn

	mu   sync.Mutex
	head []byte // of a frame, as far as it is there
	left uint64 // of a frame's payload
	last []byte // what follows when this frame has ended
	done bool
}

// finish sends a last frame behind the one that is under way.
func (f *frames) finish(last []byte) {
	_ = f.to.SetWriteDeadline(time.Now().Add(lastWord)) // fails on a closed connection, as writing does
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = last
	if len(f.head) == 0 && f.left == 0 {
		_ = f.end() // the client is gone
	}
}

func (f *frames) end() error {
	f.done = true
	_, err := f.to.Write(f.last)
	return err
}

// Write implements io.Writer.
func (f *frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return 0, errLeaving
	}
	for i := 0; i < len(p); {
		if f.left == 0 {
			f.head = append(f.head, p[i])
			i++
			size, whole := payload(f.head)
			if !whole {
				continue
			}
			f.head, f.left = f.head[:0], size
		}
		n := min(f.left, uint64(len(p)-i))
		i, f.left = i+int(n), f.left-n
		if f.left == 0 && f.last != nil {
			if n, err := f.to.Write(p[:i]); err != nil {
				return n, err
			}
			return i, errors.Join(f.end(), errLeaving)
		}
	}
	return f.to.Write(p)
}

// payload is how much follows the head of a frame from a server, if all of it is there.
func payload(head []byte) (size uint64, whole bool) {
	if len(head) < 2 {
		return 0, false
	}
	switch size := head[1] & 0x7f; {
	case size < 126:
		return uint64(size), true
	case size == 126 && len(head) == 4:
		return uint64(binary.BigEndian.Uint16(head[2:])), true
	case size == 127 && len(head) == 10:
		return binary.BigEndian.Uint64(head[2:]), true
	}
	return 0, false
}

var _ io.Writer = (*frames)(nil)
