// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"

	"github.com/danielgtaylor/huma/v2"

	"github.com/buntime/buntime/frontend"
)

// What operators see beyond their own account is which sessions there are and how they
// do, never what is in them; and they change nothing.

// AnySession is a session of any account, as operators see it.
type AnySession struct {
	SessionID      string          `json:"sessionId"`
	Account        string          `json:"account"`
	Plan           string          `json:"plan" enum:"free,paid,enterprise"`
	CreatedAt      Time            `json:"createdAt"`
	ExpiresAt      Time            `json:"expiresAt"`
	LastActive     Time            `json:"lastActive"`
	State          frontend.State  `json:"state" enum:"active,idle,deep-sleep"`
	ResourceLimits frontend.Limits `json:"resourceLimits"`
	Node           string          `json:"node,omitempty" doc:"The node that it is on, by Nomad's id."`
	Epoch          uint64          `json:"epoch" doc:"How many awake lives it has had, this one included."`
	Told
}

// AnySessions is the answer of GET /operator/sessions.
type AnySessions struct {
	Sessions []AnySession `json:"sessions" nullable:"false"`
}

// System is the answer of GET /operator/system.
type System struct {
	At       Time   `json:"at"`
	Frontend string `json:"frontend" doc:"The front-end that answers; another name after a restart. Slots, waiting and times are as it knows them."`
	Awake    int    `json:"awake" doc:"Sessions with an allocation that runs."`
	Nodes    []Node `json:"nodes" nullable:"false"`
	Pools    []Pool `json:"pools" nullable:"false" doc:"Slots by shape, the default one first."`
	Waiting  int    `json:"waiting" doc:"Creates that wait for their turn."`
	Times    struct {
		Create  Times `json:"create" doc:"POST /sessions/create."`
		Claim   Times `json:"claim" doc:"The part of it until a new allocation is there; none where a slot was taken."`
		Wake    Times `json:"wake" doc:"From deep sleep."`
		Execute Times `json:"execute" doc:"POST /execute, the run included."`
	} `json:"times" doc:"How long these took, each time since the front-end started."`
}

// Node is a Nomad client that has our driver.
type Node struct {
	ID       string `json:"id"`
	Name     string `json:"name"`
	Address  string `json:"address"`
	Status   string `json:"status" doc:"As Nomad has it: ready, initializing, disconnected, down."`
	Draining bool   `json:"draining"`
	Eligible bool   `json:"eligible" doc:"Whether Nomad places anything there."`
	Healthy  bool   `json:"healthy" doc:"Whether the driver says that it works."`
	Problem  string `json:"problem,omitempty" doc:"What the driver says if not."`
	Sessions int    `json:"sessions"`
	Slots    int    `json:"slots"`
}

// Pool is the slots of a shape.
type Pool struct {
	Memory   int     `json:"memory" doc:"In MB."`
	CPU      float64 `json:"cpu" doc:"In cores."`
	Disk     int     `json:"disk" doc:"In MB."`
	Ready    int     `json:"ready"`
	Starting int     `json:"starting"`
}

// Times is a histogram.
type Times struct {
	Count  uint64    `json:"count"`
	Sum    float64   `json:"sum" doc:"In seconds."`
	Bounds []float64 `json:"bounds" nullable:"false" doc:"In seconds."`
	Below  []uint64  `json:"below" nullable:"false" doc:"How many took at most each of the bounds."`
}

func (s *Server) operatorRoutes(api huma.API) {
	forbidden := []int{http.StatusForbidden}
	add(api, huma.Operation{
		OperationID: "listAnySessions", Method: http.MethodGet, Path: "/operator/sessions", Tags: []string{"operator"},
		Summary:     "List the sessions of all accounts that are awake, newest life first",
		Description: "Or, with account, those of one account, in whatever state, newest first. For operators' keys.",
		Errors:      forbidden,
	}, within(sessionTimeout, s.anySessions))
	add(api, huma.Operation{
		OperationID: "getSystem", Method: http.MethodGet, Path: "/operator/system", Tags: []string{"operator"},
		Summary: "Look at nodes, slots and how long things took", Description: "For operators' keys.",
		Errors: forbidden,
	}, within(sessionTimeout, s.system))
}

