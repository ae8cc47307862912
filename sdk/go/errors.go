// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package buntime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// Codes of errors that come from the client itself, where the API has said nothing that
// it could pass on. All others are the API's: see docs/answers.md.
const (
	// CodeConnection: there was no connection, or it broke.
	CodeConnection = "connection_error"
	// CodeClientTimeout: the answer did not come in time.
	CodeClientTimeout = "client_timeout"
	// CodeTerminalClosed: the server has closed a terminal, and said why.
	CodeTerminalClosed = "terminal_closed"
	// CodeInvalidResponse: the answer was none of the API's.
	CodeInvalidResponse = "invalid_response"
)

// Error is what a call has failed with.
type Error struct {
	// Code says what went wrong, for programs.
	Code string
	// Status is the answer's; 0 where none came.
	Status int
	// Message says what went wrong, for people.
	Message string
	// Details has "field" for bad input, "done" where something may be missing, and
	// "result" of an execution that ran out of memory.
	Details map[string]any
	// RetryAfter, if not zero, is how long the server says to wait.
	RetryAfter time.Duration
	// RequestID names the request in the operator's logs.
	RequestID string

	cause error
}

// Error implements error.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the connection's error, if that was it.
func (e *Error) Unwrap() error { return e.cause }

// Is says whether err is an *Error of a code.
func Is(err error, code string) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Code == code
}

// envelope is the form of the API's errors.
type envelope struct {
	Error struct {
		Code    string         `json:"code"`
		Message string         `json:"message"`
		Details map[string]any `json:"details"`
	} `json:"error"`
}

// longestError is more than an answer that is an error has, unless it has the output of
// an execution.
const longestError = 16 << 20

// refusal is the error that an answer is.
func refusal(what string, res *http.Response) error {
	e := &Error{Code: CodeInvalidResponse, Status: res.StatusCode, Message: fmt.Sprintf("%s: answer %s", what, res.Status), RequestID: res.Header.Get("X-Request-Id")}
	if seconds, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, longestError))
	var said envelope
	if err == nil && json.Unmarshal(text, &said) == nil && said.Error.Code != "" {
		e.Code, e.Message, e.Details = said.Error.Code, said.Error.Message, said.Error.Details
	}
	return e
}

// broken is the error of a call whose connection has failed, or whose time is over.
func broken(ctx context.Context, what string, err error) error {
	if own, ok := errors.AsType[*Error](err); ok {
		return own
	}
	if ctx.Err() != nil {
		if late, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
			return late
		}
		return fmt.Errorf("%s: %w", what, context.Cause(ctx))
	}
	return &Error{Code: CodeConnection, Message: fmt.Sprintf("%s: %v", what, err), cause: err}
}

// notDone says whether it is certain that the server has done nothing, and may do it
// later.
func (e *Error) notDone() bool {
	switch e.Code {
	case CodeConnection:
		if op, ok := errors.AsType[*net.OpError](e.cause); ok && op.Op == "dial" {
			return true
		}
		return errors.Is(e.cause, syscall.ECONNREFUSED)
	case "service_unavailable":
		return e.Details["done"] == "no"
	case "rate_limit_exceeded":
		return e.RetryAfter > 0
	}
	return false
}

// mayRepeat says whether a call may be made again after the error.
func (e *Error) mayRepeat(r repeat) bool {
	if e.notDone() {
		return true
	}
	if r != always {
		return false
	}
	switch e.Status {
	case 0:
		return e.Code == CodeConnection || e.Code == CodeClientTimeout
	case http.StatusTooManyRequests: // without Retry-After it is a limit that time does not lift
		return e.RetryAfter > 0
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// Partial is what an execution had come to that ended with the error, or nil.
func (e *Error) Partial() *Result {
	said, ok := e.Details["result"]
	if !ok {
		return nil
	}
	text, err := json.Marshal(said)
	var r Result
	if err != nil || json.Unmarshal(text, &r) != nil {
		return nil
	}
	return &r
}
