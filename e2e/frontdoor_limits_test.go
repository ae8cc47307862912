// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// TestFrontDoorSizes: what is too large is refused before it is read.
func TestFrontDoorSizes(t *testing.T) {
	t.Parallel()
	s := createSession(t, deadline(t, 2*usual), free(), nil)
	s.background(recorder)
	s.write("a", "a")
	list := entrances(t, s, s)
	for _, e := range list {
		for name, c := range map[string]struct {
			text string
			want int
		}{
			"long field":   {"GET " + e.path + " HTTP/1.1\r\nHost: " + e.host + "\r\n" + e.header + "X: " + strings.Repeat("x", 100<<10) + "\r\n\r\n", 431},
			"many fields":  {"GET " + e.path + " HTTP/1.1\r\nHost: " + e.host + "\r\n" + e.header + strings.Repeat("X: y\r\n", 200) + "\r\n", 431},
			"long target":  {"GET " + e.path + "?" + strings.Repeat("x", 100<<10) + " HTTP/1.1\r\nHost: " + e.host + "\r\n" + e.header + "\r\n", 431},
			"endless head": {"GET " + e.path + " HTTP/1.1\r\nHost: " + e.host + "\r\n" + strings.Repeat("X: "+strings.Repeat("x", 100)+"\r\n", 10_000), 431},
		} {
			answer, err := exchangeRaw(s.ctx, e.address, c.text)
			if err != nil {
				t.Errorf("%s at the %s: %v", name, e.name, err)
				continue
			}
			if got := statusOf(answer); got != c.want {
				t.Errorf("%s at the %s: status %d, want %d: %s", name, e.name, got, c.want, brief(answer))
			}
		}
	}
	if got := s.seen(); len(got) != 0 {
		t.Errorf("the app got %s", brief(got))
	}
	head := "POST /files/write HTTP/1.1\r\nHost: " + list[0].host + "\r\n" + list[0].header
	t.Run("a length that is too much", func(t *testing.T) {
		answer, err := exchangeRaw(s.ctx, list[0].address, head+"Content-Length: 1000000000000\r\n\r\n")
		if err != nil || statusOf(answer) != 413 || !strings.Contains(answer, "file_too_large") {
			t.Errorf("%v: %s", err, brief(answer))
		}
	})
	t.Run("no length", func(t *testing.T) {
		reply := send(t, s.ctx, s.api, client.Call{Method: "POST", Path: "/files/write", Body: io.MultiReader(
			strings.NewReader(`{"sessionId":"`+s.id+`","path":"big","content":"`), io.LimitReader(letters{}, 40<<20), strings.NewReader(`"}`),
		)})
		refusal(t, reply, 413, "file_too_large")
	})
	t.Run("shorter than it says", func(t *testing.T) {
		body, err := json.Marshal(s.body(M{"path": "short", "content": "whole JSON, but not the whole body"}))
		if err != nil {
			t.Fatal(err)
		}
		c := dialRaw(t, s.ctx, list[0].address)
		if _, err := fmt.Fprintf(c, "%sContent-Length: %d\r\n\r\n%s", head, len(body)+10, body); err != nil {
			t.Fatal(err)
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(c)
		if err != nil || statusOf(string(answer)) == 200 {
			t.Errorf("%v: %s", err, brief(string(answer)))
		}
		equal(t, "files", names(s.list()), []string{"a"})
	})
	t.Run("packed", func(t *testing.T) {
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		if _, err := io.Copy(z, io.LimitReader(letters{}, 100<<20)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		reply := send(t, s.ctx, s.api, client.Call{
			Method: "POST", Path: "/files/write", Body: &packed, Header: map[string]string{"Content-Encoding": "gzip"},
		})
		refusal(t, reply, 415, "unsupported_media_type")
	})
}

// letters reads as the same letter without end.
type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestFrontDoorSlowClients: who sends or takes nothing, or next to nothing, is let go.
func TestFrontDoorSlowClients(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 5*time.Minute)
	s := createSession(t, ctx, enterprise(), nil)
	const big = 96 * mib
	s.background(recorder + fmt.Sprintf(`
		const big = new Uint8Array(%d);
		Bun.serve({ port: 8081, fetch: () => new Response(big) });
	`, big))
	s.command(fmt.Sprintf(`head -c %d /dev/zero >big`, big))
	list := entrances(t, s, s)
	api, preview := list[0], list[1]
	post := "POST " + api.path + " HTTP/1.1\r\nHost: " + api.host + "\r\n"
	var all sync.WaitGroup
	defer all.Wait()

	// These are told, or not, and closed.
	for name, c := range map[string]struct {
		e          entrance
		text, drip string
		want       []int
	}{
		"head":                       {api, post, "", []int{0}},
		"head of a preview":          {preview, "GET / HTTP/1.1\r\nHost: " + preview.host + "\r\n", "", []int{0}},
		"head at the node's preview": {list[2], "GET / HTTP/1.1\r\n", "", []int{0}},
		"head drop by drop":          {api, post + "X: ", "x", []int{0}},
		"nothing":                    {api, "", "", []int{0}},
		"body":                       {api, post + api.header + "Content-Length: 1000\r\n\r\n{", "", []int{408}},
		"body drop by drop":          {api, post + api.header + "Content-Length: 1000\r\n\r\n{", " ", []int{408}},
		"chunk drop by drop":         {api, post + api.header + "Transfer-Encoding: chunked\r\n\r\nffff\r\n{", " ", []int{408}},
		"body without a key":         {api, post + "Content-Length: 1000\r\n\r\n{", "", []int{401}},
		"body of a GET":              {api, "GET /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{", "", []int{200}},
		"OPTIONS *":                  {api, "OPTIONS * HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n{", "", []int{404}},
		"body of a preview":          {preview, "POST /slow HTTP/1.1\r\nHost: " + preview.host + "\r\nContent-Length: 1000\r\n\r\nx", "", []int{408}},
	} {
		all.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.Replace(c.e.address, "localhost", "127.0.0.1", 1))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
			if _, err := io.WriteString(conn, c.text); err != nil {
				t.Error(err)
				return
			}
			dripping, stop := context.WithCancel(ctx)
			defer stop()
			if c.drip != "" {
				all.Go(func() { drip(dripping, conn, c.drip) })
			}
			begin := time.Now()
			answer, err := io.ReadAll(conn)
			if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
				t.Errorf("%s: still open after %v: %s", name, time.Since(begin), brief(string(answer)))
				return
			}
			if got := statusOf(string(answer)); !slices.Contains(c.want, got) {
				t.Errorf("%s: status %d, want one of %v: %s", name, got, c.want, brief(string(answer)))
			}
		})
	}
	// These are cut off: they get less than the whole.
	for name, request := range map[string]string{
		"preview": "GET / HTTP/1.1\r\nHost: 8081-" + preview.host + "\r\nConnection: close\r\n\r\n",
		"file":    "GET /files/read?" + s.query([]string{"path", "big"}).Encode() + " HTTP/1.1\r\nHost: " + api.host + "\r\n" + api.header + "Connection: close\r\n\r\n",
	} {
		all.Go(func() {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.Replace(api.address, "localhost", "127.0.0.1", 1))
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, request); err != nil {
				t.Error(err)
				return
			}
			from := bufio.NewReader(conn)
			res, err := http.ReadResponse(from, nil)
			if err != nil || res.StatusCode != 200 || res.ContentLength != big {
				t.Errorf("%s: %v, %v", name, res, err)
				return
			}
			select { // longer than anybody waits for us: that is the attack
			case <-time.After(50 * time.Second):
			case <-ctx.Done():
			}
			_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
			if n, err := io.Copy(io.Discard, res.Body); err == nil {
				t.Errorf("%s: all of %d bytes came in the end", name, n)
			}
		})
	}
}

