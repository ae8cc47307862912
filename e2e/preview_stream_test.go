// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// stepwise is a server whose /stream and /events send their next piece when
// /next is asked for, and whose /upload writes down what it has so far.
const stepwise = `
		const next: (() => void)[] = [];
		const turn = () => new Promise<void>((go) => next.push(go));
		Bun.serve({
			port: 8080,
			idleTimeout: 60,
			async fetch(req) {
				const path = new URL(req.url).pathname;
				if (path === "/next") { while (!next.length) await Bun.sleep(5); next.shift()!(); return new Response("ok"); }
				if (path === "/upload") {
					let got = "";
					for await (const chunk of req.body!) { got += new TextDecoder().decode(chunk); await Bun.write("uploaded", got); }
					return new Response(got);
				}
				const events = path === "/events";
				const frame = (n: number) => (events ? "id: " + n + "\ndata: " + n + "\n\n" : "chunk " + n + "\n");
				async function* pieces() { for (let n = 1; n <= 3; n++) { yield frame(n); await turn(); } }
				return new Response(pieces() as any, { headers: { "content-type": events ? "text/event-stream" : "text/plain" } });
			},
		});
	`

// TestPreviewStreams: each piece is here before the app makes the next one,
// which it only does when told.
func TestPreviewStreams(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(stepwise)
	for _, path := range []string{"/stream", "/events"} {
		t.Run(path, func(t *testing.T) {
			s := s.in(t)
			res := s.open("GET", s.page(path), nil, nil)
			equal(t, "status", res.StatusCode, 200)
			for n := 1; n <= 3; n++ {
				want := fmt.Sprintf("chunk %d\n", n)
				if path == "/events" {
					want = fmt.Sprintf("id: %d\ndata: %d\n\n", n, n)
				}
				got := make([]byte, len(want))
				if _, err := io.ReadFull(res.Body, got); err != nil {
					t.Fatalf("piece %d: %v (%v)", n, err, context.Cause(s.ctx))
				}
				equal(t, "piece", string(got), want)
				equal(t, "next", string(s.fetch("/next").Body), "ok")
			}
			rest, err := io.ReadAll(res.Body)
			equal(t, "the end", fmt.Sprint(len(rest), err), "0 <nil>")
		})
	}
}

// TestPreviewUploads: the app has a piece before the visitor sends the next.
func TestPreviewUploads(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(stepwise)
	reader, writer := io.Pipe()
	answer := make(chan *client.Reply, 1)
	go func() {
		defer close(answer)
		req, err := http.NewRequestWithContext(s.ctx, "POST", s.page("/upload"), reader)
		if err != nil {
			t.Error(err)
			return
		}
		res, err := s.api.HTTP.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		answer <- &client.Reply{Status: res.StatusCode, Body: body}
	}()
	for _, piece := range []string{"first,", "second"} {
		if _, err := io.WriteString(writer, piece); err != nil {
			t.Fatal(err)
		}
		s.waitFor("uploaded")
		eventually(t, s.ctx, "the app has "+piece, 10*time.Second, func() (bool, string) {
			got := s.read("uploaded")
			return strings.HasSuffix(got, piece), got
		})
	}
	writer.Close()
	if got := <-answer; got != nil {
		equal(t, "answer", string(got.Body), "first,second")
	}
}

// TestPreviewAbandoned: the app hears of a visitor who goes away.
func TestPreviewAbandoned(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(`
		Bun.serve({ port: 8080, idleTimeout: 60, fetch(req) {
			req.signal.addEventListener("abort", () => Bun.write("aborted", "yes"));
			async function* pieces() { yield "first"; await Bun.sleep(50_000); }
			return new Response(pieces() as any);
		} });
	`)
	ctx, goAway := context.WithCancel(s.ctx)
	defer goAway()
	req, err := http.NewRequestWithContext(ctx, "GET", s.page("/"), nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.api.HTTP.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadFull(res.Body, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	goAway()
	s.waitFor("aborted")
}
