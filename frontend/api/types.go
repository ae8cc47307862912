// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/frontend"
)

// Time is a time as the API writes it: UTC, whole seconds, Z.
type Time time.Time

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(nil, `"`+time.RFC3339+`"`), nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(text []byte) error {
	at, err := time.Parse(`"`+time.RFC3339+`"`, string(text))
	*t = Time(at)
	return err
}

// Schema implements huma.SchemaProvider.
func (Time) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Format: "date-time"}
}

// Object is any JSON object, kept as it was sent but for white space.
type Object []byte

// UnmarshalJSON implements json.Unmarshaler.
func (o *Object) UnmarshalJSON(text []byte) error {
	switch jsontext.Value(text).Kind() {
	case 'n':
		return nil
	case '{':
		v := jsontext.Value(bytes.Clone(text))
		if err := v.Compact(); err != nil {
			return err
		}
		*o = Object(v)
		return nil
	}
	return frontend.Errorf(frontend.CodeInvalidRequest, "must be an object")
}

// MarshalJSON implements json.Marshaler.
func (o Object) MarshalJSON() ([]byte, error) { return o, nil }

// Schema implements huma.SchemaProvider.
func (Object) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
}

// Signal is a signal, by number or by name with or without SIG.
type Signal int

// UnmarshalJSON implements json.Unmarshaler.
func (s *Signal) UnmarshalJSON(text []byte) error {
	name := string(text)
	if v := jsontext.Value(text); v.Kind() == '"' {
		unquoted, err := jsontext.AppendUnquote(nil, text)
		if err != nil {
			return err
		}
		name = string(unquoted)
	}
	n, err := strconv.Atoi(name)
	if err != nil {
		n = int(unix.SignalNum("SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")))
	}
	if n < 1 || n > 64 {
		return frontend.Errorf(frontend.CodeInvalidRequest, "must be a signal: a name such as SIGTERM, or a number from 1 to 64")
	}
	*s = Signal(n)
	return nil
}

// Schema implements huma.SchemaProvider.
func (Signal) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{OneOf: []*huma.Schema{
		{Type: huma.TypeString, Examples: []any{"SIGTERM"}},
		{Type: huma.TypeInteger, Minimum: new(1.0), Maximum: new(64.0)},
	}}
}

// Created is the answer of POST /sessions/create.
type Created struct {
	SessionID      string          `json:"sessionId"`
	ExpiresAt      Time            `json:"expiresAt"`
	PreviewURL     string          `json:"previewUrl" doc:"Where a web server on port 8080 of the session answers."`
	CreatedAt      Time            `json:"createdAt"`
	ResourceLimits frontend.Limits `json:"resourceLimits"`
}

// Summary is what is told of a session everywhere.
type Summary struct {
	SessionID      string          `json:"sessionId"`
	CreatedAt      Time            `json:"createdAt"`
	ExpiresAt      Time            `json:"expiresAt"`
	LastActive     Time            `json:"lastActive"`
	State          frontend.State  `json:"state" enum:"active,idle,deep-sleep"`
	Metadata       Object          `json:"metadata"`
	PreviewURL     string          `json:"previewUrl"`
	ResourceLimits frontend.Limits `json:"resourceLimits"`
}

// Listed is a session in a list.
type Listed struct {
	Summary
	Told
}

// Told is what its node tells of a session in a list; all of it is left out where none
// has.
type Told struct {
	Usage           *frontend.Usage `json:"usage,omitempty"`
	ActiveProcesses *int            `json:"activeProcesses,omitempty"`
	AwakeBecause    []string        `json:"awakeBecause,omitempty" nullable:"false" doc:"What keeps the session from becoming idle now."`
	NextTransition  *Transition     `json:"nextTransition,omitempty" doc:"The change of state that comes by itself, if nothing happens before."`
}

// Session is the answer of GET /sessions/{id}.
type Session struct {
	Summary
	FilesCount      int                  `json:"filesCount" doc:"Files in the workspace."`
	ActiveProcesses int                  `json:"activeProcesses"`
	Usage           frontend.Usage       `json:"usage"`
	AwakeBecause    []string             `json:"awakeBecause" nullable:"false" doc:"What keeps the session from becoming idle now."`
	NextTransition  *Transition          `json:"nextTransition,omitempty" doc:"The change of state that comes by itself, if nothing happens before."`
	Durability      *frontend.Durability `json:"durability,omitempty" doc:"What would survive the session's node."`
}

