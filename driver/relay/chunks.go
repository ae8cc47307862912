// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import "errors"

var errChunks = errors.New("the answer's chunks are malformed")

// chunks finds the end of a body in chunks that passes as it is.
type chunks struct {
	state   int
	left    int64 // of the chunk
	digits  int
	line    int // bytes of the extension
	trailer bool
}

// States, by what comes next.
const (
	chunkSize = iota
	chunkSpace
	chunkExtension
	chunkSizeLF
	chunkData
	chunkCR
	chunkLF
	chunkLastLF // of the last chunk's size
	chunkEnd    // the empty line, or a trailer
	chunkEndLF
	chunkOver
)

// maxExtension is more than anybody needs.
const maxExtension = 256

// scan returns how many bytes of p belong to the body. It is over if the state is
// chunkOver then. A trailer is not passed on, as nobody has announced one: then trailer
// is set, and the body wants an empty line.
func (c *chunks) scan(p []byte) (int, error) {
	for i := 0; i < len(p); {
		b := p[i]
		switch c.state {
		case chunkSize:
			digit := unhex(b)
			switch {
			case digit >= 0 && c.digits < 15:
				c.left = c.left<<4 | int64(digit)
				c.digits++
			case c.digits == 0 || digit >= 0:
				return i, errChunks
			case b == '\r':
				c.sized()
			case b == ';':
				c.state, c.line = chunkExtension, 0
			case b == ' ' || b == '\t':
				c.state, c.line = chunkSpace, 0
			default:
				return i, errChunks
			}
		case chunkSpace:
			switch c.line++; {
			case b == '\r':
				c.sized()
			case b != ' ' && b != '\t' || c.line > maxExtension:
				return i, errChunks
			}
		case chunkExtension:
			switch c.line++; {
			case b == '\r':
				c.sized()
			case !valueByte[b] || c.line > maxExtension:
				return i, errChunks
			}
		case chunkSizeLF, chunkLF, chunkLastLF:
			if b != '\n' {
				return i, errChunks
			}
			switch c.state {
			case chunkSizeLF:
				c.state = chunkData
			case chunkLF:
				c.state, c.left, c.digits = chunkSize, 0, 0
			case chunkLastLF:
				c.state = chunkEnd
			}
		case chunkData:
			n := min(int64(len(p)-i), c.left)
			c.left -= n
			i += int(n)
			if c.left == 0 {
				c.state = chunkCR
			}
			continue
		case chunkCR:
			if b != '\r' {
				return i, errChunks
			}
			c.state = chunkLF
		case chunkEnd:
			if b != '\r' {
				c.state, c.trailer = chunkOver, true
				return i, nil
			}
			c.state = chunkEndLF
		case chunkEndLF:
			if b != '\n' {
				return i, errChunks
			}
			c.state = chunkOver
			return i + 1, nil
		case chunkOver:
			return i, nil
		}
		i++
	}
	return len(p), nil
}

func (c *chunks) sized() {
	c.state = chunkSizeLF
	if c.left == 0 {
		c.state = chunkLastLF
	}
}

func unhex(b byte) int {
	switch {
	case b >= '0' && b <= '9':
		return int(b - '0')
	case b >= 'a' && b <= 'f':
		return int(b-'a') + 10
	case b >= 'A' && b <= 'F':
		return int(b-'A') + 10
	}
	return -1
}
