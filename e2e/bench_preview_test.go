// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// app answers every request; the port is to be set in.
const app = `const server = Bun.serve({ port: %d, fetch: () => new Response("hello") }); console.log(server.port)`

// way is one way to the same application.
type way struct {
	name    string
	address string
	host    string
	took    map[int][]time.Duration // by connections
}

// preview compares ways to an application of one route.
func (m *bench) preview() {
	// Long enough in sum, short enough for turns.
	const rounds = 4
	const turn = 500 * time.Millisecond
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
	ways := []*way{
		{name: "through the front-end", address: strings.TrimPrefix(system.base, "http://"), host: host},
		{name: "at the node's preview port", address: node, host: host},
		{name: "on the host, through a plain proxy", address: m.plainProxy(bare), host: bare},
		{name: "on the host, over loopback", address: bare, host: bare},
	}
	for _, w := range ways {
		w.took = map[int][]time.Duration{}
	}

	counts := []int{1, 16}
	m.loads(1, turn, counts, ways) // for the JIT
	for _, w := range ways {
		clear(w.took)
	}
	m.loads(rounds, turn, counts, ways)
	m.previewTable(rounds*turn, counts, ways)
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

func (m *bench) loads(rounds int, turn time.Duration, counts []int, ways []*way) {
	for range rounds {
		for _, n := range counts {
			for _, w := range ways {
				took, err := load(m.ctx, w, n, turn)
				if err != nil {
					m.must(fmt.Errorf("%s: %w", w.name, err))
				}
				w.took[n] = append(w.took[n], took...)
			}
		}
	}
}

// load asks over n connections for a time, each as fast as it is answered.
func load(ctx context.Context, w *way, n int, during time.Duration) ([]time.Duration, error) {
	took := make([][]time.Duration, n)
	group, ctx := errgroup.WithContext(ctx)
	for i := range n {
		group.Go(func() (err error) {
			took[i], err = ask(ctx, w, during)
			return err
		})
	}
	err := group.Wait()
	return slices.Concat(took...), err
}

// ask is the plainest client there is: on two cores whatever it costs is
// missing elsewhere.
func ask(ctx context.Context, w *way, during time.Duration) ([]time.Duration, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", w.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	end := time.Now().Add(during)
	if err := conn.SetDeadline(end.Add(10 * time.Second)); err != nil {
		return nil, err
	}
	request := []byte("GET / HTTP/1.1\r\nHost: " + w.host + "\r\n\r\n")
	answers := bufio.NewReader(conn)
	var took []time.Duration
	for begin := time.Now(); begin.Before(end) && ctx.Err() == nil; {
		if _, err := conn.Write(request); err != nil {
			return nil, err
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			return nil, err
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != http.StatusOK || string(body) != "hello" {
			return nil, fmt.Errorf("answer %s %q: %w", res.Status, body, err)
		}
		now := time.Now()
		took = append(took, now.Sub(begin))
		begin = now
	}
	return took, ctx.Err()
}

func (m *bench) previewTable(during time.Duration, counts []int, ways []*way) {
	peer := ways[len(ways)-1]
	t := newTable("Preview", "connections", "requests/s", "p50", "p95", "p99", "max", "rate ratio", "added p50")
	for _, n := range counts {
		reference := slices.Sorted(slices.Values(peer.took[n]))
		for _, w := range ways {
			took := slices.Sorted(slices.Values(w.took[n]))
			rate := float64(len(took)) / during.Seconds()
			cells := []string{w.name, strconv.Itoa(n), strconv.FormatFloat(rate, 'f', 0, 64)}
			for _, p := range percentiles {
				cells = append(cells, ms(percentile(took, p)))
			}
			t.row(append(cells, ratio(len(took), len(reference)), ms(percentile(took, 50)-percentile(reference, 50)))...)
			if w == ways[0] {
				m.b.ReportMetric(rate, fmt.Sprintf("requests/s-%d", n))
			}
		}
	}
	t.print("ms; ratio to " + peer.name + "; session of 1 core; " + during.String() + " each, keep-alive")
}
