// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// answer is one that Bun gives to a page of five bytes.
const answer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain;charset=utf-8\r\nDate: Thu, 26 Nov 2026 02:54:04 GMT\r\nContent-Length: 5\r\n\r\nhello"

// BenchmarkHop is a request over a kept connection through what is between: nothing, a
// relay, two of them, Go's reverse proxy, a hop of net/http's own parsers, and a copy of
// bytes that looks at nothing. CPU time is that of all parts, which are in this process.
func BenchmarkHop(b *testing.B) {
	app := newApp(b, say(answer))
	target, err := url.Parse("http://" + app.address)
	if err != nil {
		b.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	b.Cleanup(transport.CloseIdleConnections)
	proxy.Transport = transport
	proxy.ErrorLog = log.New(io.Discard, "", 0)
	plain := httptest.NewServer(proxy)
	defer plain.Close()
	one := newHop(b, app.address, limits, nil)
	two := newHop(b, one.address, limits, nil)
	copied := each(b, func(c net.Conn) {
		up, err := net.Dial("tcp", app.address)
		if err != nil {
			return
		}
		defer up.Close()
		go func() { _, _ = io.Copy(up, c); up.Close() }()
		_, _ = io.Copy(c, up)
	})
	parsed := each(b, func(c net.Conn) { passParsed(c, app.address) })
	for _, n := range []int{1, 16} {
		for _, way := range []struct{ name, address string }{
			{"direct", app.address},
			{"copy", copied},
			{"relay", one.address},
			{"two relays", two.address},
			{"net/http's parsers", parsed},
			{"reverse proxy", plain.Listener.Addr().String()},
		} {
			b.Run(fmt.Sprintf("%d/%s", n, way.name), func(b *testing.B) { load(b, n, way.address) })
		}
	}
}

// each serves every connection with f until the benchmark ends.
func each(b *testing.B, f func(net.Conn)) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c)
			}()
		}
	}()
	return l.Addr().String()
}

// passParsed is the leanest hop that there is without a parser of one's own.
func passParsed(c net.Conn, address string) {
	up, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer up.Close()
	in, answers, out, back := bufio.NewReader(c), bufio.NewReader(up), bufio.NewWriter(up), bufio.NewWriter(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil || r.Write(out) != nil || out.Flush() != nil {
			return
		}
		res, err := http.ReadResponse(answers, r)
		if err != nil || res.Write(back) != nil || back.Flush() != nil {
			return
		}
	}
}

// load asks over n connections.
func load(b *testing.B, n int, address string) {
	request := "GET / HTTP/1.1\r\nHost: ses-0123456789abcdefghij.localhost:8080\r\nUser-Agent: a\r\nAccept: */*\r\n\r\n"
	var group errgroup.Group
	each := b.N/n + 1
	before := cpu(b)
	b.ResetTimer()
	for range n {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		group.Go(func() error {
			buf := make([]byte, 4096)
			for range each {
				if _, err := io.WriteString(c, request); err != nil {
					return err
				}
				var text strings.Builder
				for !strings.HasSuffix(text.String(), "hello") {
					n, err := c.Read(buf)
					if err != nil {
						return err
					}
					text.Write(buf[:n])
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(cpu(b)-before)/float64(each*n)/1000, "cpu-µs/op")
}

// cpu is what this process has had of it, in nanoseconds.
func cpu(b *testing.B) int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
