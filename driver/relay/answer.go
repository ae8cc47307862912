// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"bytes"
	"slices"
	"time"
)

// answer is the head of a plain answer: HTTP/1.1, with a body whose end is known.
type answer struct {
	lines  []line // that do not go on: between them all is passed as it is
	head   int    // where the head ends
	status int
	length int64 // of the body, -1 if it is in chunks
	closes bool  // the connection is no good for another
	dated  bool
	moved  bool
}

// parseAnswer reads the head of an answer to a request from the start of in.
func parseAnswer(in []byte, method string, a *answer) verdict {
	i := bytes.Index(in, headEnd)
	if i < 0 {
		if len(in) >= pageSize {
			return strange
		}
		return incomplete
	}
	a.lines, a.head, a.closes, a.dated, a.moved = a.lines[:0], i+len(headEnd), false, false, false
	start := bytes.IndexByte(in, '\r') + 2
	if in[start-1] != '\n' || !a.statusLine(in[:start-2]) {
		return strange
	}
	length, chunked := int64(-1), false
	for end := a.head - 2; start < end; {
		l, name, ok := readLine(in[:end], start)
		if !ok {
			return strange
		}
		start = l.end
		switch len(name) { // of the names that mean something
		case 2, 4, 7, 10, 14, 15, 16, 17, 18, 19:
		default:
			continue
		}
		if bytes.IndexByte(name, '_') >= 0 { // the same for nobody who frames answers
			continue
		}
		value := bytes.Trim(in[l.value:l.end-2], " \t")
		var room [longest]byte
		short := room[:len(name)]
		for i := range short {
			short[i] = lower[name[i]]
		}
		switch string(short) {
		case "content-length":
			n, ok := number(value)
			if !ok || length >= 0 {
				return strange
			}
			length = int64(n)
		case "transfer-encoding":
			if chunked || !bytes.EqualFold(value, []byte("chunked")) {
				return strange
			}
			chunked = true
		case "connection":
			switch {
			case bytes.EqualFold(value, []byte("keep-alive")):
			case bytes.EqualFold(value, []byte("close")):
				a.closes = true
			default:
				return strange
			}
			a.lines = append(a.lines, l)
		case "keep-alive", "proxy-connection":
			a.lines = append(a.lines, l)
		case "upgrade", "te", "trailer", "proxy-authenticate", "proxy-authorization":
			return strange
		case "x-buntime-moved":
			a.moved = true
			a.lines = append(a.lines, l)
		case "date":
			a.dated = true
		}
	}
	switch {
	case a.status < 200:
		if a.status == 101 || length >= 0 || chunked {
			return strange
		}
		a.length = 0
	case method == "HEAD" || a.status == 304:
		a.length = 0
	case a.status == 204:
		if length > 0 || chunked {
			return strange
		}
		a.length = 0
	case chunked:
		if length >= 0 {
			return strange
		}
		a.length = -1
	case length >= 0:
		a.length = length
	default: // until the connection ends
		return strange
	}
	return plainHead
}

// statusLine takes HTTP/1.1 and three digits, and a reason or none.
func (a *answer) statusLine(text []byte) bool {
	rest, ok := bytes.CutPrefix(text, []byte("HTTP/1.1 "))
	if !ok || len(rest) < 3 || len(rest) > 3 && rest[3] != ' ' {
		return false
	}
	n, ok := number(rest[:3])
	for _, b := range rest {
		ok = ok && valueByte[b]
	}
	a.status = n
	return ok && n >= 100
}

// squeeze takes the lines out that do not go on, and adds Date if there is none (RFC 9110,
// 6.6.1): the head moves to the right within b, which has room for it before start. It
// returns where the answer begins then.
func (a *answer) squeeze(b []byte, start int) int {
	to := start + a.head
	from := to
	for _, l := range slices.Backward(a.lines) {
		to -= copy(b[to-(from-start-l.end):], b[start+l.end:from])
		from = start + l.start
	}
	if to != from {
		to -= copy(b[to-(from-start):to], b[start:from])
	} else {
		to = start
	}
	if a.dated || a.status < 200 {
		return to
	}
	// Behind the status line, which moves to the left.
	var room [pageRoom]byte
	dated := append(time.Now().UTC().AppendFormat(append(room[:0], "Date: "...), "Mon, 02 Jan 2006 15:04:05 GMT"), "\r\n"...)
	first := bytes.IndexByte(b[to:], '\n') + 1
	copy(b[to-len(dated):], b[to:to+first])
	copy(b[to-len(dated)+first:], dated)
	return to - len(dated)
}
