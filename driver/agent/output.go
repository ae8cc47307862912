// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"sync"
)

// stream tells standard output from standard error, in the letters of the
// journal's order file.
type stream byte

const (
	stdout stream = 'o'
	stderr stream = 'e'
)

func (s stream) String() string {
	if s == stderr {
		return "stderr"
	}
	return "stdout"
}

func (s stream) other() stream {
	if s == stderr {
		return stdout
	}
	return stderr
}

// piece is output as it came in one go.
type piece struct {
	stream stream
	// offset of the first byte in both streams together, in order of arrival.
	offset int64
	data   []byte
}

// windowSize is how much of an execution's output stays in memory for those
// who follow it; who falls further behind reads the journal.
const windowSize = 1 << 20

// mergedSize bounds what pieces become together.
const mergedSize = 16 << 10

// output is what an execution has printed: two captures for its answer and a
// window of the newest pieces for those who follow it live.
type output struct {
	mu       sync.Mutex
	stdout   capture
	stderr   capture
	window   []piece
	held     int
	end      int64
	closed   bool
	changed  chan struct{} // closed and replaced with each change somebody waits for
	watchers int
}

func newOutput(limit int64) *output {
	return &output{
		stdout:  capture{limit: int(limit)},
		stderr:  capture{limit: int(limit)},
		changed: make(chan struct{}),
	}
}

// add appends p, which stays the caller's.
func (o *output) add(s stream, p []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s == stdout {
		o.stdout.write(p)
	} else {
		o.stderr.write(p)
	}
	// Many small pieces become one, which costs less to keep than each of them.
	// Who was given the last piece before has a slice that ends before p.
	if last := len(o.window) - 1; last >= 0 && o.window[last].stream == s && len(o.window[last].data)+len(p) <= mergedSize {
		o.window[last].data = append(o.window[last].data, p...)
	} else {
		o.window = append(o.window, piece{s, o.end, append([]byte(nil), p...)})
	}
	o.end += int64(len(p))
	o.held += len(p)
	for o.held > windowSize && len(o.window) > 1 {
		o.held -= len(o.window[0].data)
		o.window[0].data = nil
		o.window = o.window[1:]
	}
	o.wake()
}

// skipTo leaves a gap up to offset: output that is lost, or only in the journal.
func (o *output) skipTo(offset int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.end < offset {
		o.window, o.held, o.end = nil, 0, offset
	}
}

// close tells those who follow that nothing more will come.
func (o *output) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	o.wake()
}

func (o *output) wake() {
	if o.watchers > 0 {
		close(o.changed)
		o.changed = make(chan struct{})
		o.watchers = 0
	}
}

// offset is how many bytes were printed so far.
func (o *output) offset() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.end
}

// memory is how many bytes of output are held.
func (o *output) memory() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int64(cap(o.stdout.head) + cap(o.stdout.tail) + cap(o.stderr.head) + cap(o.stderr.tail) + o.held)
}

// whole returns all pieces if the window still holds everything printed.
func (o *output) whole() ([]piece, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]piece(nil), o.window...), o.end == int64(o.held)
}

// next returns the pieces from offset on, waiting until there is one.
// behind is true when the window no longer reaches back to offset; over when
// offset is the end and nothing more will come, or until is closed.
func (o *output) next(ctx context.Context, offset int64, until <-chan struct{}) (pieces []piece, behind, over bool, err error) {
	for stop := false; ; {
		o.mu.Lock()
		if offset < o.end {
			if len(o.window) == 0 || o.window[0].offset > offset {
				o.mu.Unlock()
				return nil, true, false, nil
			}
			pieces = o.from(offset)
			o.mu.Unlock()
			return pieces, false, false, nil
		}
		if o.closed || stop {
			o.mu.Unlock()
			return nil, false, true, nil
		}
		o.watchers++
		changed := o.changed
		o.mu.Unlock()
		select {
		case <-changed:
		case <-until:
			stop = true
		case <-ctx.Done():
			return nil, false, false, context.Cause(ctx)
		}
	}
}

func (o *output) from(offset int64) []piece {
	i := len(o.window) - 1
	for i > 0 && o.window[i].offset > offset {
		i--
	}
	pieces := append([]piece(nil), o.window[i:]...)
	if skip := offset - pieces[0].offset; skip > 0 {
		pieces[0].data = pieces[0].data[skip:]
		pieces[0].offset = offset
	}
	return pieces
}
