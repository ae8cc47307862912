// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package nomad_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/testserver"
)

// TestDraining asks a real Nomad, which has no nodes; the rest of it is in e2e.
func TestDraining(t *testing.T) {
	s, _ := scheduler(t, testserver.Nomad(t, true))
	ctx := deadline(t)
	nodes, next, err := s.Draining(ctx, 0)
	if err != nil || len(nodes) != 0 || next == 0 {
		t.Fatalf("%v, %d, %v", nodes, next, err)
	}
	brief, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, _, err := s.Draining(brief, next); brief.Err() == nil {
		t.Errorf("it did not wait: %v", err)
	}
	jobs, err := s.On(ctx, "00000000-0000-0000-0000-000000000000")
	if err != nil || len(jobs) != 0 {
		t.Errorf("on a node that is not there: %+v, %v", jobs, err)
	}
}

// TestDrainingNodes: a stand-in for Nomad has nodes and allocations of all kinds.
func TestDrainingNodes(t *testing.T) {
	sess := frontendtest.Session("a")
	alloc := func(session, epoch, desired, client string) *api.Allocation {
		id := frontend.JobID(sess.ID, 3)
		return &api.Allocation{
			Namespace: "default", JobID: id, Job: &api.Job{ID: &id, Meta: map[string]string{"session": session, "epoch": epoch}},
			DesiredStatus: desired, ClientStatus: client,
		}
	}
	elsewhere := alloc(sess.ID, "3", "run", "running") // of another system's front-ends
	elsewhere.Namespace = "other"
	answers := map[string]any{
		"/v1/nodes": []*api.NodeListStub{{ID: "a"}, {ID: "b", Drain: true, SchedulingEligibility: "ineligible"}, {ID: "c", SchedulingEligibility: "ineligible"}},
		"/v1/node/b/allocations": []*api.Allocation{
			alloc(sess.ID, "3", "run", "running"),
			alloc(sess.ID, "3", "run", "pending"),
			alloc(sess.ID, "3", "run", "unknown"),
			alloc(sess.ID, "3", "run", "complete"),
			alloc(sess.ID, "3", "stop", "running"),
			alloc(sess.ID, "4", "run", "running"), // its meta do not fit: it is not ours
			alloc("", "", "run", "running"),
			{Namespace: "default", JobID: "web", Job: &api.Job{}, DesiredStatus: "run", ClientStatus: "running"},
			elsewhere,
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Nomad-Index", "7")
		if err := json.NewEncoder(w).Encode(answers[r.URL.Path]); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	s, _ := scheduler(t, server.URL)
	nodes, next, err := s.Draining(deadline(t), 0)
	if err != nil || !slices.Equal(nodes, []string{"b"}) || next != 7 {
		t.Errorf("%v, %d, %v", nodes, next, err)
	}
	one := frontend.Job{Session: sess.ID, Epoch: 3}
	jobs, err := s.On(deadline(t), "b")
	if err != nil || !slices.Equal(jobs, []frontend.Job{one, one, one}) {
		t.Errorf("%+v, %v", jobs, err)
	}
}
