// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/buntime/buntime/frontend"
)

// Failure is the envelope of every answer that is no success.
type Failure struct {
	Err *frontend.Error `json:"error"`
	// why is what the client is not told, if there is anything.
	why error
}

// Unwrap returns why it came to this.
func (f *Failure) Unwrap() error { return f.why }

// Error implements error.
func (f *Failure) Error() string { return f.Err.Error() }

// GetStatus implements huma.StatusError.
func (f *Failure) GetStatus() int { return f.Err.Code.Status() }

// GetHeaders implements huma.HeadersError.
func (f *Failure) GetHeaders() http.Header {
	if f.Err.RetryAfter <= 0 {
		return nil
	}
	seconds := int(math.Ceil(f.Err.RetryAfter.Seconds()))
	return http.Header{"Retry-After": {strconv.Itoa(seconds)}}
}

// huma has one place for the shape of the errors that it finds itself.
func init() {
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return &Failure{Err: fromHuma(status, message, errs)}
	}
}

// fromHuma is the error for what huma has found wrong with a request: that of
// our own checks if one of them was it, else the first about a parameter.
func fromHuma(status int, message string, errs []error) *frontend.Error {
	for _, err := range errs {
		if e, ok := errors.AsType[*frontend.Error](err); ok {
			return e
		}
		if d, ok := errors.AsType[*huma.ErrorDetail](err); ok {
			_, field, _ := strings.Cut(d.Location, ".")
			return frontend.Invalid(field, "%s: %s", field, d.Message)
		}
	}
	if status >= 500 {
		return internal()
	}
	return frontend.Errorf(frontend.CodeInvalidRequest, "%s", message)
}

func internal() *frontend.Error {
	return frontend.Errorf(frontend.CodeInternal, "something went wrong on our side; the request id tells the operator what")
}

// explain turns any error of a request into what its client is told. The
// request's own deadline carries its answer as its cause.
func explain(ctx context.Context, err error) *frontend.Error {
	if e, ok := errors.AsType[*frontend.Error](err); ok {
		return e
	}
	if ctx.Err() != nil {
		if e, ok := errors.AsType[*frontend.Error](context.Cause(ctx)); ok {
			return e
		}
		return frontend.Errorf(frontend.CodeRequestTimeout, "the request was given up")
	}
	if errors.Is(err, frontend.ErrUnavailable) {
		return frontend.Unsure("a part of the service does not answer; try again")
	}
	return internal()
}
