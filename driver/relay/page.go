// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import "sync"

const (
	// pageSize is how much is read at a time of an answer, and the most that the head of
	// a plain one has.
	pageSize = 64 << 10
	// pageRoom is left free before an answer for a line that is to be added.
	pageRoom = 64
)

// page is a buffer for what comes from an app, with room before it and for a line's end
// behind it.
type page struct {
	b    []byte
	full int // so far there are bytes
}

var pages = sync.Pool{New: func() any { return &page{b: make([]byte, pageRoom+pageSize, pageRoom+pageSize+2)} }}

func newPage() *page {
	p := pages.Get().(*page)
	p.full = pageRoom
	return p
}

func (p *page) release() { pages.Put(p) }

// desk is what a connection needs while a request is under way.
type desk struct {
	in    []byte // what has come of the client
	out   []byte // the request as it is passed on
	lines []line
}

const (
	deskSize = 4 << 10
	// keptSize is how large a desk's buffers may have become for the desk to be kept.
	keptSize = 32 << 10
)

var desks = sync.Pool{New: func() any { return &desk{in: make([]byte, 0, deskSize), out: make([]byte, 0, deskSize)} }}

func newDesk() *desk { return desks.Get().(*desk) }

func (d *desk) release() {
	if cap(d.in) > keptSize || cap(d.out) > keptSize {
		return
	}
	d.in, d.out, d.lines = d.in[:0], d.out[:0], d.lines[:0]
	desks.Put(d)
}
