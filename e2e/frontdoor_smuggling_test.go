// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// smuggling is an attack: one request, as far as some reader of HTTP may see,
// in which another sees a second one.
type smuggling struct {
	name string
	// make has the start of a request (request line, Host and what else it
	// takes, without the empty line) and the hidden request.
	make func(start, hidden string) string
	// want are the statuses that there may be; nil for any.
	want []int
}

// framed puts header lines and a body behind a start.
func framed(lines string, body func(hidden string) string) func(string, string) string {
	return func(start, hidden string) string {
		text := body(hidden)
		return start + strings.ReplaceAll(lines, "{n}", fmt.Sprint(len(text))) + "\r\n" + text
	}
}

// behindChunks hides a request behind an end of chunks: it is seen by who
// believes in chunks.
func behindChunks(hidden string) string { return "0\r\n\r\n" + hidden }

// insideChunk hides a request in a chunk: it is seen by who believes in
// a Content-Length of the first line alone.
func insideChunk(hidden string) string {
	return fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(hidden), hidden)
}

func bare(hidden string) string { return hidden }

var smugglings = slices.Concat(framings(), chunkings(), heads(), targets())

// framings are about where a body ends.
func framings() []smuggling {
	list := []smuggling{
		{"CL.TE", framed("Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n", behindChunks), nil},
		{"TE before CL", framed("Transfer-Encoding: chunked\r\nContent-Length: {n}\r\n", behindChunks), nil},
		{"TE.CL", framed("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", insideChunk), nil},
		{"CL of 0 and TE", framed("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", behindChunks), nil},
		{"TE in HTTP/1.0", func(start, hidden string) string {
			return framed("Connection: keep-alive\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n", insideChunk)(strings.Replace(start, "HTTP/1.1", "HTTP/1.0", 1), hidden)
		}, nil},
		{"OPTIONS *", func(start, hidden string) string {
			_, rest, _ := strings.Cut(start, "\r\n")
			return framed("Content-Length: {n}\r\nTransfer-Encoding: chunked\r\n", behindChunks)("OPTIONS * HTTP/1.1\r\n"+rest, hidden)
		}, nil},
		{"TE with underscore", framed("Content-Length: {n}\r\nTransfer_Encoding: chunked\r\n", behindChunks), nil},
		{"TE folded", framed("Content-Length: 4\r\nTransfer-Encoding:\r\n chunked\r\n", insideChunk), nil},
		{"TE after tab", framed("Content-Length: 4\r\nTransfer-Encoding:\tchunked\r\n", insideChunk), nil},
		{"TE in capitals", framed("Content-Length: 4\r\nTRANSFER-ENCODING: CHUNKED\r\n", insideChunk), nil},
		{"TE listed in Connection", framed("Connection: Transfer-Encoding\r\nContent-Length: {n}\r\nTransfer-Encoding: chunked\r\n", behindChunks), nil},
		{"CL listed in Connection", framed("Connection: Content-Length\r\nContent-Length: {n}\r\n", bare), nil},
		{"Expect", framed("Expect: 100-continue\r\nContent-Length: {n}\r\n", bare), nil},
		{"Expect of something else", framed("Expect: 100-continue, x\r\nContent-Length: {n}\r\n", bare), nil},
	}
	refused := []int{400, 501}
	for name, line := range map[string]string{
		"xchunked": "Transfer-Encoding: xchunked", "space before the colon": "Transfer-Encoding : chunked",
		"vertical tab": "Transfer-Encoding: \x0bchunked", "NUL": "Transfer-Encoding: chunked\x00", "identity": "Transfer-Encoding: identity",
		"two": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
		"list": "Transfer-Encoding: gzip, chunked", "list the other way": "Transfer-Encoding: chunked, gzip", "quoted": `Transfer-Encoding: "chunked"`,
		"parameter": "Transfer-Encoding: chunked;q=1", "empty": "Transfer-Encoding:", "CR in the name": "Transfer-Encoding\r: chunked",
		"LF in the name": "Transfer-Encoding\n: chunked", "lone CR before": "X: y\rTransfer-Encoding: chunked", "comma": "Transfer-Encoding: ,chunked",
		"no break space": "Transfer-Encoding: \xa0chunked", "accent": "Transfer-Encodin\xc7\xb5: chunked",
	} {
		list = append(
			list,
			smuggling{"TE: " + name + ", behind chunks", framed("Content-Length: {n}\r\n"+line+"\r\n", behindChunks), refused},
			smuggling{"TE: " + name + ", inside a chunk", framed("Content-Length: 4\r\n"+line+"\r\n", insideChunk), refused},
		)
	}
	for name, lines := range map[string]string{
		"two that differ": "Content-Length: 0\r\nContent-Length: {n}\r\n", "two the other way": "Content-Length: {n}\r\nContent-Length: 0\r\n",
		"list": "Content-Length: 0, {n}\r\n", "list of the same": "Content-Length: 0, 0\r\n", "plus": "Content-Length: +0\r\n", "minus": "Content-Length: -0\r\n",
		"minus one": "Content-Length: -1\r\n", "hexadecimal": "Content-Length: 0x0\r\n", "space inside": "Content-Length: 0 0\r\n",
		"fraction": "Content-Length: 0.0\r\n", "exponent": "Content-Length: 0e0\r\n", "empty": "Content-Length:\r\n", "too big": "Content-Length: 99999999999999999999\r\n",
		"wraps to 0": "Content-Length: 18446744073709551616\r\n", "space before the colon": "Content-Length : {n}\r\n", "NUL": "Content-Length: 0\x00\r\n",
		"other digits": "Content-Length: \xd9\xa0\r\n", "underscore": "Content-Length: 0_0\r\n", "folded": "Content-Length: 0\r\n {n}\r\n",
	} {
		list = append(list, smuggling{"CL: " + name, framed(lines, bare), []int{400}})
	}
	return list
}

