// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
)

const (
	// executeSlack is what an execution's answer may take beyond the
	// execution's own time: to start a sandbox, or reach it again.
	executeSlack = 15 * time.Second
	// longestCode is in bytes. More than that belongs into files.
	longestCode = 10 << 20
	// longestString is what Linux takes as one argument or variable, in bytes
	// (MAX_ARG_STRLEN less the final NUL); a command is an argument of its shell.
	longestString = 128<<10 - 1
	// longestEnv is for all variables together; arguments and environment have
	// 2 MiB in all with the usual stack limit.
	longestEnv = 1 << 20
)

// executeRequest is the body of POST /execute.
type executeRequest struct {
	SessionID  string            `json:"sessionId"`
	Code       *string           `json:"code,omitzero" doc:"A TypeScript or JavaScript module. Either this or command."`
	Command    *string           `json:"command,omitzero" doc:"A line for a POSIX shell."`
	Files      []fileContent     `json:"files,omitzero" doc:"Files to write first."`
	Env        map[string]string `json:"env,omitzero" doc:"At most 100 variables, for this execution only."`
	Timeout    *int              `json:"timeout,omitzero" minimum:"1" doc:"In seconds; that of the session if left out. The most depends on the plan."`
	WorkingDir string            `json:"workingDir,omitzero" doc:"A directory in the workspace."`
	Stream     bool              `json:"stream,omitzero" doc:"Answer with events as the output comes."`
}

type fileContent struct {
	Path    string  `json:"path"`
	Content *string `json:"content" nullable:"false"`
}

// nodeExecution is an executeRequest as nodes take it.
type nodeExecution struct {
	ExecutionID string            `json:"executionId"`
	Code        *string           `json:"code,omitzero"`
	Command     *string           `json:"command,omitzero"`
	Files       []fileContent     `json:"files,omitzero"`
	Env         map[string]string `json:"env,omitzero"`
	Timeout     int               `json:"timeout"`
	WorkingDir  string            `json:"workingDir,omitzero"`
	Stream      bool              `json:"stream,omitzero"`
}

const eventStream = "text/event-stream"

// executionHeader names an execution before it has a result, so that who loses
// the connection can come back to it.
const executionHeader = "X-Execution-Id"

func (s *Server) executionRoutes(api huma.API) {
	notFound := []int{http.StatusNotFound}
	run := answers[Execution](api, eventStream)
	run["200"].Headers = map[string]*huma.Header{executionHeader: {
		Description: "The execution's id, also of one that answers with events.", Schema: &huma.Schema{Type: huma.TypeString},
	}, keyHeader: echoed()}
	add(api, huma.Operation{
		OperationID: "execute", Method: http.MethodPost, Path: "/execute", Tags: []string{"executions"},
		Summary: "Run code or a command in a session", Responses: run,
		Errors: []int{http.StatusNotFound, http.StatusRequestTimeout, http.StatusConflict, http.StatusRequestEntityTooLarge, http.StatusInsufficientStorage},
	}, s.execute)
	add(api, huma.Operation{
		OperationID: "getExecution", Method: http.MethodGet, Path: "/executions/{id}", Tags: []string{"executions"},
		Summary: "Look an execution up", Responses: answers[Execution](api), Errors: notFound,
	}, s.execution)
	add(api, huma.Operation{
		OperationID: "getExecutionOutput", Method: http.MethodGet, Path: "/executions/{id}/output", Tags: []string{"executions"},
		Summary: "Read an execution's output from any point on", Responses: bytesOf(eventStream), Errors: notFound,
	}, s.output)
	add(api, huma.Operation{
		OperationID: "killProcesses", Method: http.MethodPost, Path: "/execution/kill", Tags: []string{"executions"},
		Summary: "Kill one process of a session, or all", Responses: answers[Killed](api), Errors: notFound,
	}, s.kill)
	add(api, huma.Operation{
		OperationID: "listProcesses", Method: http.MethodGet, Path: "/processes", Tags: []string{"executions"},
		Summary: "List the processes of a session", Responses: answers[Processes](api), Errors: notFound,
	}, s.processes)
}

type executeInput struct {
	Repeatable
	JSON[executeRequest]
}

func (s *Server) execute(ctx context.Context, in *executeInput) (*raw, error) {
	r, key := &in.value, caller(ctx)
	about(ctx, r.SessionID, "")
	if err := r.check(key.Allowed); err != nil {
		return nil, err
	}
	if in.Key != "" {
		sess, err := s.Sessions.Resolve(ctx, key.Account, r.SessionID)
		if err != nil {
			return nil, err
		}
		c, id, err := r.call(sess)
		if err != nil {
			return nil, err
		}
		return s.executeOnce(ctx, in, c, id)
	}
	sess, err := s.Sessions.Presume(ctx, key.Account, r.SessionID)
	if err != nil {
		return nil, err
	}
	c, id, err := r.call(sess.Session)
	if err != nil {
		return nil, err
	}
	c.find = sess.Find
	a, err := s.call(ctx, c)
	if err != nil {
		return nil, err
	}
	if err := sess.Confirm(ctx); err != nil {
		a.drop()
		return nil, told(ctx, unconfirmed(err))
	}
	return a.pass(executionHeader, id), nil
}

