// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package nomad_test

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/frontendtest"
	"github.com/buntime/buntime/frontend/nomad"
	"github.com/buntime/buntime/frontend/testserver"
	"github.com/buntime/buntime/jobs"
)

// TestSlotJob: a real Nomad takes the job of a slot, which is that of the session that
// it becomes, but for its end, its priority and where it would best be.
func TestSlotJob(t *testing.T) {
	s, client := scheduler(t, testserver.Nomad(t, true))
	ctx := deadline(t)
	slot := frontendtest.Slot()
	slot.Shape = frontend.Shape{Memory: 2048, CPU: 0.5, Disk: 4096}
	slot.Node = "00000000-0000-0000-0000-000000000000"
	if err := s.StartSlot(ctx, slot); err != nil {
		t.Fatal(err)
	}
	if err := s.StartSlot(ctx, slot); !errors.Is(err, frontend.ErrExists) {
		t.Errorf("start again: %v", err)
	}
	job, _, err := client.Jobs().Info(frontend.JobID(slot.ID, 1), nil)
	if err != nil {
		t.Fatal(err)
	}
	task := job.TaskGroups[0].Tasks[0]
	session := task.Config["session"].([]any)[0].(map[string]any)
	ends, err := time.Parse(time.RFC3339, session["expires_at"].(string))
	if err != nil || session["id"] != slot.ID || session["epoch"] != 1.0 || session["slot"] != true {
		t.Errorf("session %v, %v", session, err)
	}
	if after := ends.Sub(slot.Ends); after != time.Minute {
		t.Errorf("its node ends it %v after it is too old", after)
	}
	if *job.Priority >= 50 || len(job.Affinities) != 1 || job.Affinities[0].RTarget != slot.Node {
		t.Errorf("priority %d, affinities %+v", *job.Priority, job.Affinities)
	}
	if *task.Resources.MemoryMaxMB != 2048 || task.Config["cpu_cores"] != 0.5 || task.Config["disk"] != 4096.0 {
		t.Errorf("resources %+v, config %v", task.Resources, task.Config)
	}
	list, err := s.Jobs(ctx)
	if err != nil || !slices.Equal(list, []frontend.Job{{Session: slot.ID, Epoch: 1}}) {
		t.Errorf("jobs %+v, %v", list, err)
	}
	if full, err := s.Full(ctx, slot.ID, 1); err != nil || full {
		t.Errorf("full: %t, %v: there is no node, which is not the same", full, err)
	}
}

// TestJobVersion: any other job has another.
func TestJobVersion(t *testing.T) {
	version := func(hcl, domain string) string {
		s, err := nomad.NewScheduler(nomad.Config{}, hcl, domain)
		if err != nil {
			t.Fatal(err)
		}
		return s.JobVersion()
	}
	first := version(jobs.Session, domain)
	if first == "" || version(jobs.Session, domain) != first {
		t.Errorf("%q is no name of the job", first)
	}
	if version(jobs.Session, "other.example.com") == first || version(strings.Replace(jobs.Session, `"30s"`, `"31s"`, 1), domain) == first {
		t.Error("another job has the same")
	}
}

// TestNodes: a stand-in for Nomad has nodes of all kinds, and a job without room.
func TestNodes(t *testing.T) {
	bun := func(healthy bool) map[string]*api.DriverInfo {
		return map[string]*api.DriverInfo{"bun": {Detected: true, Healthy: healthy}}
	}
	sess := frontendtest.Session("a")
	answers := map[string]any{
		"/v1/nodes": []*api.NodeListStub{
			{ID: "a", Status: "ready", SchedulingEligibility: "eligible", Drivers: bun(true)},
			{ID: "b", Status: "ready", SchedulingEligibility: "ineligible", Drivers: bun(true)},
			{ID: "c", Status: "ready", SchedulingEligibility: "ineligible", Drivers: bun(true), Drain: true},
			{ID: "d", Status: "down", SchedulingEligibility: "eligible", Drivers: bun(true)},
			{ID: "e", Status: "ready", SchedulingEligibility: "eligible", Drivers: bun(false)},
			{ID: "f", Status: "ready", SchedulingEligibility: "eligible"},
		},
		"/v1/job/" + frontend.JobID(sess.ID, 1) + "/evaluations": []*api.Evaluation{
			{FailedTGAllocs: map[string]*api.AllocationMetric{"session": {NodesEvaluated: 2, NodesExhausted: 2}}},
		},
		"/v1/job/" + frontend.JobID(sess.ID, 2) + "/evaluations": []*api.Evaluation{{}},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Nomad-Index", "7")
		if err := json.NewEncoder(w).Encode(answers[r.URL.Path]); err != nil {
			t.Error(err)
		}
	}))
	defer server.Close()
	s, _ := scheduler(t, server.URL)
	nodes, next, err := s.Nodes(deadline(t), 0)
	want := []frontend.NodeState{
		{ID: "a", Status: "ready", Eligible: true, Healthy: true, Up: true, Takes: true},
		{ID: "b", Status: "ready", Healthy: true, Up: true},
		{ID: "c", Status: "ready", Draining: true, Healthy: true},
		{ID: "d", Status: "down", Eligible: true, Healthy: true},
		{ID: "e", Status: "ready", Eligible: true, Up: true},
	}
	if err != nil || !slices.Equal(nodes, want) || next != 7 {
		t.Errorf("%+v, %d, %v", nodes, next, err)
	}
	for epoch, want := range map[uint64]bool{1: true, 2: false} {
		if full, err := s.Full(deadline(t), sess.ID, epoch); err != nil || full != want {
			t.Errorf("epoch %d: full %t, %v", epoch, full, err)
		}
	}
}
