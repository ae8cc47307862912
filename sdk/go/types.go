// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"encoding/json"
	"time"
)

// Limits are what a session may use.
type Limits struct {
	Memory  int     `json:"memory"` // MB
	CPU     float64 `json:"cpu"`    // cores
	Timeout int     `json:"timeout"`
	Disk    int     `json:"disk"` // MB
}

// LimitsRequest are limits that are asked for; 0 leaves the default.
type LimitsRequest struct {
	Memory  int     `json:"memory,omitzero"` // MB
	CPU     float64 `json:"cpu,omitzero"`    // cores
	Timeout int     `json:"timeout,omitzero"`
	Disk    int     `json:"disk,omitzero"` // MB
}

// CreateRequest is what a new session is to be. All may be left out.
type CreateRequest struct {
	// TTL is in seconds, from the session's making to its end.
	TTL int `json:"ttl,omitzero"`
	// Metadata is a JSON object, which comes back unchanged.
	Metadata       any            `json:"metadata,omitempty"`
	ResourceLimits *LimitsRequest `json:"resourceLimits,omitempty"`
	// IdempotencyKey names the request, so that it can be made again by another
	// process, too. Default: a new one.
	IdempotencyKey string `json:"-"`
}

// Created is a new session.
type Created struct {
	SessionID      string    `json:"sessionId"`
	ExpiresAt      time.Time `json:"expiresAt"`
	PreviewURL     string    `json:"previewUrl"`
	CreatedAt      time.Time `json:"createdAt"`
	ResourceLimits Limits    `json:"resourceLimits"`
}

// Summary is what is told of a session everywhere.
type Summary struct {
	SessionID  string    `json:"sessionId"`
	CreatedAt  time.Time `json:"createdAt"`
	ExpiresAt  time.Time `json:"expiresAt"`
	LastActive time.Time `json:"lastActive"`
	// State is active, idle or deep-sleep.
	State          string          `json:"state"`
	Metadata       json.RawMessage `json:"metadata"`
	PreviewURL     string          `json:"previewUrl"`
	ResourceLimits Limits          `json:"resourceLimits"`
}

// Listed is a session in a list, with what its node tells of it: all of that is left out
// where it has told nothing.
type Listed struct {
	Summary
	Usage           *Usage      `json:"usage,omitempty"`
	ActiveProcesses *int        `json:"activeProcesses,omitempty"`
	AwakeBecause    []string    `json:"awakeBecause,omitempty"`
	NextTransition  *Transition `json:"nextTransition,omitempty"`
}

// Session is one session, with what it does.
type Session struct {
	Summary
	FilesCount      int         `json:"filesCount"`
	ActiveProcesses int         `json:"activeProcesses"`
	Usage           Usage       `json:"usage"`
	AwakeBecause    []string    `json:"awakeBecause"`
	NextTransition  *Transition `json:"nextTransition,omitempty"`
	Durability      *Durability `json:"durability,omitempty"`
}

// Usage is what a session uses.
type Usage struct {
	Memory  int64   `json:"memory"`  // bytes
	Disk    int64   `json:"disk"`    // bytes
	CPUTime float64 `json:"cpuTime"` // ms
}

// Transition is the change of state that comes by itself.
type Transition struct {
	To string    `json:"to"`
	At time.Time `json:"at"`
}

// Durability is what would survive the session's node.
type Durability struct {
	LastCheckpoint *time.Time `json:"lastCheckpoint,omitempty"`
	Dirty          bool       `json:"dirty"`
	Lost           bool       `json:"lost,omitempty"`
	Problem        string     `json:"problem,omitempty"`
}

// ListOptions choose sessions, newest first.
type ListOptions struct {
	Limit, Offset int
	State         string
	Metadata      map[string]string
}

// Page is a part of a list.
type Page[T any] struct {
	Items []T
	// Total is how many there are on all pages.
	Total int
}

// File is given to an execution.
type File struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

// ExecuteRequest is what to run: either Code or Command.
type ExecuteRequest struct {
	SessionID string            `json:"sessionId"`
	Code      string            `json:"code,omitempty"`
	Command   string            `json:"command,omitempty"`
	Files     []File            `json:"files,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	// Timeout is in seconds; 0 is the session's.
	Timeout    int    `json:"timeout,omitzero"`
	WorkingDir string `json:"workingDir,omitempty"`
	// IdempotencyKey is as in CreateRequest.
	IdempotencyKey string `json:"-"`
	// Started, if not nil, is told the id of an execution whose output is streamed,
	// before any of it has come.
	Started func(executionID string) `json:"-"`
}

// Result is what an execution came to.
type Result struct {
	Stdout   string `json:"stdout"`
	Stderr   string `json:"stderr"`
	ExitCode int    `json:"exitCode"`
	// ExecutionTime and CPUTime are in milliseconds, MemoryUsed is in bytes.
	ExecutionTime float64  `json:"executionTime"`
	MemoryUsed    int64    `json:"memoryUsed"`
	CPUTime       float64  `json:"cpuTime"`
	TimedOut      bool     `json:"timedOut"`
	FilesWritten  []string `json:"filesWritten"`
	ExecutionID   string   `json:"executionId"`
	PID           int      `json:"pid"`
	// Background says that it stays as a server.
	Background bool `json:"background"`
	// Reason is exit, signal, timeout, oom, killed or interrupted.
	Reason    string `json:"reason,omitempty"`
	Truncated struct {
		Stdout int64 `json:"stdout"`
		Stderr int64 `json:"stderr"`
	} `json:"truncated"`
	// State is running, background or exited, where an execution is looked up.
	State string `json:"state,omitempty"`
}

// Process is one that runs in a session.
type Process struct {
	PID         int       `json:"pid"`
	ExecutionID string    `json:"executionId"`
	Command     string    `json:"command"`
	StartedAt   time.Time `json:"startedAt"`
	Memory      int64     `json:"memory"`  // bytes
	CPUTime     float64   `json:"cpuTime"` // ms
	Ports       []int     `json:"ports"`
}

// Killed says what was.
type Killed struct {
	Killed int   `json:"killed"`
	PIDs   []int `json:"pids"`
}

// Entry is one of a directory.
type Entry struct {
	Path     string    `json:"path"`
	Size     int64     `json:"size"`
	Modified time.Time `json:"modified"`
	// Type is file or directory.
	Type string `json:"type"`
}

// Unpacked says what an archive had.
type Unpacked struct {
	Path  string `json:"path"`
	Files int64  `json:"files"`
	Size  int64  `json:"size"`
}
