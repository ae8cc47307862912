// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// FuzzRequest: net/http sees the same request, with the same end, and what is passed on is
// one request, too, for the same host.
func FuzzRequest(f *testing.F) {
	for _, lines := range []string{
		"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST /a%20?b HTTP/1.1\r\nhost:a.b:80\r\nContent-Length: 4\r\nX_Y: z\r\n\r\nbodyGET",
		"GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 1\r\nConnection: keep-alive\r\nForwarded: a\r\nX-Forwarded-For: b\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nTransfer_Encoding: chunked\r\nX-Buntime-Token: x\r\nTE: trailers\r\n\r\n0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 5\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", "GET / HTTP/1.1\nHost: a\n\r\n\r\n",
	} {
		f.Add([]byte(lines))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var r Request
		found := parseRequest(text, 16<<10, &r)
		if found != plainHead && found != otherHead {
			return
		}
		in := bytes.NewReader(text)
		buffered := bufio.NewReader(in)
		same, err := http.ReadRequest(buffered)
		if err != nil {
			if found == plainHead {
				t.Errorf("net/http does not take what is plain: %v", err)
			}
			return
		}
		if read := len(text) - in.Len() - buffered.Buffered(); read != r.head {
			t.Errorf("the head has %d bytes, for net/http %d", r.head, read)
		}
		if same.Method != r.Method || same.Host != r.Host || same.ContentLength != int64(r.length) || len(same.TransferEncoding) > 0 || same.RequestURI != string(r.target) {
			t.Errorf("%+v is %+v for net/http", r, same)
		}
		if found != plainHead || r.head+r.length > len(text) {
			return
		}
		out := r.write(nil, Plain, []byte("X-More: a\r\n"))
		buffered = bufio.NewReader(bytes.NewReader(out))
		passed, err := http.ReadRequest(buffered)
		if err != nil {
			t.Fatalf("%q is passed on: %v", out, err)
		}
		body, err := io.ReadAll(passed.Body)
		if err != nil || buffered.Buffered() != 0 || !bytes.Equal(body, text[r.head:r.head+r.length]) || passed.Host != r.Host || passed.RequestURI != string(r.target) {
			t.Errorf("%q is passed on: %v, %q, %d bytes behind it", out, err, body, buffered.Buffered())
		}
		for name, values := range passed.Header {
			plain := strings.ToLower(strings.ReplaceAll(name, "_", "-"))
			if plain == "x-buntime-token" || plain == "forwarded" || plain == "x-real-ip" || strings.HasPrefix(plain, "x-forwarded-") || plain == "connection" || plain == "transfer-encoding" || plain == "upgrade" {
				t.Errorf("%s: %q is passed on", name, values)
			}
			if plain == "authorization" && strings.Contains(strings.ToLower(strings.Join(values, "")), "btk_") {
				t.Errorf("%s: %q is passed on", name, values)
			}
		}
	})
}

// FuzzAnswer: net/http sees the same answer, with the same end.
func FuzzAnswer(f *testing.F) {
	for _, text := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "HTTP/1.1 204\r\nConnection: close\r\nX-Buntime-Moved: 1\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nKeep-Alive: a\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nDate: a\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
	} {
		f.Add([]byte(text), false)
		f.Add([]byte(text), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, head bool) {
		if len(text) > pageSize {
			return
		}
		method := "GET"
		if head {
			method = "HEAD"
		}
		var a answer
		if parseAnswer(text, method, &a) != plainHead {
			return
		}
		p := newPage()
		defer p.release()
		p.full += copy(p.b[p.full:], text)
		moved := a.squeeze(p.b, pageRoom)
		for what, passed := range map[string][]byte{"came": text, "went": p.b[moved:p.full]} {
			buffered := bufio.NewReader(bytes.NewReader(passed))
			res, err := http.ReadResponse(buffered, &http.Request{Method: method})
			if err != nil {
				t.Fatalf("%s %q: %v", what, passed, err)
			}
			if res.StatusCode != a.status {
				t.Errorf("%s with status %d, not %d", what, res.StatusCode, a.status)
			}
			chunked := len(res.TransferEncoding) > 0
			bodied := !head && a.status != 304 && a.status != 204 && a.status >= 200
			if bodied && (chunked != (a.length < 0) || !chunked && res.ContentLength != a.length) {
				t.Errorf("%s with length %d, %v, not %d", what, res.ContentLength, res.TransferEncoding, a.length)
			}
			if what == "went" && (res.Header.Get("X-Buntime-Moved") != "" || res.Header.Get("Connection") != "" || a.status >= 200 && len(res.Header["Date"]) == 0) {
				t.Errorf("went with %v", res.Header)
			}
		}
	})
}

// FuzzChunks: net/http finds the same end, and the same pieces may come in any sizes.
func FuzzChunks(f *testing.F) {
	for _, text := range []string{"5\r\nhello\r\n0\r\n\r\nmore", "0005 ;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", "5\r\nhello0\r\n\r\n", "\r\n", "fffffffffffffff\r\n", "1\r\nx\r\n0\r\n\r\r"} {
		f.Add([]byte(text), 3)
	}
	f.Fuzz(func(t *testing.T, text []byte, piece int) {
		scan := func(piece int) (int, chunks, error) {
			var c chunks
			at := 0
			for at < len(text) && c.state != chunkOver {
				end := min(at+piece, len(text))
				n, err := c.scan(text[at:end])
				at += n
				if err != nil {
					return at, c, err
				}
			}
			return at, c, nil
		}
		n, whole, err := scan(len(text) + 1)
		m, parts, perr := scan(max(piece&15, 1))
		if n != m || (err == nil) != (perr == nil) || whole.state != parts.state || whole.trailer != parts.trailer {
			t.Errorf("%d %+v %v in one, %d %+v %v in pieces", n, whole, err, m, parts, perr)
		}
		if err != nil || whole.state != chunkOver || whole.trailer {
			return
		}
		in := bytes.NewReader(append([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"), text...))
		buffered := bufio.NewReader(in)
		res, err := http.ReadResponse(buffered, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Errorf("net/http: %v", err)
		}
		if rest := in.Len() + buffered.Buffered(); rest != len(text)-n {
			t.Errorf("%d bytes are left, for net/http %d", len(text)-n, rest)
		}
	})
}
