// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"syscall"

	"github.com/buntime/buntime/driver/metrics"
)

// Error is an answer that is no success, in the shape that clients see: the
// front-end passes it on as it is.
type Error struct {
	// Status is the HTTP status.
	Status int `json:"-"`
	// Code is one of the API's error codes.
	Code string `json:"code"`
	// Message says what was being done to what, and what the reader can do.
	Message string `json:"message"`
	// Details has "field" for bad input, "done" where that is a question, and the
	// partial result where an execution was cut short.
	Details map[string]any `json:"details,omitempty"`
	// RetryAfter is in seconds; 0 says nothing about it.
	RetryAfter int `json:"-"`
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func invalid(field, format string, args ...any) *Error {
	return &Error{
		Status: http.StatusBadRequest, Code: "invalid_request",
		Message: fmt.Sprintf(format, args...), Details: map[string]any{"field": field},
	}
}

func notFound(code, format string, args ...any) *Error {
	return &Error{Status: http.StatusNotFound, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Whether what was asked for was done, in the details of an error and, for the
// front-end, in a header.
const (
	doneHeader  = "Buntime-Done"
	doneNo      = "no"
	doneUnknown = "unknown"
)

// codeHeader tells the front-end the code of an error, which it passes on unread.
const codeHeader = "Buntime-Code"

// unavailable says that nothing was done, and may be soon.
func unavailable(format string, args ...any) *Error {
	return &Error{
		Status: http.StatusServiceUnavailable, Code: "service_unavailable",
		Message: fmt.Sprintf(format, args...), Details: map[string]any{"done": doneNo}, RetryAfter: 1,
	}
}

// unsure says that nobody knows what was done.
func unsure(format string, args ...any) *Error {
	e := unavailable(format, args...)
	e.Details["done"] = doneUnknown
	return e
}

// unknown says whether an error is of unsure's.
func unknown(err error) bool { return asError(err).Details["done"] == doneUnknown }

// errGone is the answer to a front-end that comes to where a session was. It looks
// where the session is now.
var errGone = &Error{Status: http.StatusGone, Code: "service_unavailable", Message: "the session has left this node", RetryAfter: 1}

// notAwake is the answer to who comes to a session that cannot be woken here.
func notAwake(err error) *Error {
	if errors.Is(err, errAsleep) {
		return errGone
	}
	return unavailable("%v", err)
}

// asError gives any error the shape of an answer. What is not an Error already
// is our own fault and says so, but for what a disk says: that of a session that has
// woken lies in the object store in part.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if errors.Is(err, syscall.EIO) {
		return unsure("%v: its files could not be read from the object store, or from the node's disk; try again", err)
	}
	return &Error{Status: http.StatusInternalServerError, Code: "internal_error", Message: err.Error()}
}

type envelope struct {
	Error *Error `json:"error"`
}

func writeError(w http.ResponseWriter, err error) {
	e := asError(err)
	metrics.Refused(e.Code)
	w.Header().Set(codeHeader, e.Code)
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.RetryAfter))
	}
	writeJSON(w, e.Status, envelope{e})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	// A client that is gone does not read the answer; nothing is to be done.
	_, _ = w.Write(body)
}
