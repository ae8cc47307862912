// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"
)

// What a Store, a Scheduler or a Node says when it cannot do what it was asked.
var (
	// ErrNotFound says that there is no such record.
	ErrNotFound = errors.New("not found")
	// ErrExists says that a record or job of that name is there already.
	ErrExists = errors.New("exists already")
	// ErrConflict says that the record was changed since it was read.
	ErrConflict = errors.New("changed since it was read")
	// ErrUnavailable says that a part that is needed does not answer. Trying
	// again may help.
	ErrUnavailable = errors.New("unavailable")
	// ErrAway says that a session does not answer where its record has it: its node
	// is away for a moment, or the session has moved or gone to sleep.
	ErrAway = errors.New("session does not answer where it was")
	// ErrAsleep says that a session sleeps, and was not to be woken.
	ErrAsleep = errors.New("session sleeps")
)

// Code is an error code of the API.
type Code string

// The error codes of the API.
const (
	CodeInvalidRequest      Code = "invalid_request"
	CodeUnauthorized        Code = "unauthorized"
	CodeForbidden           Code = "forbidden"
	CodeSessionNotFound     Code = "session_not_found"
	CodeFileNotFound        Code = "file_not_found"
	CodeExecutionNotFound   Code = "execution_not_found"
	CodeNotFound            Code = "not_found"
	CodeMethodNotAllowed    Code = "method_not_allowed"
	CodeExecutionTimeout    Code = "execution_timeout"
	CodeRequestTimeout      Code = "request_timeout"
	CodeSessionBusy         Code = "session_busy"
	CodeIdempotencyConflict Code = "idempotency_conflict"
	CodeFileTooLarge        Code = "file_too_large"
	CodeMediaType           Code = "unsupported_media_type"
	CodeRateLimit           Code = "rate_limit_exceeded"
	CodeSessionLimit        Code = "session_limit_exceeded"
	CodeInternal            Code = "internal_error"
	CodeServiceUnavailable  Code = "service_unavailable"
	CodeMemoryLimitExceeded Code = "memory_limit_exceeded"
	CodeDiskFull            Code = "disk_full"
)

var statuses = map[Code]int{
	CodeInvalidRequest:      http.StatusBadRequest,
	CodeUnauthorized:        http.StatusUnauthorized,
	CodeForbidden:           http.StatusForbidden,
	CodeSessionNotFound:     http.StatusNotFound,
	CodeFileNotFound:        http.StatusNotFound,
	CodeExecutionNotFound:   http.StatusNotFound,
	CodeNotFound:            http.StatusNotFound,
	CodeMethodNotAllowed:    http.StatusMethodNotAllowed,
	CodeExecutionTimeout:    http.StatusRequestTimeout,
	CodeRequestTimeout:      http.StatusRequestTimeout,
	CodeSessionBusy:         http.StatusConflict,
	CodeIdempotencyConflict: http.StatusConflict,
	CodeFileTooLarge:        http.StatusRequestEntityTooLarge,
	CodeMediaType:           http.StatusUnsupportedMediaType,
	CodeRateLimit:           http.StatusTooManyRequests,
	CodeSessionLimit:        http.StatusTooManyRequests,
	CodeInternal:            http.StatusInternalServerError,
	CodeServiceUnavailable:  http.StatusServiceUnavailable,
	CodeMemoryLimitExceeded: http.StatusInsufficientStorage,
	CodeDiskFull:            http.StatusInsufficientStorage,
}

// Codes are all that there are.
func Codes() []Code { return slices.Sorted(maps.Keys(statuses)) }

// Status is the HTTP status that goes with a code.
func (c Code) Status() int {
	if s, ok := statuses[c]; ok {
		return s
	}
	return http.StatusInternalServerError
}

// Error is what a client is told. Its message says what was wrong with what,
// and what the reader can do.
type Error struct {
	Code    Code   `json:"code" doc:"What went wrong, for programs."`
	Message string `json:"message" doc:"What went wrong, for people."`
	// Details has "field" for bad input, and "done" where something may be missing.
	Details map[string]any `json:"details,omitempty" doc:"More about it. field names the input that was refused. done is no where nothing of the request was done and it can be sent again as it is, and unknown where it may have been done or may be yet. result is what an execution had come to that ran out of memory."`
	// RetryAfter, if not zero, is how long to wait before trying again.
	RetryAfter time.Duration `json:"-"`
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalid is the Error about one field of a request.
func Invalid(field, format string, args ...any) *Error {
	return Errorf(CodeInvalidRequest, format, args...).at(field)
}

// Whether what was asked for was done, as an Error's details say it.
const (
	// doneNo: nothing was, and it can be asked for again.
	doneNo = "no"
	// doneUnknown: it may have been, in whole or in part, or may be yet.
	doneUnknown = "unknown"
)

// Unavailable is the Error for when nothing can be done now, nor was, but may be soon.
func Unavailable(format string, args ...any) *Error {
	e := Errorf(CodeServiceUnavailable, format, args...).done(doneNo)
	e.RetryAfter = time.Second
	return e
}

// Unsure is the Error for when nobody knows what was done.
func Unsure(format string, args ...any) *Error {
	return Unavailable(format, args...).Unsure()
}

// Unsure says of the Error that what was asked for may have been done.
func (e *Error) Unsure() *Error { return e.done(doneUnknown) }

func (e *Error) done(word string) *Error {
	if e.Details == nil {
		e.Details = map[string]any{}
	}
	e.Details["done"] = word
	return e
}

// NoSession is the Error for an id that names no session of the caller.
func NoSession(id string) *Error {
	const most = 64 // the caller's own text need not come back at any length
	if len(id) > most {
		id = id[:most] + "…"
	}
	return Errorf(CodeSessionNotFound, "there is no session %q: it has expired, was deleted, or never was", id)
}

func (e *Error) at(field string) *Error {
	e.Details = map[string]any{"field": field}
	return e
}
