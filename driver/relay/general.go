// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/buntime/buntime/driver/door"
)

// hops are the fields of an answer that are for one connection.
var hops = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// replyWith passes an answer that is not plain, in what net/http makes of it: one without
// a length, say, or with trailers. The request was sent, and cannot be again.
func (c *Conn) replyWith(u *upstream, so []byte, t *Trip) (status int, err error) {
	head := &io.LimitedReader{R: io.MultiReader(bytes.NewReader(so), &touched{u, t}), N: door.MaxAnswerHeader}
	in := bufio.NewReader(head)
	res, err := c.readAnswer(in)
	if err != nil {
		if head.N <= 0 {
			err = fmt.Errorf("the answer's head has more than %d bytes: %w", door.MaxAnswerHeader, errHead)
		}
		return 0, err
	}
	defer res.Body.Close()
	head.N = 1<<63 - 1
	c.watch.settled()
	if t.Answered != nil {
		t.Answered()
	}
	for name := range res.Header {
		for _, value := range res.Header[name] {
			if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
				return 0, fmt.Errorf("field %q: %w", name, errHead)
			}
		}
	}
	moved(res.Header)
	for _, value := range res.Header["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.TrimString(name); name != "" {
				res.Header.Del(name)
			}
		}
	}
	for _, name := range hops {
		res.Header.Del(name)
	}
	if res.Header.Get("Date") == "" {
		res.Header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %03d %s\r\n", res.StatusCode, http.StatusText(res.StatusCode))
	none := c.request.Method == http.MethodHead || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusNotModified
	inChunks := !none && res.ContentLength < 0
	if inChunks || res.StatusCode == http.StatusNoContent {
		res.Header.Del("Content-Length")
	}
	if inChunks {
		res.Header.Set("Transfer-Encoding", "chunked")
		if len(res.Trailer) > 0 {
			names := make([]string, 0, len(res.Trailer))
			for name := range res.Trailer {
				names = append(names, name)
			}
			slices.Sort(names)
			res.Header.Set("Trailer", strings.Join(names, ", "))
		}
	}
	_ = res.Header.Write(&b) // into memory
	b.WriteString("\r\n")
	if err := c.write(b.Bytes()); err != nil || none {
		return res.StatusCode, err
	}
	return res.StatusCode, c.replyBody(res, inChunks)
}

// readAnswer reads the head of an answer, and passes what comes before it.
func (c *Conn) readAnswer(in *bufio.Reader) (*http.Response, error) {
	for range maxHints {
		res, err := http.ReadResponse(in, &http.Request{Method: c.request.Method})
		switch {
		case err != nil:
			return nil, err
		case res.StatusCode == http.StatusSwitchingProtocols:
			return nil, fmt.Errorf("the answer switches protocols, which was not asked for: %w", errHead)
		case res.StatusCode >= 200:
			return res, nil
		case res.StatusCode < 100:
			return nil, errHead
		} // one that is not plain is left out
	}
	return nil, fmt.Errorf("more than %d interim answers: %w", maxHints, errHead)
}

func (c *Conn) replyBody(res *http.Response, inChunks bool) error {
	p := newPage()
	defer p.release()
	const room = 18 // for a chunk's size
	left := res.ContentLength
	for {
		n, err := res.Body.Read(p.b[room : len(p.b)-2])
		if n > 0 {
			part := p.b[room : room+n]
			left -= int64(n)
			if inChunks {
				size := append(strconv.AppendInt(nil, int64(n), 16), "\r\n"...)
				copy(p.b[room-len(size):], size)
				copy(p.b[room+n:], "\r\n")
				part = p.b[room-len(size) : room+n+2]
			}
			if err := c.write(part); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if !inChunks {
				if left > 0 {
					return io.ErrUnexpectedEOF
				}
				return nil
			}
			var b bytes.Buffer
			b.WriteString("0\r\n")
			for name, values := range res.Trailer {
				for _, value := range values {
					if httpguts.ValidTrailerHeader(name) && httpguts.ValidHeaderFieldValue(value) {
						fmt.Fprintf(&b, "%s: %s\r\n", name, value)
					}
				}
			}
			b.WriteString("\r\n")
			return c.write(b.Bytes())
		case err != nil:
			return err
		}
	}
}

// moved takes out what an app cannot say.
func moved(h http.Header) { h.Del(door.MovedHeader) }

// touched reads from who answers.
type touched struct {
	u *upstream
	t *Trip
}

// Read implements io.Reader.
func (r *touched) Read(p []byte) (int, error) {
	n, err := r.u.conn.Read(p)
	if n > 0 && r.t.Touch != nil {
		if terr := r.t.Touch(); terr != nil && err == nil {
			err = terr
		}
	}
	return n, err
}