// drip sends text again and again until it fails.
func drip(ctx context.Context, to io.Writer, text string) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if _, err := io.WriteString(to, text); err != nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// TestFrontDoorConnections: one client cannot have all connections. It has an
// address of its own here, as others have.
func TestFrontDoorConnections(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 2*usual)
	base, err := url.Parse(system.base)
	if err != nil {
		t.Fatal(err)
	}
	const (
		most = 512 // the front-end's default
		more = 100
		from = "127.0.0.77"
	)
	ask := func(c net.Conn) error {
		if _, err := io.WriteString(c, "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			return err
		}
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, res.Body)
		return err
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	dial := func() (net.Conn, error) {
		c, err := dialer.DialContext(ctx, "tcp", base.Host)
		if err == nil {
			t.Cleanup(func() { c.Close() })
			err = c.SetDeadline(time.Now().Add(usual))
		}
		return c, err
	}
	var open []net.Conn
	refused := 0
	for range most + more {
		c, err := dial()
		if err == nil {
			err = ask(c)
		}
		if err == nil {
			open = append(open, c)
			continue
		}
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			t.Fatal(err)
		}
		refused++ // a reset, maybe before the dial was over
	}
	equal(t, "connections with an answer", len(open), most)
	equal(t, "connections without one", refused, more)
	if err := ask(dialRaw(t, ctx, base.Host)); err != nil {
		t.Errorf("another client: %v", err)
	}
	for _, c := range open {
		c.Close()
	}
	eventually(t, ctx, "room again", 20*time.Second, func() (bool, string) {
		c, err := dial()
		if err == nil {
			err = ask(c)
		}
		return err == nil, fmt.Sprint(err)
	})
}