// chunkings are about how chunks are written.
func chunkings() []smuggling {
	list := []smuggling{
		{"extension", framed("Transfer-Encoding: chunked\r\n", func(hidden string) string { return "0;x=y\r\n\r\n" + hidden }), nil},
		{"trailer", framed("Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n", func(hidden string) string { return "0\r\nContent-Length: 0\r\n\r\n" + hidden }), nil},
		{"trailer of a key", framed("Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n", func(hidden string) string { return "0\r\nAuthorization: Bearer btk_x\r\n\r\n" + hidden }), nil},
	}
	for name, begin := range map[string]string{
		"too big": "fffffffffffffffff\r\n", "wraps to 0": "10000000000000000\r\n\r\n", "minus": "-1\r\n\r\n", "plus": "+0\r\n\r\n",
		"hexadecimal": "0x0\r\n\r\n", "empty": "\r\n\r\n", "space before": " 0\r\n\r\n", "letters": "zz\r\n\r\n",
		"longer than it says": "1\r\nxx\r\n0\r\n\r\n", "LF in extension": "0;a\n\r\n", "LF alone": "0\n\n", "LF after data": "1\r\nx\n0\r\n\r\n", "CR alone": "0\r\r\n\r\n",
		"endless extension": "0;" + strings.Repeat("x", 100<<10) + "\r\n\r\n", "endless trailer": "0\r\nX: " + strings.Repeat("x", 200<<10) + "\r\n\r\n",
	} {
		list = append(list, smuggling{"chunk: " + name, framed("Transfer-Encoding: chunked\r\n", func(hidden string) string { return begin + hidden }), nil})
	}
	return list
}

// heads are about where a header ends, and who is meant.
func heads() []smuggling {
	var list []smuggling
	for name, line := range map[string]string{
		"NUL in a value": "X: a\x00b", "NUL in a name": "X\x00: a", "CR in a value": "X: a\rb", "CR before CRLF": "X: a\r", "no colon": "X", "no name": ": a",
		"space in a name": "X Y: a", "colon in quotes": "\"X: a", "DEL": "X: a\x7f", "escape": "X: a\x1bb", "second Host": "Host: other", "Host again": "host: {host}",
	} {
		list = append(list, smuggling{"head: " + name, func(start, hidden string) string {
			host, _, _ := strings.Cut(start[strings.Index(start, "Host: ")+6:], "\r\n")
			return start + strings.ReplaceAll(line, "{host}", host) + "\r\nContent-Length: 0\r\n\r\n" + hidden
		}, []int{400}})
	}
	return list
}

