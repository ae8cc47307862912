// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/buntime/buntime/frontend"
)

// createRequest is the body of POST /sessions/create.
type createRequest struct {
	TTL            *int                    `json:"ttl,omitzero" minimum:"300" doc:"Life in seconds; 86400 if left out. The most depends on the plan."`
	Metadata       Object                  `json:"metadata,omitzero" doc:"Any object, at most 16384 bytes of JSON; comes back unchanged."`
	ResourceLimits *frontend.LimitsRequest `json:"resourceLimits,omitzero"`
}

func (s *Server) sessionRoutes(api huma.API) {
	add(api, huma.Operation{
		OperationID: "createSession", Method: http.MethodPost, Path: createPath, Tags: []string{"sessions"},
		Summary: "Create a session", Errors: []int{http.StatusForbidden, http.StatusConflict},
	}, within(sessionTimeout, s.create))
	add(api, huma.Operation{
		OperationID: "getSession", Method: http.MethodGet, Path: "/sessions/{id}", Tags: []string{"sessions"},
		Summary: "Look at a session", Description: "Neither wakes the session nor counts as activity.", Errors: []int{http.StatusNotFound},
	}, within(sessionTimeout, s.get))
	add(api, huma.Operation{
		OperationID: "listSessions", Method: http.MethodGet, Path: "/sessions", Tags: []string{"sessions"},
		Summary:     "List sessions, newest first",
		Description: "`metadata.<name>=<value>` chooses those whose metadata has that value; any number may be given.",
	}, within(sessionTimeout, s.list))
	add(api, huma.Operation{
		OperationID: "deleteSession", Method: http.MethodDelete, Path: "/sessions/{id}", Tags: []string{"sessions"},
		Summary: "Delete a session at once and for good", Errors: []int{http.StatusNotFound},
	}, within(sessionTimeout, s.delete))
	add(api, huma.Operation{
		OperationID: "sleepSession", Method: http.MethodPost, Path: "/sessions/{id}/sleep", Tags: []string{"sessions"},
		Summary:     "Put a session to rest",
		Description: "Answers once the session is there. While something runs in it that is refused, unless force is set.",
		Errors:      []int{http.StatusNotFound, http.StatusConflict},
	}, within(restTimeout, s.sleep))
	add(api, huma.Operation{
		OperationID: "extendSession", Method: http.MethodPost, Path: "/sessions/{id}/extend", Tags: []string{"sessions"},
		Summary:     "Put a session's end off",
		Description: "To ttl seconds from now, unless it is later already. The session wakes.",
		Errors:      []int{http.StatusNotFound},
	}, within(restTimeout, s.extend))
}

const createPath = "/sessions/create"

type createInput struct {
	Repeatable
	JSON[createRequest]
}

type createOutput struct{ Body Created }

func (s *Server) create(ctx context.Context, in *createInput) (*createOutput, error) {
	if in.Key != "" {
		return s.createOnce(ctx, in)
	}
	return s.createNow(ctx, in, "")
}

// createNow creates a session for a request with a receipt, or "".
func (s *Server) createNow(ctx context.Context, in *createInput, receipt string) (*createOutput, error) {
	sess, err := s.Sessions.Create(ctx, caller(ctx), frontend.CreateRequest{
		TTL: in.value.TTL, Metadata: []byte(in.value.Metadata), Limits: in.value.ResourceLimits, Receipt: receipt,
	})
	if err != nil {
		return nil, err
	}
	about(ctx, sess.ID, "")
	return &createOutput{s.created(sess)}, nil
}

func (s *Server) created(sess *frontend.Session) Created {
	return Created{
		SessionID: sess.ID, CreatedAt: Time(sess.Created), ExpiresAt: Time(sess.Expires),
		PreviewURL: s.previewURL(sess.ID), ResourceLimits: sess.Limits,
	}
}

type getInput struct {
	ID string `path:"id" doc:"The session's id."`
}

type getOutput struct{ Body Session }

func (s *Server) get(ctx context.Context, in *getInput) (*getOutput, error) {
	about(ctx, in.ID, "")
	sess, info, err := s.Sessions.Get(ctx, caller(ctx).Account, in.ID)
	if err != nil {
		return nil, err
	}
	v := Session{
		Summary:    s.summary(sess),
		FilesCount: info.FilesCount, ActiveProcesses: info.ActiveProcesses,
		Usage: info.Usage, AwakeBecause: info.AwakeBecause, NextTransition: transition(info.NextTransition),
		Durability: info.Durability,
	}
	v.State, v.LastActive = info.State, Time(info.LastActive)
	return &getOutput{v}, nil
}

type listInput struct {
	Limit  int    `query:"limit" default:"50" minimum:"1" maximum:"100"`
	Offset int    `query:"offset" default:"0" minimum:"0" maximum:"1000000000"`
	State  string `query:"state" enum:"active,idle,deep-sleep"`
	MetadataQuery
}