// operator refuses a key that is no operator's.
func operator(ctx context.Context) error {
	if caller(ctx).Operator {
		return nil
	}
	return frontend.Errorf(frontend.CodeForbidden, "this is for operators' keys: buntime-frontend keys create -operator")
}

type anySessionsInput struct {
	Limit   int    `query:"limit" default:"50" minimum:"1" maximum:"100"`
	Offset  int    `query:"offset" default:"0" minimum:"0" maximum:"1000000000"`
	Account string `query:"account" maxLength:"64"`
}

type anySessionsOutput struct {
	Total int `header:"X-Total-Count" doc:"How many sessions there are on all pages."`
	Body  AnySessions
}

func (s *Server) anySessions(ctx context.Context, in *anySessionsInput) (*anySessionsOutput, error) {
	if err := operator(ctx); err != nil {
		return nil, err
	}
	var page []*frontend.Session
	var total int
	var err error
	if in.Account != "" {
		page, total, err = s.Sessions.List(ctx, in.Account, frontend.ListRequest{Limit: in.Limit, Offset: in.Offset})
	} else {
		page, total, err = s.Sessions.ListAwake(ctx, in.Limit, in.Offset)
	}
	if err != nil {
		return nil, err
	}
	out := &anySessionsOutput{Total: total, Body: AnySessions{make([]AnySession, 0, len(page))}}
	for _, sess := range page {
		one := AnySession{
			SessionID: sess.ID, Account: sess.Account, Plan: sess.Plan, CreatedAt: Time(sess.Created), ExpiresAt: Time(sess.Expires),
			LastActive: Time(sess.LastActive), State: sess.State.Public(), ResourceLimits: sess.Limits, Epoch: sess.Epoch, Told: toldOf(sess),
		}
		if sess.Placed() {
			one.Node = sess.Claim.Node
		}
		out.Body.Sessions = append(out.Body.Sessions, one)
	}
	return out, nil
}

type systemOutput struct{ Body System }

func (s *Server) system(ctx context.Context, _ *struct{}) (*systemOutput, error) {
	if err := operator(ctx); err != nil {
		return nil, err
	}
	awake, slots, err := s.Sessions.Places(ctx)
	if err != nil {
		return nil, err
	}
	states, _, err := s.Sessions.Scheduler.Nodes(ctx, 0)
	if err != nil {
		return nil, err
	}
	on := map[string]int{}
	for _, p := range awake {
		on[p.Node]++
	}
	out := System{
		At: Time(s.Sessions.Now()), Frontend: s.Sessions.Name(), Awake: len(awake), Waiting: s.Sessions.Waiting(),
		Nodes: make([]Node, 0, len(states)), Pools: []Pool{},
	}
	for _, n := range states {
		out.Nodes = append(out.Nodes, Node{
			ID: n.ID, Name: n.Name, Address: n.Address, Status: n.Status, Draining: n.Draining, Eligible: n.Eligible,
			Healthy: n.Healthy, Problem: n.Problem, Sessions: on[n.ID], Slots: slots[n.ID],
		})
	}
	slices.SortFunc(out.Nodes, func(a, b Node) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	for _, p := range s.Sessions.Pools() {
		out.Pools = append(out.Pools, Pool{p.Shape.Memory, p.Shape.CPU, p.Shape.Disk, p.Ready, p.Starting})
	}
	out.Times.Create = Times(s.Metrics.RequestTimes(http.MethodPost+" "+createPath, "200"))
	out.Times.Claim = Times(s.Metrics.StageTimes(http.MethodPost+" "+createPath, "claim"))
	out.Times.Wake = Times(s.Metrics.StageTimes("", "wake"))
	out.Times.Execute = Times(s.Metrics.RequestTimes("POST /execute", "200"))
	return &systemOutput{out}, nil
}
