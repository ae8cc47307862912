// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/sync/errgroup"

	"github.com/buntime/buntime/e2e/client"
)

// TestFootprint: of many sessions, each takes no more of the node's memory than was
// promised (docs/performance.md, "Density"), with their part of what they share.
func TestFootprint(t *testing.T) {
	if system.stack == nil {
		t.Skip("it looks into processes of its own system, and BUNTIME_E2E_URL names another")
	}
	const (
		many = 20
		// Bytes of a session that waits with its runners, and of an idle one.
		mostAwake, mostIdle = 25e6, 12e6
	)
	sessions := make([]*session, many)
	for i := range sessions {
		sessions[i] = newSession(t)
	}
	all := func(call func(s *session) client.Call) {
		t.Helper()
		var hands errgroup.Group
		hands.SetLimit(4)
		replies := make([]*client.Reply, many)
		for i, s := range sessions {
			hands.Go(func() (err error) {
				replies[i], err = s.api.Do(s.ctx, call(s))
				return err
			})
		}
		if err := hands.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, reply := range replies {
			status(t, reply, http.StatusOK)
		}
	}
	// hold wants each to hold no more than that, soon: what has just executed may not have
	// ended, or the next runner not begun.
	hold := func(state string, most float64) {
		t.Helper()
		eventually(t, sessions[0].ctx, fmt.Sprintf("at most %s MB for each %s session", mb(most), state), 10*time.Second, func() (bool, string) {
			inside, kernel, err := insides(allocations(t, sessions))
			if err != nil {
				return false, err.Error()
			}
			sum := kernel["session"]
			for _, kind := range inside["session"] {
				sum += kind.pss
			}
			// A runner that is being started is an init for a moment, and stays one if that
			// moment is when the session becomes idle.
			inits := inside["session"]["init"].count
			whole := inits >= many && inits+inside["session"]["runners"].count >= 2*many
			return whole && sum/many <= most, fmt.Sprintf("%s MB; %+v", mb(sum/many), inside["session"])
		})
	}
	all(func(s *session) client.Call {
		return client.Call{Method: "POST", Path: "/execute", JSON: s.body(M{"code": module})}
	})
	hold("waiting", mostAwake)
	all(func(s *session) client.Call {
		return client.Call{Method: "POST", Path: s.path() + "/sleep", JSON: M{"state": "idle"}}
	})
	hold("idle", mostIdle)
}

// allocations are those of the sessions, for insides.
func allocations(t *testing.T, sessions []*session) map[string]string {
	t.Helper()
	list, _, err := system.stack.Nomad.Allocations().List(new(nomad.QueryOptions).WithContext(sessions[0].ctx))
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, a := range list {
		if slices.ContainsFunc(sessions, func(s *session) bool { return s.host() == a.JobID }) {
			states[a.ID] = "session"
		}
	}
	return states
}
