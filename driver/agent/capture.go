// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"strings"
	"unicode/utf8"
)

// capture keeps one stream's output for an answer: all of it up to limit bytes,
// past that the first and the last half of limit.
type capture struct {
	limit int
	head  []byte
	tail  []byte // a ring once it is full
	next  int    // where the ring's oldest byte lies
	total int64
}

func (c *capture) write(p []byte) {
	c.total += int64(len(p))
	half := c.limit / 2
	if room := half - len(c.head); room > 0 {
		n := min(room, len(p))
		c.head = append(c.head, p[:n]...)
		p = p[n:]
	}
	if len(p) > half {
		p = p[len(p)-half:]
	}
	if room := half - len(c.tail); room > 0 {
		n := min(room, len(p))
		c.tail = append(c.tail, p[:n]...)
		p = p[n:]
	}
	for len(p) > 0 {
		n := copy(c.tail[c.next:], p)
		c.next = (c.next + n) % half
		p = p[n:]
	}
}

// text returns the output as a string and how many bytes are cut from its
// middle. A cut never splits a character, and bytes that are no UTF-8 come as
// U+FFFD, since the answer is JSON.
func (c *capture) text() (string, int64) {
	kept := int64(len(c.head) + len(c.tail))
	if kept == c.total {
		return strings.ToValidUTF8(string(c.head)+c.ordered(), "\uFFFD"), 0
	}
	head := c.head
	for i := 1; i <= utf8.UTFMax && i <= len(head); i++ {
		if b := head[len(head)-i]; utf8.RuneStart(b) {
			if !utf8.FullRune(head[len(head)-i:]) {
				head = head[:len(head)-i]
			}
			break
		}
	}
	tail := c.ordered()
	for i := 0; i < utf8.UTFMax && tail != "" && !utf8.RuneStart(tail[0]); i++ {
		tail = tail[1:]
	}
	cut := c.total - int64(len(head)+len(tail))
	return strings.ToValidUTF8(string(head)+tail, "\uFFFD"), cut
}

func (c *capture) ordered() string {
	return string(c.tail[c.next:]) + string(c.tail[:c.next])
}
