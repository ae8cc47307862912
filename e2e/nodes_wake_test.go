// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"context"
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/buntime/buntime/e2e/stack"
	"github.com/buntime/buntime/e2e/swift"
)

// sums prints the digest of each file.
const sums = `sha256sum data/*`

// wakesBefore: a session is in use before all of its files are on the node, and what
// the plugin, or what restores them, dies of in the middle of that costs none of them.
func (c *cluster) wakesBefore(t *testing.T) {
	for _, end := range []struct {
		name string
		do   func(ctx context.Context, n *stack.Client) error
	}{
		{"plugin killed", func(ctx context.Context, n *stack.Client) error { return n.KillPlugin(ctx, syscall.SIGKILL) }},
		{"restorer killed", func(ctx context.Context, n *stack.Client) error { return n.KillRestorer(ctx, syscall.SIGKILL) }},
		{"plugin restarted", func(ctx context.Context, n *stack.Client) error { return n.Agent.Restart(ctx) }},
	} {
		s := c.createOn(t, c.Clients[0])
		s.shell(`mkdir data && for i in $(seq 30); do head -c 1000000 /dev/urandom >data/$i; done; sync data`)
		want := s.shell(sums)
		status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)

		// A store so slow that all of it would take some seconds.
		c.Swift.Proxy.Set(slowly(500 * time.Millisecond))
		c.only(t, c.Clients[0])
		s.shell(`echo written >early`)
		if !c.arriving(c.Clients[0]) {
			t.Errorf("%s: all files are there already", end.name)
		}
		if err := end.do(c.ctx, c.Clients[0]); err != nil {
			t.Fatal(err)
		}
		s.answersAgain()
		c.Swift.Proxy.Set(nil)
		equal(t, "files after: "+end.name, s.shell(sums), want)
		equal(t, "what was written before", s.read("early"), "written\n")
		eventually(t, c.ctx, "all files are there", 30*time.Second, func() (bool, string) { return !c.arriving(c.Clients[0]), "not yet" })
		equal(t, "lost", s.info().Durability.Lost, false)
		c.only(t, c.Clients...)

		s.shell(`echo more >>data/1; sync data`)
		want = s.shell(sums)
		status(t, s.sleep(M{"state": "deep-sleep"}), http.StatusOK)
		equal(t, "files after another sleep", s.shell(sums), want)
		equal(t, "what was written before", s.read("early"), "written\n")
		s.drop()
	}
}

// slowly delays what the store gives of workspaces.
func slowly(by time.Duration) swift.Fault {
	return func(_ int, r *http.Request) swift.Action {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/ses_") && !strings.HasSuffix(r.URL.Path, "/manifest") {
			return swift.Delay(by)
		}
		return nil
	}
}

// arriving says whether a sandbox of a node waits for some of its files yet.
func (c *cluster) arriving(n *stack.Client) bool {
	found, _ := filepath.Glob(filepath.Join(n.StateDir(), "sandboxes/*/arrived"))
	return len(found) > 0
}
