// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// echo is a server that answers with what it was asked.
const echo = `
	Bun.serve({
		port: 8080,
		async fetch(req) {
			const url = new URL(req.url);
			if (url.pathname === "/status") return new Response(null, { status: Number(url.searchParams.get("code")), headers: { location: "/elsewhere" } });
			if (url.pathname === "/cookies") {
				const headers = new Headers({ "x-app": "own", "content-type": "text/x-odd; charset=utf-8", etag: '"e"', "cache-control": "no-store" });
				headers.append("set-cookie", "a=1; Path=/"); headers.append("set-cookie", "b=2; HttpOnly");
				return new Response("cookies", { headers });
			}
			if (url.pathname === "/gzip") return new Response(Bun.gzipSync("packed"), { headers: { "content-encoding": "gzip" } });
			if (url.pathname === "/big") return new Response("x".repeat(20 << 20));
			if (url.pathname === "/hash") return new Response(new Bun.CryptoHasher("sha256").update(await req.arrayBuffer()).digest("hex"));
			return Response.json({ method: req.method, url: req.url, headers: Object.fromEntries(req.headers), body: await req.text() });
		},
	});
`

// asked is what echo saw.
type asked struct {
	Method, URL, Body string
	Headers           map[string]string
}

func TestPreviewHTTP(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(echo)
	see := func(t *testing.T, method, path string, header http.Header, body io.Reader) asked {
		t.Helper()
		return decode[asked](t, s.in(t).visit(method, s.page(path), header, body))
	}
	t.Run("the URL of the session", func(t *testing.T) {
		got := decode[asked](t, s.in(t).visit("GET", s.PreviewURL, nil, nil))
		equal(t, "method", got.Method, "GET")
	})
	t.Run("methods and bodies", func(t *testing.T) {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} {
			got := see(t, method, "/", http.Header{"Content-Type": {"text/x-test"}}, strings.NewReader("body of "+method))
			equal(t, "method", got.Method, method)
			if method != "GET" {
				equal(t, "body", got.Body, "body of "+method)
				equal(t, "content type", got.Headers["content-type"], "text/x-test")
			}
		}
		head := s.in(t).visit("HEAD", s.page("/"), nil, nil)
		equal(t, "HEAD", fmt.Sprint(head.Status, len(head.Body)), "200 0")
	})
	t.Run("path and query as sent", func(t *testing.T) {
		for _, path := range []string{"/a/b?x=1&x=2&y=%20", "/a%2Fb", "/ü%20?q=%C3%BC", "/a//b", "/.well-known/x", "/?", "/sessions/create", "/execute", "/healthz", "/openapi.json"} {
			got := see(t, "GET", path, nil, nil)
			sent, err := url.Parse(s.page(path))
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasSuffix(strings.TrimSuffix(got.URL, "?"), strings.TrimSuffix(sent.RequestURI(), "?")) {
				t.Errorf("the app saw %q, sent was %q", got.URL, sent.RequestURI())
			}
		}
	})
	t.Run("headers of the request", func(t *testing.T) {
		got := see(t, "GET", "/", http.Header{
			"X-Custom": {"value"}, "Cookie": {"a=1; b=2"}, "Accept": {"text/x"}, "User-Agent": {"test/1"}, "Origin": {"https://example.com"},
			"Authorization": {"Basic YXBwOnNlY3JldA=="},
		}, nil)
		for name, want := range map[string]string{
			"x-custom": "value", "cookie": "a=1; b=2", "accept": "text/x", "user-agent": "test/1", "origin": "https://example.com",
			"authorization": "Basic YXBwOnNlY3JldA==", "host": s.host() + "." + system.previewDomain,
		} {
			equal(t, name, got.Headers[name], want)
		}
	})
	t.Run("the API's key stays outside", func(t *testing.T) {
		for _, key := range []string{s.api.Key, system.free} {
			got := see(t, "GET", "/", http.Header{"Authorization": {"Bearer " + key}}, nil)
			if text := fmt.Sprint(got); strings.Contains(text, key) {
				t.Errorf("the app saw the key: %s", text)
			}
		}
	})
	t.Run("no secret of ours inside", func(t *testing.T) {
		got := see(t, "GET", "/", nil, nil)
		if v, ok := got.Headers["authorization"]; ok {
			t.Errorf("the app saw an Authorization that nobody sent: %q", v)
		}
	})
	t.Run("statuses", func(t *testing.T) {
		for _, code := range []int{201, 204, 301, 304, 400, 401, 404, 418, 500, 502, 503} {
			got := s.in(t).fetch(fmt.Sprint("/status?code=", code))
			equal(t, "status", got.Status, code)
			equal(t, "body", string(got.Body), "")
			equal(t, "location", got.Header.Get("Location"), "/elsewhere")
		}
	})
	t.Run("headers of the answer", func(t *testing.T) {
		got := s.in(t).fetch("/cookies")
		equal(t, "Set-Cookie", got.Header.Values("Set-Cookie"), []string{"a=1; Path=/", "b=2; HttpOnly"})
		for name, want := range map[string]string{"X-App": "own", "Content-Type": "text/x-odd; charset=utf-8", "ETag": `"e"`, "Cache-Control": "no-store", "Content-Length": "7"} {
			equal(t, name, got.Header.Get(name), want)
		}
		for _, name := range []string{"X-RateLimit-Limit", "Server-Timing"} {
			if v := got.Header.Get(name); v != "" {
				t.Errorf("the app's answer carries %s: %s", name, v)
			}
		}
	})
	t.Run("packed stays packed", func(t *testing.T) {
		got := s.in(t).fetch("/gzip")
		equal(t, "Content-Encoding", got.Header.Get("Content-Encoding"), "gzip")
		if !bytes.HasPrefix(got.Body, []byte{0x1f, 0x8b}) {
			t.Errorf("body: %x", got.Body)
		}
	})
	t.Run("big bodies", func(t *testing.T) {
		equal(t, "down", len(s.in(t).fetch("/big").Body), 20*mib)
		text := bytes.Repeat([]byte("0123456789abcdef"), 10*mib/16)
		sum := sha256.Sum256(text)
		got := s.in(t).visit("POST", s.page("/hash"), nil, bytes.NewReader(text))
		equal(t, "up", string(got.Body), hex.EncodeToString(sum[:]))
	})
}

