// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"errors"
	"fmt"
)

// maxHints is how many interim answers there may be before the answer.
const maxHints = 16

// errHead is an answer that is none.
var errHead = errors.New("the answer is malformed")

// pass sends the request on and its answer back. passed is false if the request is
// net/http's: because nothing was done, or with c.failure. An error ends the connection.
func (c *Conn) pass() (passed bool, err error) {
	t := &c.trip
	*t = Trip{Lines: t.Lines[:0]}
	if !c.server.policy(c, &c.request, t) {
		return false, c.clientGone()
	}
	status := 0
	defer func() {
		c.watch.settled()
		if !passed && err == nil {
			status = -1
		}
		if t.Ended != nil {
			t.Ended(status)
		}
	}()
	for again := false; ; again = true {
		u, err := t.Pool.take(c.ctx, t.Place, again)
		if err != nil {
			return false, c.clientGone() // net/http finds out what it is
		}
		if err := c.use(u); err != nil {
			u.close()
			return false, c.clientGone()
		}
		if t.Touch != nil && t.Touch() != nil {
			c.done(u, false)
			return false, nil
		}
		c.desk.out = c.request.write(c.desk.out[:0], t.Keep, u.lines, t.Lines)
		_, err = u.conn.Write(c.desk.out)
		var p *page
		if err == nil {
			c.watch.sent(t.Attend)
			p, err = c.first(u, t)
		}
		if err == nil {
			return c.reply(u, p, t, &status)
		}
		if p != nil {
			p.release()
		}
		c.done(u, false)
		if gone := c.clientGone(); gone != nil {
			return false, gone
		}
		cause := c.abandoned()
		if cause == nil && u.used && !again && harmless(c.request.Method) {
			continue // it was closed meanwhile
		}
		if cause == nil {
			cause = fmt.Errorf("%w: %w", ErrUnanswered, err)
		}
		c.failure = cause
		return false, nil
	}
}

// clientGone is an error if nobody waits for an answer any more.
func (c *Conn) clientGone() error {
	if c.ctx.Err() != nil {
		return errCut
	}
	return nil
}

// harmless says whether a request may be sent again that has maybe been done.
func harmless(method string) bool {
	return method == "GET" || method == "HEAD" || method == "OPTIONS"
}

// done lets go of an upstream connection, which is kept if it is good for another request.
func (c *Conn) done(u *upstream, good bool) {
	if c.use(nil) != nil {
		good = false
	}
	if good {
		c.trip.Pool.put(u)
		return
	}
	u.close()
}

// first reads the first bytes of an answer.
func (c *Conn) first(u *upstream, t *Trip) (*page, error) {
	p, err := u.read(nil)
	if err == nil && t.Touch != nil {
		err = t.Touch()
	}
	return p, err
}

// reply passes an answer whose first bytes are in p.
func (c *Conn) reply(u *upstream, p *page, t *Trip, status *int) (passed bool, err error) {
	defer func() {
		if p != nil {
			p.release()
		}
	}()
	start, begun := pageRoom, false
	fail := func(err error) (bool, error) {
		c.done(u, false)
		if gone := c.clientGone(); gone != nil || begun {
			return false, errCut
		}
		if cause := c.abandoned(); cause != nil {
			err = cause
		}
		c.failure = err
		return false, nil
	}
	a := &c.answer
	for hints := 0; ; {
		switch parseAnswer(p.b[start:p.full], c.request.Method, a) {
		case incomplete:
			if start > pageRoom { // behind an interim answer
				p.full = pageRoom + copy(p.b[pageRoom:], p.b[start:p.full])
				start = pageRoom
			}
			if _, err := u.read(p); err != nil {
				return fail(err)
			}
			if t.Touch != nil {
				if err := t.Touch(); err != nil {
					return fail(err)
				}
			}
			continue
		case strange:
			*status, err = c.replyWith(u, p.b[start:p.full], t)
			if err == nil {
				c.done(u, false)
				return true, nil
			}
			begun = *status > 0
			return fail(err)
		}
		if a.moved && t.Follow && a.status >= 200 { // interim answers are the app's
			c.done(u, false)
			return false, nil
		}
		from := a.squeeze(p.b, start)
		if a.status < 200 {
			if hints++; hints > maxHints {
				return fail(fmt.Errorf("more than %d interim answers: %w", maxHints, errHead))
			}
			if c.write(p.b[from:start+a.head]) != nil {
				begun = true
				return fail(errCut)
			}
			start += a.head
			continue
		}
		c.watch.settled()
		if t.Answered != nil {
			t.Answered()
		}
		*status, begun = a.status, true
		good, err := c.body(u, &p, from, start+a.head, t)
		if err != nil {
			return fail(err)
		}
		c.done(u, good && !a.closes)
		return true, nil
	}
}

// body passes the head of an answer, in *p from there to head, and its body. good is
// whether nothing came after that.
func (c *Conn) body(u *upstream, p **page, from, head int, t *Trip) (good bool, err error) {
	left := c.answer.length
	var scan chunks
	for first := true; ; first = false {
		in := (*p).b[head:(*p).full]
		n, over := len(in), false
		if left >= 0 {
			n = int(min(left, int64(n)))
			left -= int64(n)
			over = left == 0
		} else {
			if n, err = scan.scan(in); err != nil {
				return false, err
			}
			over = scan.state == chunkOver
		}
		end := head + n
		good = end == (*p).full
		if over && scan.trailer {
			end += copy((*p).b[end:cap((*p).b)], "\r\n") // over the trailer's own bytes
		}
		if !first {
			from = head
		}
		if end > from {
			if err := c.write((*p).b[from:end]); err != nil {
				return false, err
			}
		}
		if over {
			return good, nil
		}
		(*p).release()
		*p = nil
		if *p, err = u.read(nil); err != nil {
			return false, err
		}
		head = pageRoom
		if t.Touch != nil {
			if err := t.Touch(); err != nil {
				return false, err
			}
		}
	}
}