// unconfirmed is what a client is told whose execution ran where its session was
// presumed to be.
func unconfirmed(err error) error {
	if errors.Is(err, frontend.ErrPresumed) {
		e := frontend.Unsure("the session moved to another node while the code ran; what it did to the session may be lost")
		return &unsure{fmt.Errorf("%w; %w", e, err)}
	}
	return err
}

// call is the request to the session's node, with a new execution's id.
func (r *executeRequest) call(sess *frontend.Session) (c call, id string, err error) {
	n := nodeExecution{
		ExecutionID: frontend.NewExecutionID(),
		Code:        r.Code, Command: r.Command, Files: r.Files, Env: r.Env,
		Timeout: sess.Limits.Timeout, WorkingDir: r.WorkingDir, Stream: r.Stream,
	}
	if r.Timeout != nil {
		n.Timeout = *r.Timeout
	}
	body, err := json.Marshal(n)
	if err != nil {
		return c, "", fmt.Errorf("encode execution for node: %w", err)
	}
	d := time.Duration(n.Timeout)*time.Second + executeSlack
	late := frontend.Errorf(frontend.CodeExecutionTimeout, "the execution has no result after %v; look it up with GET /executions/%s", d, n.ExecutionID)
	return call{
		session: r.SessionID, execution: n.ExecutionID, request: node.Request{Method: http.MethodPost, Path: "/v1/execute", Body: body},
		within: d, late: late.Unsure(),
	}, n.ExecutionID, nil
}

// check refuses what cannot be run, and brings paths into the form that nodes
// answer with.
func (r *executeRequest) check(plan frontend.Plan) error {
	if err := needSession(r.SessionID); err != nil {
		return err
	}
	if err := r.checkProgram(plan); err != nil {
		return err
	}
	if r.Timeout != nil && (*r.Timeout < 1 || *r.Timeout > plan.Timeout) {
		return frontend.Invalid("timeout", "timeout is from 1 to %d seconds with this key, not %d", plan.Timeout, *r.Timeout)
	}
	if err := r.checkFiles(plan); err != nil {
		return err
	}
	if err := r.checkEnv(); err != nil {
		return err
	}
	if r.WorkingDir == "" {
		return nil
	}
	var err error
	r.WorkingDir, err = cleanPath("workingDir", r.WorkingDir)
	return err
}

func (r *executeRequest) checkProgram(plan frontend.Plan) error {
	switch {
	case r.Code == nil && r.Command == nil:
		return frontend.Invalid("code", "there is neither code nor command: one of them is needed")
	case r.Code != nil && r.Command != nil:
		return frontend.Invalid("code", "there are both code and command: only one of them can be run")
	case r.Code != nil && len(*r.Code) > min(longestCode, plan.FileSize):
		return frontend.Errorf(frontend.CodeFileTooLarge, "code has %d bytes, more than %d; import it from files", len(*r.Code), min(longestCode, plan.FileSize))
	case r.Command != nil && len(*r.Command) > longestString:
		return frontend.Invalid("command", "command has %d bytes, more than the %d that a shell takes; put it into a file", len(*r.Command), longestString)
	case r.Command != nil && strings.IndexByte(*r.Command, 0) >= 0:
		return frontend.Invalid("command", "command has a NUL byte")
	}
	return nil
}