// TestPreviewHosts: the forms of the host name, any port, and whatever address
// the app listens on.
func TestPreviewHosts(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	for port, hostname := range map[int]string{8080: "0.0.0.0", 8081: "127.0.0.1", 8082: "::1", 8083: "::", 3000: "localhost"} {
		s.background(fmt.Sprintf(`Bun.serve({ port: %d, hostname: %q, fetch: () => new Response("on %s") })`, port, hostname, hostname))
	}
	s.background(`require("node:http").createServer((_, res) => res.end("on a default")).listen(8084)`)
	for label, want := range map[string]string{
		s.host():           "on 0.0.0.0",
		s.id:               "on 0.0.0.0",
		"8080-" + s.host(): "on 0.0.0.0",
		"8081-" + s.host(): "on 127.0.0.1",
		"8082-" + s.host(): "on ::1",
		"8083-" + s.host(): "on ::",
		"3000-" + s.host(): "on localhost",
		"8084-" + s.host(): "on a default",
		"8081-" + s.id:     "on 127.0.0.1",
	} {
		t.Run(label, func(t *testing.T) {
			got := s.in(t).visit("GET", s.pageAt(label, "/"), nil, nil)
			equal(t, "status", got.Status, 200)
			equal(t, "answer", string(got.Body), want)
		})
	}
	for _, hostname := range []string{"127.0.0.1", "::1"} {
		t.Run("port 8080 on "+hostname+" alone", func(t *testing.T) {
			s := newSession(t)
			s.background(fmt.Sprintf(`Bun.serve({ port: 8080, hostname: %q, fetch: () => new Response("here") })`, hostname))
			equal(t, "answer", string(s.fetch("/").Body), "here")
		})
	}
}

// TestPreviewWithoutApp: a visitor is told in plain words what is wrong.
func TestPreviewWithoutApp(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	t.Run("nothing listens", func(t *testing.T) {
		for _, port := range []int{8080, 3000} {
			got := s.in(t).fetchPort(port, "/")
			if got.Status != 502 && got.Status != 503 {
				t.Errorf("status %d", got.Status)
			}
			contains(t, "body", string(got.Body), fmt.Sprint(port))
		}
	})
	t.Run("it comes up", func(t *testing.T) {
		s := s.in(t)
		r := s.background(server(8080, ""))
		equal(t, "answer", string(s.fetch("/").Body), "up")
		s.kill(M{"pid": r.PID})
		s.gone(r.PID)
		if got := s.fetch("/"); got.Status != 502 && got.Status != 503 {
			t.Errorf("status %d after the server's end", got.Status)
		}
	})
	t.Run("unknown session", func(t *testing.T) {
		for _, label := range []string{"ses-aaaaaaaaaaaaaaaaaaaa", "ses_aaaaaaaaaaaaaaaaaaaa", "8080-ses-aaaaaaaaaaaaaaaaaaaa", "ses-x", "ses-"} {
			got := s.in(t).visit("GET", s.pageAt(label, "/"), nil, nil)
			equal(t, "status of "+label, got.Status, 404)
		}
	})
	t.Run("no port", func(t *testing.T) {
		for _, port := range []string{"0", "65536", "99999", "-1", "x"} {
			got := s.in(t).visit("GET", s.pageAt(port+"-"+s.host(), "/"), nil, nil)
			if got.Status != 400 && got.Status != 404 && got.Status != 502 {
				t.Errorf("status of port %s: %d", port, got.Status)
			}
		}
	})
	t.Run("an app that hangs up", func(t *testing.T) {
		s := s.in(t)
		s.background(`Bun.listen({ port: 8090, hostname: "0.0.0.0", socket: { data(socket) { socket.terminate() } } })`)
		if got := s.fetchPort(8090, "/"); got.Status != 502 && got.Status != 503 {
			t.Errorf("status %d", got.Status)
		}
	})
}