// withTarget replaces the start of a request.
func withTarget(line, host string) func(string, string) string {
	return func(start, hidden string) string {
		_, rest, _ := strings.Cut(start, "\r\n")
		own, rest, _ := strings.Cut(rest, "\r\n")
		if host != "-" {
			own = host
		}
		return line + "\r\n" + own + "\r\n" + strings.TrimPrefix(rest, "\r\n") + "\r\n" + hidden
	}
}

// targets are about the request line and the host.
func targets() []smuggling {
	list := []smuggling{
		{"no Host", withTarget("GET / HTTP/1.1", "X: y"), []int{400}},
		{"HTTP/2 by prior knowledge", func(_, hidden string) string {
			return "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00" + hidden
		}, []int{505}},
		{"TLS", func(_, hidden string) string {
			return "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 200) + hidden
		}, []int{400}},
	}
	for name, line := range map[string]string{
		"space in the target": "GET /a b HTTP/1.1", "version twice": "GET /a HTTP/1.1 HTTP/1.1", "no version": "GET /a", "old version": "GET /a HTTP/0.9",
		"strange version": "GET /a HTTP/1.1x", "lower case version": "GET /a http/1.1", "two spaces": "GET  /a HTTP/1.1", "tab": "GET\t/a HTTP/1.1",
		"NUL": "GET /\x00 HTTP/1.1", "no target": "GET HTTP/1.1", "no slash": "GET a HTTP/1.1", "authority": "GET other:80 HTTP/1.1",
		"strange method": "G:ET / HTTP/1.1", "method with LF": "GE\nT / HTTP/1.1", "percent": "GET /%zz HTTP/1.1",
	} {
		list = append(list, smuggling{"target: " + name, withTarget(line, "-"), []int{400, 505}})
	}
	for name, host := range map[string]string{"spaces": "Host: a b", "NUL": "Host: a\x00", "slash": "Host: a/b", "user": "Host: x@y\x01"} {
		list = append(list, smuggling{"Host: " + name, withTarget("GET / HTTP/1.1", host), []int{400}})
	}
	return list
}

// TestFrontDoorSmuggling: over raw connections to everything that listens, no
// second request comes out of one, whatever comes before it.
func TestFrontDoorSmuggling(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 3*usual)
	a, b := createSession(t, ctx, enterprise(), nil), createSession(t, ctx, enterprise(), nil)
	a.background(recorder)
	b.background(recorder)
	doors := entrances(t, a, b)

	// Some at a time: a door has room for more, but the machine is small.
	room := make(chan struct{}, 32)
	var all sync.WaitGroup
	marks := map[string]string{}
	attack := func(e entrance, name string, text string, want []int, first, silence time.Duration) {
		all.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			answer, err := exchangeFor(ctx, net.Dialer{}, e.address, text, first, silence)
			if err != nil {
				t.Errorf("%s at the %s: %v", name, e.name, err)
			}
			if got := statusOf(answer); want != nil && !slices.Contains(want, got) {
				t.Errorf("%s at the %s: status %d, want one of %v: %s", name, e.name, got, want, brief(answer))
			}
		})
	}
	for d, e := range doors {
		start := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\n%s", e.path, e.host, e.header)
		for i, s := range smugglings {
			mark := fmt.Sprintf("hidden-%d-%d", d, i)
			marks[mark] = s.name + " at the " + e.name
			first := firstSilence
			if s.want == nil {
				first = silence // many of these have no answer
			}
			attack(e, s.name, s.make(start, e.hidden(mark)), s.want, first, silence)
		}
		// Two honest requests on one connection are two, or else this test sees
		// nothing. After the second the connection is closed.
		attack(e, "honest", start+"Content-Length: 0\r\n\r\n"+e.hidden(fmt.Sprintf("honest-%d", d)), nil, usual, usual)
	}
	all.Wait()

	reached := map[string]bool{}
	for _, s := range []*session{a, b} {
		for _, r := range s.seen() {
			reached[strings.TrimPrefix(r.Path, "/")] = true
			if want := s.host() + "." + system.previewDomain; r.Headers["host"] != want {
				t.Errorf("the app of %s got a request for %q", want, r.Headers["host"])
			}
		}
		for _, name := range names(s.list("limit", "100")) {
			reached[name] = true
		}
	}
	for mark, attack := range marks {
		if reached[mark] {
			t.Errorf("the request hidden by %s was served", attack)
		}
	}
	for d, e := range doors {
		if !reached[fmt.Sprintf("honest-%d", d)] {
			t.Errorf("the second of two honest requests at the %s was not seen: this test is blind", e.name)
		}
	}
}

