// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/frontend"
)

// pollLimit ends a blocking query that nothing else ends, so that a connection which
// a firewall has silently dropped is noticed.
const pollLimit = time.Minute

// Draining implements frontend.Scheduler. It waits with a blocking query: any change
// of any node answers it.
func (s *Scheduler) Draining(ctx context.Context, since uint64) ([]string, uint64, error) {
	q := (&api.QueryOptions{WaitIndex: since, WaitTime: pollLimit}).WithContext(ctx)
	stubs, meta, err := s.client.Nodes().List(q)
	if err != nil {
		return nil, 0, unavailable(err, "list nodes")
	}
	var nodes []string
	for _, stub := range stubs {
		if stub.Drain {
			nodes = append(nodes, stub.ID)
		}
	}
	return nodes, max(meta.LastIndex, 1), nil // 0 would not wait
}

// Nodes implements frontend.Scheduler, as Draining does.
func (s *Scheduler) Nodes(ctx context.Context, since uint64) ([]frontend.NodeState, uint64, error) {
	q := (&api.QueryOptions{WaitIndex: since, WaitTime: pollLimit}).WithContext(ctx)
	stubs, meta, err := s.client.Nodes().List(q)
	if err != nil {
		return nil, 0, unavailable(err, "list nodes")
	}
	var nodes []frontend.NodeState
	for _, stub := range stubs {
		driver := stub.Drivers[driverName]
		if driver == nil || !driver.Detected {
			continue
		}
		up := stub.Status == api.NodeStatusReady && !stub.Drain
		eligible := stub.SchedulingEligibility == api.NodeSchedulingEligible
		n := frontend.NodeState{
			ID: stub.ID, Name: stub.Name, Address: stub.Address, Status: stub.Status,
			Draining: stub.Drain, Eligible: eligible, Healthy: driver.Healthy,
			Up: up, Takes: up && driver.Healthy && eligible,
		}
		if !n.Healthy {
			n.Problem = driver.HealthDescription
		}
		nodes = append(nodes, n)
	}
	return nodes, max(meta.LastIndex, 1), nil
}

// driverName is how nodes call our driver.
const driverName = "bun"

// On implements frontend.Scheduler. What was told to stop has its own end.
func (s *Scheduler) On(ctx context.Context, node string) ([]frontend.Job, error) {
	allocs, _, err := s.client.Nodes().Allocations(node, new(api.QueryOptions).WithContext(ctx))
	if err != nil {
		return nil, unavailable(err, "list allocations of node %s", node)
	}
	var jobs []frontend.Job
	for _, alloc := range allocs {
		if alloc.Job == nil || alloc.Namespace != s.namespace || alloc.DesiredStatus != api.AllocDesiredStatusRun || alloc.ClientTerminalStatus() {
			continue
		}
		if job, ok := sessionJob(alloc.JobID, alloc.Job.Meta); ok {
			jobs = append(jobs, job)
		}
	}
	return jobs, nil
}
