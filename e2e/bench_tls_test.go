// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
	"github.com/buntime/buntime/e2e/stack"
)

// tlsSide is a system with or without TLS between front-end and node, and a session in it.
type tlsSide struct {
	*stack.Stack
	api  *client.Client
	id   string
	page string
	used map[string]time.Duration // CPU time by what was done and by part
	n    map[string]int
}

// BenchmarkTLS compares what executes, visits and first requests of new sessions cost a
// front-end and a node in CPU time, with TLS between them and without, in turn. Clients
// speak plain HTTP to both front-ends.
func BenchmarkTLS(b *testing.B) {
	if system.stack == nil {
		b.Skip("it starts systems of its own")
	}
	const rounds, executes, visits, sessions = 4, 150, 2000, 10
	ctx, cancel := context.WithTimeoutCause(b.Context(), 4*time.Minute, errors.New("the benchmark took over 4 minutes"))
	defer cancel()
	sides := []*tlsSide{newTLSSide(b, ctx, false), newTLSSide(b, ctx, true)}
	for range b.N {
		for round := range rounds + 1 { // the first is to warm up
			for _, s := range sides {
				if round == 1 {
					s.used, s.n = map[string]time.Duration{}, map[string]int{}
				}
				s.measure(b, "execute", executes, func() { s.execute(b, ctx, s.id) })
				s.measure(b, "visit", visits, func() { s.visit(b, ctx) })
				s.measure(b, "create, execute, delete", sessions, func() { s.life(b, ctx) })
			}
		}
	}
	for _, what := range []string{"execute", "visit", "create, execute, delete"} {
		for _, part := range []string{"front-end", "plugin"} {
			var each [2]float64
			for i, s := range sides {
				each[i] = float64(s.used[what+" "+part].Microseconds()) / float64(s.n[what])
			}
			b.Logf("%-24s %-10s %7.0f µs without, %7.0f with: %.2f times", what, part, each[0], each[1], each[1]/each[0])
		}
	}
}

func newTLSSide(b *testing.B, ctx context.Context, secured bool) *tlsSide {
	b.Helper()
	key := stack.Key{Key: stack.NewKey(), Account: "bench", Plan: "enterprise", Limits: M{"requests": 100_000_000}}
	options := stack.Options{Secured: secured, Keys: []stack.Key{key}}
	if secured {
		options.Frontend = M{"tls": nil} // what clients speak is not the question
	}
	st, err := stack.Start(ctx, options)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		stopCtx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := st.Stop(stopCtx); err != nil {
			b.Error(err)
		}
	})
	s := &tlsSide{Stack: st, api: client.New(st.URL, key.Key), used: map[string]time.Duration{}, n: map[string]int{}}
	s.id = s.create(b, ctx)
	s.call(b, ctx, "POST", "/execute", M{"sessionId": s.id, "code": server(8080, "")})
	s.page = "http://" + strings.Replace(s.id, "_", "-", 1) + "." + st.PreviewDomain + "/"
	return s
}

func (s *tlsSide) call(b *testing.B, ctx context.Context, method, path string, body any) *client.Reply {
	b.Helper()
	reply, err := s.api.Do(ctx, client.Call{Method: method, Path: path, JSON: body})
	if err != nil || reply.Status != http.StatusOK {
		b.Fatalf("%s %s: %v, %s", method, path, err, brief(reply))
	}
	return reply
}

func (s *tlsSide) create(b *testing.B, ctx context.Context) string {
	b.Helper()
	reply := s.call(b, ctx, "POST", "/sessions/create", nil)
	id := sessionIDs.FindString(string(reply.Body))
	if id == "" {
		b.Fatalf("no id in %s", reply.Body)
	}
	return strings.Replace(id, "-", "_", 1)
}

func (s *tlsSide) execute(b *testing.B, ctx context.Context, id string) {
	b.Helper()
	s.call(b, ctx, "POST", "/execute", M{"sessionId": id, "command": "true"})
}

func (s *tlsSide) life(b *testing.B, ctx context.Context) {
	b.Helper()
	id := s.create(b, ctx)
	s.execute(b, ctx, id)
	s.call(b, ctx, "DELETE", "/sessions/"+id, nil)
}

func (s *tlsSide) visit(b *testing.B, ctx context.Context) {
	b.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.page, nil)
	if err != nil {
		b.Fatal(err)
	}
	res, err := s.api.HTTP.Do(req)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil || res.StatusCode != http.StatusOK {
		b.Fatalf("visit: status %d, %v", res.StatusCode, err)
	}
}

// measure adds what a number of times took of the parts' CPU time.
func (s *tlsSide) measure(b *testing.B, what string, n int, do func()) {
	b.Helper()
	before := s.cpuOf(b)
	for range n {
		do()
	}
	for part, now := range s.cpuOf(b) {
		s.used[what+" "+part] += now - before[part]
	}
	s.n[what] += n
}

func (s *tlsSide) cpuOf(b *testing.B) map[string]time.Duration {
	b.Helper()
	pids, err := s.Pids()
	if err != nil {
		b.Fatal(err)
	}
	used := map[string]time.Duration{}
	for _, part := range []string{"front-end", "plugin"} {
		if used[part], err = cpuOf(pids[part]); err != nil {
			b.Fatal(err)
		}
	}
	return used
}