// TestFrontDoorHosts: a request is for the session that its target or Host
// names, and the node's port of one session serves no other.
func TestFrontDoorHosts(t *testing.T) {
	t.Parallel()
	a, b := newSession(t), newSession(t)
	a.background(recorder)
	b.background(recorder)
	hostA, hostB := a.host()+"."+system.previewDomain, b.host()+"."+system.previewDomain
	_, port, err := net.SplitHostPort(system.previewDomain)
	if err != nil {
		t.Fatal(err)
	}
	front, node := "127.0.0.1:"+port, a.ports()["preview"]
	end := "Connection: close\r\n\r\n"
	for name, c := range map[string]struct {
		address, text string
		want          int
	}{
		"absolute target": {front, "GET http://" + hostB + "/absolute HTTP/1.1\r\nHost: " + hostA + "\r\n" + end, 200},
		// net/http takes the target's host; the node has to be told the same one.
		"absolute target at the node": {node, "GET http://" + hostB + "/foreign HTTP/1.1\r\nHost: " + hostA + "\r\n" + end, 421},
		"other's Host at the node":    {node, "GET /foreign HTTP/1.1\r\nHost: " + hostB + "\r\n" + end, 421},
		"other's port at the node":    {node, "GET /foreign HTTP/1.1\r\nHost: 3000-" + hostB + "\r\n" + end, 421},
		"capitals at the node":        {node, "GET /foreign HTTP/1.1\r\nHost: " + strings.ToUpper(hostB) + "\r\n" + end, 421},
		"no such port at the node":    {node, "GET /foreign HTTP/1.1\r\nHost: 99999-" + hostA + "\r\n" + end, 400},
		"no such port":                {front, "GET /foreign HTTP/1.1\r\nHost: 99999-" + hostA + "\r\n" + end, 400},
		"port 0":                      {front, "GET /foreign HTTP/1.1\r\nHost: 0-" + hostA + "\r\n" + end, 400},
		"CONNECT":                     {front, "CONNECT " + hostA + " HTTP/1.1\r\nHost: " + hostA + "\r\n" + end, 405},
		"CONNECT at the node":         {node, "CONNECT " + hostA + " HTTP/1.1\r\nHost: " + hostA + "\r\n" + end, 405},
		"TRACE":                       {front, "TRACE /foreign HTTP/1.1\r\nHost: " + hostA + "\r\n" + end, 405},
		"TRACE at the node":           {node, "TRACE /foreign HTTP/1.1\r\nHost: " + hostA + "\r\n" + end, 405},
		"CONNECT to the API":          {front, "CONNECT 127.0.0.1:1 HTTP/1.1\r\nHost: 127.0.0.1:1\r\n" + end, 404},
	} {
		answer, err := exchangeRaw(a.ctx, c.address, c.text)
		if err != nil {
			t.Fatal(err)
		}
		if got := statusOf(answer); got != c.want {
			t.Errorf("%s: status %d, want %d: %s", name, got, c.want, brief(answer))
		}
	}
	equal(t, "what reached a", a.seen(), []recorded{})
	got := b.seen()
	if len(got) != 1 || got[0].Path != "/absolute" || got[0].Headers["host"] != hostB {
		t.Errorf("what reached b: %s", brief(got))
	}
}

