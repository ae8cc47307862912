// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package nomad

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/buntime/buntime/frontend"
)

// Places implements frontend.Scheduler by the allocations that run, or are pending: for
// their first second that is what Nomad says of those that run. Without the states of
// their tasks one is some 800 bytes.
func (s *Scheduler) Places(ctx context.Context) ([]frontend.Place, error) {
	var out []frontend.Place
	q := (&api.QueryOptions{
		Filter: `(ClientStatus == "running" or ClientStatus == "pending") and JobID matches "^` + jobPrefix + `"`, PerPage: 1000, Params: map[string]string{"task_states": "false"},
	}).WithContext(ctx)
	for {
		stubs, meta, err := s.client.Allocations().List(q)
		if err != nil {
			return nil, unavailable(err, "list allocations")
		}
		for _, stub := range stubs {
			if session, epoch := fromJobID(stub.JobID); session != "" {
				out = append(out, frontend.Place{
					Session: session, Epoch: epoch, Node: stub.NodeID, NodeName: stub.NodeName, Since: time.Unix(0, stub.CreateTime),
				})
			}
		}
		if meta.NextToken == "" {
			return out, nil
		}
		q.NextToken = meta.NextToken
	}
}

// fromJobID undoes frontend.JobID; the session is "" if the id is none of its.
func fromJobID(id string) (session string, epoch uint64) {
	label, number, numbered := strings.Cut(strings.TrimPrefix(id, jobPrefix), "-")
	epoch = 1
	if numbered {
		var err error
		if epoch, err = strconv.ParseUint(number, 10, 64); err != nil {
			return "", 0
		}
	}
	session = frontend.FromLabel(jobPrefix + label)
	if session == "" || frontend.JobID(session, epoch) != id {
		return "", 0
	}
	return session, epoch
}