// Rested is the answer of POST /sessions/{id}/sleep.
type Rested struct {
	SessionID string         `json:"sessionId"`
	State     frontend.State `json:"state" enum:"idle,deep-sleep"`
}

// Extended is the answer of POST /sessions/{id}/extend.
type Extended struct {
	SessionID string `json:"sessionId"`
	ExpiresAt Time   `json:"expiresAt"`
}

// Transition is a change of a session's state.
type Transition struct {
	To string `json:"to" enum:"idle,deep-sleep,expired"`
	At Time   `json:"at"`
}

// Sessions is the answer of GET /sessions.
type Sessions struct {
	Sessions []Listed `json:"sessions" nullable:"false"`
}

// Deleted is the answer of DELETE /sessions/{id}.
type Deleted struct {
	Deleted   bool   `json:"deleted"`
	SessionID string `json:"sessionId"`
}

// The answers below come from nodes; they are here for the OpenAPI document.

// Execution is what an execution came to.
type Execution struct {
	Stdout        string   `json:"stdout"`
	Stderr        string   `json:"stderr"`
	ExitCode      int      `json:"exitCode" doc:"128 and the signal's number after a death by signal, 124 after a time-out."`
	ExecutionTime float64  `json:"executionTime" doc:"In milliseconds."`
	MemoryUsed    int64    `json:"memoryUsed" doc:"Peak of this execution alone, in bytes."`
	CPUTime       float64  `json:"cpuTime" doc:"Of this execution alone, in milliseconds."`
	TimedOut      bool     `json:"timedOut"`
	FilesWritten  []string `json:"filesWritten" nullable:"false"`
	ExecutionID   string   `json:"executionId"`
	PID           int      `json:"pid"`
	Background    bool     `json:"background" doc:"Whether it stays as a server."`
	Reason        string   `json:"reason,omitzero" enum:"exit,signal,timeout,oom,killed,interrupted" doc:"Why it ended; left out while it has not."`
	Truncated     struct {
		Stdout int64 `json:"stdout"`
		Stderr int64 `json:"stderr"`
	} `json:"truncated" doc:"Bytes cut from the middle of each stream; the whole is at /executions/{id}/output."`
	State string `json:"state,omitzero" enum:"running,background,exited" doc:"Where an execution is looked up."`
}

// Process is a running process of a session.
type Process struct {
	PID         int     `json:"pid"`
	ExecutionID string  `json:"executionId"`
	Command     string  `json:"command"`
	StartedAt   Time    `json:"startedAt"`
	Memory      int64   `json:"memory" doc:"In bytes."`
	CPUTime     float64 `json:"cpuTime" doc:"In milliseconds."`
	Ports       []int   `json:"ports" nullable:"false" doc:"Those it listens on."`
}

// Processes is the answer of GET /processes.
type Processes struct {
	Processes []Process `json:"processes" nullable:"false"`
}

// Killed is the answer of POST /execution/kill.
type Killed struct {
	Killed int   `json:"killed"`
	PIDs   []int `json:"pids" nullable:"false"`
}

// File is an entry of a directory.
type File struct {
	Path     string `json:"path" doc:"Relative to the workspace."`
	Size     int64  `json:"size" doc:"In bytes."`
	Modified Time   `json:"modified"`
	Type     string `json:"type" enum:"file,directory"`
}

// Files is the answer of GET /files/list.
type Files struct {
	Files []File `json:"files" nullable:"false"`
}

// Written is the answer of POST /files/write.
type Written struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
}

// Removed is the answer of DELETE /files.
type Removed struct {
	Deleted bool   `json:"deleted"`
	Path    string `json:"path"`
}

// Unpacked is the answer of PUT /files/archive.
type Unpacked struct {
	Path  string `json:"path"`
	Files int64  `json:"files" doc:"How many files were written."`
	Size  int64  `json:"size" doc:"Of all of them, in bytes."`
}
