// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// app has a small answer, one of 20 KB that takes 2 ms to make, and one of 10 MB; the port
// is to be set in.
const app = `
	const page = "x".repeat(20 << 10), file = new Uint8Array(10 << 20);
	const server = Bun.serve({ port: %d, fetch(req) {
		if (req.url.endsWith("/file")) return new Response(file);
		if (!req.url.endsWith("/page")) return new Response("hello");
		for (const end = performance.now() + 2; performance.now() < end;);
		return new Response(page);
	} });
	console.log(server.port);`

// way is one way to the same application.
type way struct {
	name    string
	address string
	host    string
	loads   map[int]*loaded // by connections
}

// loaded is how requests went over some time.
type loaded struct {
	took   []time.Duration
	during time.Duration
}

func (l *loaded) rate() float64 { return float64(len(l.took)) / l.during.Seconds() }

// preview compares ways to an application, over which wrk asks as fast as it is answered.
func (m *bench) preview() {
	const rounds = 3
	counts := []int{1, 16}
	s := m.session(1)
	r, err := s.run(fmt.Sprintf(app, 8080), new(spans))
	m.must(err)
	if !r.Background {
		m.must(fmt.Errorf("the application does not run: %s", r.Stderr))
	}
	node, err := s.previewPort()
	m.must(err)
	bare := m.hostApp()
	host := s.label() + "." + system.previewDomain
	front := &way{name: "through the front-end", address: strings.TrimPrefix(system.base, "http://"), host: host}
	port := &way{name: "at the node's preview port", address: node, host: host}
	direct := &way{name: "on the host, over loopback", address: bare, host: bare}
	one := m.copies(bare)
	m.loads("/", 1, counts, front, port, direct) // for the JIT
	m.loads("/", rounds, counts, front, port,
		&way{name: "through a plain proxy", address: m.plainProxy(bare), host: bare},
		&way{name: "through two that copy bytes", address: m.copies(one), host: bare},
		&way{name: "through one that copies bytes", address: one, host: bare},
		direct)
	m.loads("/page", 1, counts, front, port, direct)
	m.loads("/file", 1, counts, front, port, direct)
}

// previewPort is where the node serves the session's preview.
func (s *benchSession) previewPort() (string, error) {
	alloc, err := s.allocation()
	if err != nil {
		return "", err
	}
	for _, port := range alloc.AllocatedResources.Shared.Ports {
		if port.Label == "preview" {
			return net.JoinHostPort(port.HostIP, strconv.Itoa(port.Value)), nil
		}
	}
	return "", errors.New("the allocation has no port preview")
}

// hostApp runs the application outside of all sandboxes.
func (m *bench) hostApp() string {
	cmd := exec.CommandContext(m.ctx, m.bun, "run", m.write("app.ts", fmt.Sprintf(app, 0)))
	out, err := cmd.StdoutPipe()
	m.must(err)
	m.must(cmd.Start())
	m.b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	port, err := bufio.NewReader(out).ReadString('\n')
	m.must(err)
	return net.JoinHostPort("127.0.0.1", strings.TrimSpace(port))
}

// plainProxy is what anyone has in front of an application, in Go.
func (m *bench) plainProxy(address string) string {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address})
	proxy.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	server := httptest.NewServer(proxy)
	m.b.Cleanup(server.Close)
	return strings.TrimPrefix(server.URL, "http://")
}

// copies has HAProxy pass bytes to an address without a look at them: what is between
// cannot cost less.
func (m *bench) copies(address string) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	m.must(err)
	own := l.Addr().String()
	file, err := l.(*net.TCPListener).File()
	m.must(err)
	m.must(l.Close())
	defer file.Close()
	config := m.write("haproxy"+strings.ReplaceAll(own, ":", "-"), fmt.Sprintf(
		"defaults\n\tmode tcp\n\ttimeout connect 5s\n\ttimeout client 60s\n\ttimeout server 60s\nlisten all\n\tbind fd@3\n\tserver app %s\n", address))
	cmd := exec.CommandContext(m.ctx, "/usr/sbin/haproxy", "-db", "-q", "-f", config)
	cmd.ExtraFiles = []*os.File{file}
	m.must(cmd.Start())
	m.b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return own
}

// loads lets the ways take turns, and prints how it went. The last is the peer.
func (m *bench) loads(path string, rounds int, counts []int, ways ...*way) {
	const turn = time.Second // wrk's shortest
	for _, w := range ways {
		w.loads = make(map[int]*loaded)
	}
	for range rounds {
		for _, n := range counts {
			for _, w := range ways {
				if err := m.wrk(w, path, n, turn); err != nil {
					m.must(fmt.Errorf("%s, %s: %w", path, w.name, err))
				}
			}
		}
	}
	m.previewTable(path, counts, ways)
}

// histogram has wrk print all that it has measured.
const histogram = `
done = function(summary, latency)
	local e = summary.errors
	print(e.connect + e.read + e.write + e.status + e.timeout, summary.duration)
	for i = 1, #latency do print(latency(i)) end
end`

// wrk adds to a way's figures those of n connections.
func (m *bench) wrk(w *way, path string, n int, turn time.Duration) error {
	cmd := exec.CommandContext(m.ctx, "wrk", "-t", "1", "-c", strconv.Itoa(n), "-d", turn.String(), "--timeout", "30s",
		"-s", m.write("histogram.lua", histogram), "-H", "Host: "+w.host, "http://"+w.address+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("wrk: %w: %s", err, out)
	}
	l := w.loads[n]
	if l == nil {
		l = new(loaded)
		w.loads[n] = l
	}
	head := true
	for line := range strings.Lines(string(out)) {
		var a, b int64
		if n, _ := fmt.Sscanf(line, "%d\t%d\n", &a, &b); n != 2 {
			continue // what wrk prints by itself
		}
		if head {
			head = false
			if a != 0 {
				return fmt.Errorf("%d requests failed: %s", a, out)
			}
			l.during += time.Duration(b) * time.Microsecond
			continue
		}
		l.took = append(l.took, slices.Repeat([]time.Duration{time.Duration(a) * time.Microsecond}, int(b))...)
	}
	if len(l.took) == 0 {
		return fmt.Errorf("wrk measured nothing: %s", out)
	}
	return nil
}

func (m *bench) previewTable(path string, counts []int, ways []*way) {
	peer := ways[len(ways)-1]
	t := newTable("Preview, "+path, "connections", "requests/s", "p50", "p95", "p99", "max", "rate ratio", "added p50")
	for _, n := range counts {
		reference := slices.Sorted(slices.Values(peer.loads[n].took))
		for _, w := range ways {
			took := slices.Sorted(slices.Values(w.loads[n].took))
			rate := w.loads[n].rate()
			cells := []string{w.name, strconv.Itoa(n), strconv.FormatFloat(rate, 'f', 0, 64)}
			for _, p := range percentiles {
				cells = append(cells, ms(percentile(took, p)))
			}
			t.row(append(cells, ratio(rate, peer.loads[n].rate()), ms(percentile(took, 50)-percentile(reference, 50)))...)
			if w == ways[0] && path == "/" {
				m.b.ReportMetric(rate, fmt.Sprintf("requests/s-%d", n))
			}
		}
	}
	t.print("ms; ratio to " + peer.name + "; session of 1 core; keep-alive, by wrk")
}