// TestFrontDoorMetadata: whatever metadata says, it comes back as it was, and
// goes nowhere else: into no header, job or line of a log.
func TestFrontDoorMetadata(t *testing.T) {
	t.Parallel()
	const mark = "INJECTED-3f9a"
	metadata := M{
		"crlf": "a\r\nX-" + mark + ": 1\r\n\r\nGET /" + mark + " HTTP/1.1", "nul": "a\x00" + mark, "ansi": "\x1b[2J" + mark, "unicode": "\u2028\u202e" + mark,
		"\r\nX-" + mark: "name", "${env.HOME}": "${" + mark + "}", "template": "{{ " + mark + " }}", "hcl": `" } job "` + mark + `" {`, "ses_SESSION": "ses-SESSION DOMAIN",
		"ses-SESSION": mark, "../../" + mark: "path", "__proto__": M{"polluted": mark},
	}
	s := createSession(t, deadline(t, usual), enterprise(), M{"metadata": metadata})
	want, err := json.Marshal(metadata)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got json.RawMessage) {
		t.Helper()
		var a, b any
		if json.Unmarshal(got, &a) != nil || json.Unmarshal(want, &b) != nil || fmt.Sprint(a) != fmt.Sprint(b) {
			t.Errorf("%s: got %s, want %s", what, got, want)
		}
	}
	reply := s.infoReply()
	check("info", decode[info](t, reply).Metadata)
	list := send(t, s.ctx, s.api, client.Call{Method: "GET", Path: "/sessions", Query: url.Values{"metadata.crlf": {metadata["crlf"].(string)}}})
	status(t, list, 200)
	if !strings.Contains(string(list.Body), s.id) {
		t.Errorf("the session is not found by its metadata: %s", brief(string(list.Body)))
	}
	for _, h := range []http.Header{reply.Header, list.Header} {
		if strings.Contains(fmt.Sprint(h), mark) {
			t.Errorf("metadata is in a header: %v", h)
		}
	}
	var job json.RawMessage
	nomadGet(s, "/v1/job/"+s.host(), &job)
	if strings.Contains(string(job), mark) {
		t.Errorf("metadata is in the job: %s", job)
	}
	s.shell("true")
	if system.stack != nil {
		var logs strings.Builder
		if err := system.stack.CopyLogs(&logs); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(logs.String(), mark) {
			t.Error("metadata is in a log")
		}
	}
}