// MetadataQuery is the part of an input that is its metadata.<name> parameters.
type MetadataQuery struct{ values map[string]string }

func (*MetadataQuery) anyQuery() {}

// Resolve implements huma.Resolver.
func (m *MetadataQuery) Resolve(ctx huma.Context) []error {
	u := ctx.URL()
	for name, values := range u.Query() {
		switch key, ok := strings.CutPrefix(name, "metadata."); {
		case ok && m.values == nil:
			m.values = map[string]string{key: values[0]}
		case ok:
			m.values[key] = values[0]
		case name != "limit" && name != "offset" && name != "state":
			return []error{frontend.Invalid(name, "there is no parameter %s here", name)}
		}
	}
	return nil
}

type listOutput struct {
	Total int `header:"X-Total-Count" doc:"How many sessions there are on all pages."`
	Body  Sessions
}

func (s *Server) list(ctx context.Context, in *listInput) (*listOutput, error) {
	page, total, err := s.Sessions.List(ctx, caller(ctx).Account, frontend.ListRequest{
		Limit: in.Limit, Offset: in.Offset, State: frontend.State(in.State), Metadata: in.values,
	})
	if err != nil {
		return nil, err
	}
	out := &listOutput{Total: total, Body: Sessions{make([]Listed, 0, len(page))}}
	for _, sess := range page {
		out.Body.Sessions = append(out.Body.Sessions, Listed{s.summary(sess), toldOf(sess)})
	}
	return out, nil
}

type deleteOutput struct{ Body Deleted }

func (s *Server) delete(ctx context.Context, in *getInput) (*deleteOutput, error) {
	about(ctx, in.ID, "")
	if err := s.Sessions.Delete(ctx, caller(ctx).Account, in.ID); err != nil {
		return nil, err
	}
	return &deleteOutput{Deleted{true, in.ID}}, nil
}

func (s *Server) summary(sess *frontend.Session) Summary {
	return Summary{
		SessionID: sess.ID, CreatedAt: Time(sess.Created), ExpiresAt: Time(sess.Expires),
		LastActive: Time(sess.LastActive), State: sess.State.Public(), Metadata: Object(sess.Metadata),
		PreviewURL: s.previewURL(sess.ID), ResourceLimits: sess.Limits,
	}
}

// toldOf is what its node has told of a session.
func toldOf(sess *frontend.Session) Told {
	if sess.Told == nil {
		return Told{}
	}
	return Told{
		Usage: &sess.Told.Usage, ActiveProcesses: &sess.Told.ActiveProcesses,
		AwakeBecause: sess.Told.AwakeBecause, NextTransition: transition(sess.Told.NextTransition),
	}
}

func (s *Server) previewURL(id string) string {
	return s.PreviewScheme + "://" + frontend.Label(id) + "." + s.PreviewDomain
}

// restTimeout is longer than for other session operations: a workspace goes to the
// store first.
const restTimeout = 2 * time.Minute

// sleepRequest is the body of POST /sessions/{id}/sleep.
type sleepRequest struct {
	State frontend.State `json:"state" enum:"idle,deep-sleep"`
	Force bool           `json:"force,omitzero" doc:"Interrupt what runs."`
}

type sleepInput struct {
	ID string `path:"id" doc:"The session's id."`
	JSON[sleepRequest]
}

type sleepOutput struct{ Body Rested }

func (s *Server) sleep(ctx context.Context, in *sleepInput) (*sleepOutput, error) {
	about(ctx, in.ID, "")
	sess, err := s.Sessions.Sleep(ctx, caller(ctx).Account, in.ID, in.value.State, in.value.Force)
	if err != nil {
		return nil, err
	}
	return &sleepOutput{Rested{sess.ID, in.value.State}}, nil
}

// extendRequest is the body of POST /sessions/{id}/extend.
type extendRequest struct {
	TTL *int `json:"ttl" nullable:"false" minimum:"300" doc:"Life in seconds, from now. The most depends on the plan."`
}

type extendInput struct {
	ID string `path:"id" doc:"The session's id."`
	JSON[extendRequest]
}

type extendOutput struct{ Body Extended }

func (s *Server) extend(ctx context.Context, in *extendInput) (*extendOutput, error) {
	about(ctx, in.ID, "")
	if in.value.TTL == nil {
		return nil, frontend.Invalid("ttl", "ttl is missing")
	}
	expires, err := s.Sessions.Extend(ctx, caller(ctx), in.ID, *in.value.TTL)
	if err != nil {
		return nil, err
	}
	return &extendOutput{Extended{in.ID, Time(expires)}}, nil
}

func transition(t *frontend.Transition) *Transition {
	if t == nil {
		return nil
	}
	return &Transition{To: t.To, At: Time(t.At)}
}
