// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/client"
)

// TestSessionsTogether: sessions made and used at the same time are each on
// their own, with the same file names and the same port.
func TestSessionsTogether(t *testing.T) {
	t.Parallel()
	ctx := deadline(t, usual)
	const n = 10
	type outcome struct {
		reply *client.Reply
		err   error
	}
	answers := make(chan outcome, n)
	for range n {
		go func() {
			reply, err := enterprise().Do(ctx, client.Call{Method: "POST", Path: "/sessions/create"})
			answers <- outcome{reply, err}
		}()
	}
	sessions := map[string]*session{}
	for range n {
		o := <-answers
		if o.err != nil {
			t.Fatal(o.err)
		}
		c := decode[created](t, o.reply)
		dropLater(t, enterprise(), c.SessionID)
		sessions[c.SessionID] = &session{t: t, ctx: ctx, api: enterprise(), id: c.SessionID, created: c}
	}
	equal(t, "different sessions", len(sessions), n)
	runs := map[string]*started{}
	for id, s := range sessions {
		runs[id] = s.begin(M{"env": M{"OWN": id}, "code": `
			await Bun.write("own.txt", process.env.OWN!);
			Bun.serve({ port: 8080, fetch: () => new Response(process.env.OWN) });
		`})
	}
	for id := range sessions {
		equal(t, "background of "+id, runs[id].result().Background, true)
	}
	for id, s := range sessions {
		equal(t, "preview", string(s.fetch("/").Body), id)
		equal(t, "file", s.read("own.txt"), id)
		equal(t, "processes", len(s.processes()), 1)
	}
	for _, s := range sessions {
		status(t, s.drop(), 200)
	}
}

// TestProbes: they need no key.
func TestProbes(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/healthz", "/readyz"} {
		reply := send(t, deadline(t, usual), shared, client.Call{Method: "GET", Path: path})
		status(t, reply, 200)
		within(t, fmt.Sprint("time of ", path), reply.Took, 0, 5*time.Second)
	}
}
