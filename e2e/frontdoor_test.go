// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
)

// recorder is an app that keeps what reaches it and shows it at /seen.
const recorder = `
	const seen: { method: string, path: string, headers: Record<string, string> }[] = [];
	Bun.serve({
		port: 8080,
		async fetch(req) {
			const path = new URL(req.url).pathname;
			if (path === "/seen") return Response.json(seen);
			seen.push({ method: req.method, path, headers: Object.fromEntries(req.headers) });
			await req.arrayBuffer().catch(() => {});
			return new Response("recorded");
		},
	});
`

// recorded is a request that has reached a recorder.
type recorded struct {
	Method, Path string
	Headers      map[string]string
}

func (s *session) seen() []recorded {
	s.t.Helper()
	return decode[[]recorded](s.t, s.fetch("/seen"))
}

// entrance is a place where strangers' bytes arrive.
type entrance struct {
	name    string
	address string // host:port
	// host, path and header make a request of some use there.
	host, path, header string
	// hidden is a whole request that would do something: what it does has the
	// mark in it.
	hidden func(mark string) string
}

// entrances are those of a system: the front-end with the API and the previews
// of a, and the node's two ports of a. Hidden requests are for b at the
// front-end, and for a at the node, which carries nothing else there.
func entrances(t *testing.T, a, b *session) []entrance {
	t.Helper()
	base, err := url.Parse(system.base)
	if err != nil {
		t.Fatal(err)
	}
	write := func(host, path, auth, id string) func(string) string {
		return func(mark string) string {
			body, err := json.Marshal(M{"sessionId": id, "path": mark, "content": "x"})
			if err != nil {
				panic(err)
			}
			return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\n%sContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", path, host, auth, len(body), body)
		}
	}
	visit := func(host string) func(string) string {
		return func(mark string) string {
			return fmt.Sprintf("GET /%s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", mark, host)
		}
	}
	key := "Authorization: Bearer " + a.api.Key + "\r\n"
	hostA, hostB := a.host()+"."+system.previewDomain, b.host()+"."+system.previewDomain
	list := []entrance{
		{"API", base.Host, base.Host, "/files/write", key + "Content-Type: application/json\r\n", write(base.Host, "/files/write", key, b.id)},
		{"preview", base.Host, hostA, "/carrier", "", visit(hostB)},
	}
	node := a.ports()
	list = append(list, entrance{"node's preview port", node["preview"], hostA, "/carrier", "", visit(hostA)})
	if token := a.token(); token != "" {
		auth := "Authorization: Bearer " + token + "\r\n"
		list = append(list, entrance{"node's API port", node["api"], "node", "/v1/files/write", auth, write("node", "/v1/files/write", auth, a.id)})
	}
	return list
}

// ports are the addresses on which the node serves the session, by name.
func (s *session) ports() map[string]string {
	s.t.Helper()
	var allocs []struct{ ID string }
	nomadGet(s, "/v1/job/"+s.host()+"/allocations", &allocs)
	ports := map[string]string{}
	for _, alloc := range allocs {
		var full struct {
			AllocatedResources struct {
				Shared struct {
					Ports []struct {
						Label, HostIP string
						Value         int
					}
				}
			}
		}
		nomadGet(s, "/v1/allocation/"+alloc.ID, &full)
		for _, p := range full.AllocatedResources.Shared.Ports {
			ports[p.Label] = net.JoinHostPort(p.HostIP, strconv.Itoa(p.Value))
		}
	}
	if ports["api"] == "" || ports["preview"] == "" {
		s.t.Fatalf("no ports of %s in Nomad: %v", s.host(), ports)
	}
	return ports
}

// token opens the session's API on its node. It is "" where the system is not
// ours, and its secret not known.
func (s *session) token() string {
	if system.stack == nil {
		return ""
	}
	return claim.Token([]byte(system.stack.NodeSecret), s.id, 1)
}

// stranger dials from an address of its own, for who comes with many keys that are not
// known: the front-end counts those by address, and other tests have the usual one.
func stranger() net.Dialer {
	if system.stack == nil { // it may be on another machine
		return net.Dialer{}
	}
	return net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 66)}}
}

// dialRaw connects to an address until the test ends.
func dialRaw(t *testing.T, ctx context.Context, address string) net.Conn {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", strings.Replace(address, "localhost", "127.0.0.1", 1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if at, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(at); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// silence is how long nothing has to come for an exchange to be over. What is
// sent is answered in a few milliseconds, or never.
const silence = 4 * time.Second

// firstSilence is the same for who has to be answered, as long as nothing has come: a busy
// machine may be late.
const firstSilence = 4 * silence

// exchangeRaw sends text, which has to be answered, over a connection of its own and
// returns what comes until the other side closes it, or is silent.
func exchangeRaw(ctx context.Context, address, text string) (string, error) {
	return exchangeFor(ctx, net.Dialer{}, address, text, firstSilence, silence)
}

// exchangeFor is exchangeRaw, from where the dialer says. The other side may be silent for
// so long at first, and for so long once something has come.
func exchangeFor(ctx context.Context, d net.Dialer, address, text string, first, silence time.Duration) (string, error) {
	c, err := d.DialContext(ctx, "tcp", strings.Replace(address, "localhost", "127.0.0.1", 1))
	if err != nil {
		return "", err
	}
	defer c.Close()
	if err := c.SetWriteDeadline(time.Now().Add(usual)); err != nil {
		return "", err
	}
	// A refusal may come, and reset the connection, before all is sent.
	_, _ = io.WriteString(c, text)
	var answer strings.Builder
	buf := make([]byte, 16<<10)
	for wait := first; ; wait = silence {
		if err := c.SetReadDeadline(time.Now().Add(wait)); err != nil {
			return answer.String(), err
		}
		n, err := c.Read(buf)
		answer.Write(buf[:n])
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) && answer.Len() == 0 {
				return "", err
			}
			return answer.String(), nil
		}
	}
}

// statusOf is the status of the first answer in a text, 0 if there is none.
func statusOf(answer string) int {
	res, err := http.ReadResponse(bufio.NewReader(strings.NewReader(answer)), nil)
	if err != nil {
		return 0
	}
	return res.StatusCode
}