// TestFrontDoorLogLines: what strangers send makes no line of its own in a log.
func TestFrontDoorLogLines(t *testing.T) {
	t.Parallel()
	if system.stack == nil {
		t.Skip("the system's logs are elsewhere")
	}
	const mark = "FORGED-81c7"
	s := newSession(t)
	s.background(`Bun.listen({ port: 8090, hostname: "0.0.0.0", socket: { data(socket) { socket.end("HTTP/1.1 200 OK\r\nX: a\rb\n` + mark + ` app\r\n\r\n") } } })`)
	var all sync.WaitGroup
	for _, e := range entrances(t, s, s) {
		for _, text := range []string{
			"GET /%0a" + mark + "%0d%0a" + mark + " HTTP/1.1\r\nHost: " + e.host + "\r\n" + e.header + "Connection: close\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: 8090-" + e.host + "\r\nConnection: close\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: a\r\nX-" + mark + "\x00\n" + mark + ": \r\n\r\n",
			mark + "\n" + mark + "\r\n\r\n",
			"\n" + mark + " level=ERROR\n\n",
		} {
			all.Go(func() {
				if _, err := exchangeRaw(s.ctx, e.address, text); err != nil {
					t.Error(err)
				}
			})
		}
	}
	all.Wait()
	var logs strings.Builder
	if err := system.stack.CopyLogs(&logs); err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(logs.String(), "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), mark) {
			t.Errorf("a stranger's line is in a log: %s", brief(line))
		}
	}
}

// TestFrontDoorJSON: bodies that are small to send and large to work on.
func TestFrontDoorJSON(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 2*usual)
	deep := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	for name, c := range map[string]struct {
		body string
		want []int
	}{
		"deep metadata":      {`{"metadata":{"a":` + deep(8000) + `}}`, []int{200, 400}},
		"deeper metadata":    {`{"metadata":{"a":` + deep(5_000_000) + `}}`, []int{400}},
		"huge number":        {`{"metadata":{"a":1e999999999}}`, []int{200, 400}},
		"long number":        {`{"metadata":{"a":` + strings.Repeat("9", 16_000) + `}}`, []int{200, 400}},
		"huge ttl":           {`{"ttl":` + strings.Repeat("9", 1_000_000) + `}`, []int{400}},
		"tiny ttl":           {`{"ttl":1e-999999999}`, []int{400}},
		"names twice":        {`{"metadata":{"a":1,"a":2}}`, []int{400}},
		"fields twice":       {`{"ttl":600,"ttl":700}`, []int{400}},
		"many names":         {`{"metadata":{` + manyNames(1_000_000) + `}}`, []int{400}},
		"unknown fields":     {`{` + manyNames(1_000_000) + `}`, []int{400}},
		"endless white":      {strings.Repeat(" ", 20_000_000), []int{200, 400}},
		"lone surrogate":     {`{"metadata":{"a":"\ud800"}}`, []int{400}},
		"limits of infinity": {`{"resourceLimits":{"cpu":1e400}}`, []int{400}},
		"not a number":       {`{"resourceLimits":{"cpu":NaN}}`, []int{400}},
	} {
		reply := send(t, ctx, enterprise(), client.Call{Method: "POST", Path: "/sessions/create", Body: strings.NewReader(c.body)})
		dropIfMade(t, enterprise(), reply)
		if !slices.Contains(c.want, reply.Status) {
			t.Errorf("%s: status %d, want one of %v: %s", name, reply.Status, c.want, brief(string(reply.Body)))
		}
		if reply.Status != 200 {
			continue
		}
		made := decode[created](t, reply)
		for _, path := range []string{"/sessions/" + made.SessionID, "/sessions?metadata.a=1"} {
			if got := send(t, ctx, enterprise(), client.Call{Method: "GET", Path: path}); got.Status != 200 {
				t.Errorf("%s: %s answers %d: %s", name, path, got.Status, brief(string(got.Body)))
			}
		}
	}
}

func manyNames(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `"n%d":0,`, i)
	}
	b.WriteString(`"last":0`)
	return b.String()
}