func (r *executeRequest) checkFiles(plan frontend.Plan) error {
	if len(r.Files) > plan.Files {
		return frontend.Invalid("files", "there are %d files, more than the %d a request that this key allows", len(r.Files), plan.Files)
	}
	for i := range r.Files {
		f, field := &r.Files[i], fmt.Sprintf("files[%d].path", i)
		clean, err := cleanFile(field, f.Path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(f.Path, "/") {
			return frontend.Invalid(field, "%s %q names a directory", field, f.Path)
		}
		f.Path = clean
		if f.Content == nil {
			return frontend.Invalid(fmt.Sprintf("files[%d].content", i), "files[%d].content is missing; an empty file has the content \"\"", i)
		}
		if err := checkSize(fmt.Sprintf("files[%d]", i), len(*f.Content), plan); err != nil {
			return err
		}
	}
	return nil
}

func (r *executeRequest) checkEnv() error {
	if len(r.Env) > frontend.MaxVariables {
		return frontend.Invalid("env", "there are %d variables, more than %d", len(r.Env), frontend.MaxVariables)
	}
	all := 0
	for name, value := range r.Env {
		length := len(name) + 1 + len(value)
		all += length
		switch {
		case name == "" || strings.ContainsAny(name, "=\x00"):
			return frontend.Invalid("env", "%q is no name of a variable", name)
		case strings.IndexByte(value, 0) >= 0:
			return frontend.Invalid("env."+name, "env.%s has a NUL byte", name)
		case length > longestString:
			return frontend.Invalid("env."+name, "env.%s has %d bytes with its name, more than %d; put it into a file", name, length, longestString)
		}
	}
	if all > longestEnv {
		return frontend.Invalid("env", "env has %d bytes, more than %d; put large values into files", all, longestEnv)
	}
	return nil
}

func checkSize(field string, size int, plan frontend.Plan) error {
	if size <= plan.FileSize {
		return nil
	}
	e := frontend.Errorf(frontend.CodeFileTooLarge, "%s has %d bytes, more than the %d that this key allows a file", field, size, plan.FileSize)
	e.Details = map[string]any{"field": field}
	return e
}

func needSession(id string) error {
	if id == "" {
		return frontend.Invalid("sessionId", "sessionId is missing")
	}
	return nil
}

type executionInput struct {
	ID        string `path:"id" doc:"The execution's id."`
	SessionID string `query:"sessionId" required:"true"`
}

func executionPath(id string) string { return "/v1/executions/" + url.PathEscape(id) }

func (s *Server) execution(ctx context.Context, in *executionInput) (*raw, error) {
	return s.onFiles(ctx, in.SessionID, node.Request{Method: http.MethodGet, Path: executionPath(in.ID)})
}

type outputInput struct {
	ID          string `path:"id" doc:"The execution's id."`
	SessionID   string `query:"sessionId" required:"true"`
	LastEventID string `header:"Last-Event-ID" pattern:"^[0-9]{1,18}$" doc:"The id of the last event that had one; a byte offset."`
	Until       string `query:"until" enum:"answer,end" doc:"What ends the events: the answer that POST /execute gives, or the end of the execution, which for a server is another moment. That is so if left out."`
}

func (s *Server) output(ctx context.Context, in *outputInput) (*raw, error) {
	r := node.Request{Method: http.MethodGet, Path: executionPath(in.ID) + "/output"}
	if in.LastEventID != "" {
		r.Header = http.Header{"Last-Event-Id": {in.LastEventID}}
	}
	if in.Until != "" {
		r.Query = url.Values{"until": {in.Until}}
	}
	return s.onFiles(ctx, in.SessionID, r)
}

// killRequest is the body of POST /execution/kill.
type killRequest struct {
	SessionID string  `json:"sessionId"`
	PID       *int    `json:"pid,omitzero" minimum:"1" doc:"One process; all if left out."`
	Signal    *Signal `json:"signal,omitzero" doc:"SIGKILL to the process and all that came of it, if left out."`
}

type killInput struct {
	JSON[killRequest]
}

func (s *Server) kill(ctx context.Context, in *killInput) (*raw, error) {
	r := in.value
	if err := needSession(r.SessionID); err != nil {
		return nil, err
	}
	if r.PID != nil && *r.PID < 1 {
		return nil, frontend.Invalid("pid", "pid is a positive number, not %d", *r.PID)
	}
	body, err := json.Marshal(struct {
		PID    *int    `json:"pid,omitzero"`
		Signal *Signal `json:"signal,omitzero"`
	}{r.PID, r.Signal})
	if err != nil {
		return nil, fmt.Errorf("encode kill for node: %w", err)
	}
	out, err := s.forward(ctx, call{
		session: r.SessionID, request: node.Request{Method: http.MethodPost, Path: "/v1/kill", Body: body},
		find: s.Sessions.ResolveAwake, within: fileTimeout, late: tooLate(fileTimeout),
	})
	if errors.Is(err, frontend.ErrAsleep) { // it has no processes, and stays asleep
		return said(`{"killed":0,"pids":[]}`), nil
	}
	return out, err
}

type processesInput struct {
	SessionID string `query:"sessionId" required:"true"`
	Wake      bool   `query:"wake" default:"true" doc:"With false the session is not woken, and this is no activity: of one that is idle the list is of when it came to be, of one in deep sleep it is empty."`
}

func (s *Server) processes(ctx context.Context, in *processesInput) (*raw, error) {
	c := call{
		session: in.SessionID, request: node.Request{Method: http.MethodGet, Path: "/v1/processes"},
		within: sessionTimeout, late: tooLate(sessionTimeout),
	}
	if in.Wake {
		return s.forward(ctx, c)
	}
	c.request.Path, c.find = "/v1/seen/processes", s.Sessions.ResolveAwake
	out, err := s.forward(ctx, c)
	if errors.Is(err, frontend.ErrAsleep) {
		return said(`{"processes":[]}`), nil
	}
	return out, err
}

// said is an answer that no node gives.
func said(text string) *raw {
	return &raw{func(hc huma.Context) {
		hc.SetHeader("Content-Type", "application/json")
		_, _ = io.WriteString(hc.BodyWriter(), text) // a client that is gone needs no answer
	}}
}