// rawApp answers every connection with what the path of the request names, as
// no server should.
const rawApp = `
	const say: Record<string, string> = {
		"/101": "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"/websocket": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
		"/two": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirstHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
		"/both": "HTTP/1.1 200 OK\r\nContent-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
		"/lengths": "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned",
		"/hints": "HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n".repeat(20000) + "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"/head": "HTTP/1.1 200 OK\r\nX: " + "x".repeat(1 << 20) + "\r\nContent-Length: 0\r\n\r\n",
		"/cr": "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: poisoned\r\nContent-Length: 0\r\n\r\n",
		"/nonsense": "poisoned\r\n\r\n",
		"/short": "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
	};
	const got: string[] = [];
	Bun.listen({ port: 8090, hostname: "0.0.0.0", socket: {
		data(socket, data) {
			const text = data.toString("latin1");
			got.push(text);
			const path = text.split(" ")[1];
			const answer = path === "/got" ? JSON.stringify(got) : undefined;
			if (answer) { socket.write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: " + answer.length + "\r\n\r\n" + answer); return; }
			if (!say[path]) return;
			let rest = Buffer.from(say[path], "latin1");
			const more = () => { rest = rest.subarray(socket.write(rest)); if (rest.length === 0 && path === "/short") socket.end(); };
			(socket as any).more = more;
			more();
		},
		drain(socket) { (socket as any).more?.(); },
	} });
`

// TestFrontDoorAnswers: an app that answers as it should not hurts nobody else:
// the next visitor's request is answered by whom it is for.
func TestFrontDoorAnswers(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, 2*usual)
	a, b := createSession(t, ctx, enterprise(), nil), createSession(t, ctx, enterprise(), nil)
	a.background(rawApp)
	b.background(`Bun.serve({ port: 8080, fetch: () => new Response("the other's") })`)
	_, port, err := net.SplitHostPort(system.previewDomain)
	if err != nil {
		t.Fatal(err)
	}
	hostA, hostB := "8090-"+a.host()+"."+system.previewDomain, b.host()+"."+system.previewDomain
	behind := "GET /behind HTTP/1.1\r\nHost: " + hostB + "\r\nConnection: close\r\n\r\n"
	for _, c := range []struct {
		path, header string
		want         []int
	}{
		{"/101", "", []int{502, 503}},
		{"/101", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n", []int{502, 503}},
		{"/101", "Connection: Upgrade\r\nUpgrade: websocket\r\n", []int{502, 503}},
		{"/websocket", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n", []int{200}},
		{"/two", "", []int{200}},
		{"/both", "", []int{200, 502, 503}},
		{"/lengths", "", []int{502, 503}},
		{"/hints", "", []int{103, 502, 503}},
		{"/head", "", []int{502, 503}},
		{"/cr", "", []int{502, 503}},
		{"/nonsense", "", []int{502, 503}},
		{"/short", "", []int{200}},
	} {
		answer, err := exchangeRaw(ctx, "127.0.0.1:"+port, "GET "+c.path+" HTTP/1.1\r\nHost: "+hostA+"\r\n"+c.header+"\r\n"+behind)
		if err != nil {
			t.Fatal(err)
		}
		if got := statusOf(answer); !slices.Contains(c.want, got) {
			t.Errorf("%s %q: status %d, want one of %v: %s", c.path, c.header, got, c.want, brief(answer))
		}
		// Quoted in the text of an error it is no answer.
		if strings.Contains(answer, "\r\npoisoned") || strings.Contains(answer, "\rSet-Cookie:") || strings.Contains(answer, "\nSet-Cookie:") {
			t.Errorf("%s %q: %s", c.path, c.header, brief(answer))
		}
		equal(t, "the other session's answer after "+c.path, string(b.fetch("/").Body), "the other's")
	}
	// What came behind on the visitors' connections never went to the app.
	reply := a.fetchPort(8090, "/got")
	status(t, reply, http.StatusOK)
	if text := string(reply.Body); strings.Contains(text, "/behind") || strings.Contains(strings.ToLower(text), "h2c") || strings.Contains(text, "HTTP2-Settings") {
		t.Errorf("the app got %s", brief(text))
	}
}
