// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/buntime/buntime/frontend"
)

const (
	// sessionTimeout and fileTimeout are how long operations may take (api.md).
	sessionTimeout = 10 * time.Second
	fileTimeout    = 30 * time.Second
)

// add registers an operation: with its body in the OpenAPI document if its
// input has one, and with errors as clients are told them.
func add[I, O any](api huma.API, op huma.Operation, do func(context.Context, *I) (*O, error)) {
	op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusUnauthorized, http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	if _, ok := any(new(I)).(bodied); ok {
		op.Errors = append(op.Errors, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	op.RejectUnknownQueryParameters = !acceptsAnyQuery[I]()
	huma.Register(api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := do(ctx, in)
		if err != nil {
			err = told(ctx, err)
		}
		return out, err
	})
	documentBody[I](api, op)
	// huma's status for bad parameters; ours is 400 (errors.go).
	delete(operation(api, op).Responses, "422")
}

// operation is an operation as the OpenAPI document has it.
func operation(api huma.API, op huma.Operation) *huma.Operation {
	item := api.OpenAPI().Paths[op.Path]
	return map[string]*huma.Operation{
		http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodDelete: item.Delete,
	}[op.Method]
}

// within gives a handler its deadline.
func within[I, O any](d time.Duration, do func(context.Context, *I) (*O, error)) func(context.Context, *I) (*O, error) {
	return func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, d, tooLate(d))
		defer cancel()
		out, err := do(ctx, in)
		if err != nil {
			return nil, told(ctx, err)
		}
		return out, nil
	}
}

// tooLate is the answer to a request that has not been served in time.
func tooLate(d time.Duration) *frontend.Error {
	return frontend.Errorf(frontend.CodeRequestTimeout, "not done within %v", d).Unsure()
}

// told logs an error that is our own fault and returns what the client is told.
func told(ctx context.Context, err error) error {
	if f, ok := errors.AsType[*Failure](err); ok {
		return f // was told already, where more was known of it
	}
	e := explain(ctx, err)
	if w, ok := ctx.Value(writerContext{}).(*writer); ok {
		w.code = string(e.Code)
	}
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		logger(ctx).Debug("client went away", "err", err)
	case e.Code == frontend.CodeInternal:
		logger(ctx).Error("request failed", "err", err)
	case e.Code == frontend.CodeServiceUnavailable:
		logger(ctx).Warn("request not served", "err", err)
	}
	return &Failure{e, err}
}

// bodied is an input with a JSON body.
type bodied interface{ bodyType() reflect.Type }

func (*JSON[T]) bodyType() reflect.Type { return reflect.TypeFor[T]() }

// documentBody puts the type that the input decodes its body into in the
// OpenAPI document.
func documentBody[I any](api huma.API, op huma.Operation) {
	in, ok := any(new(I)).(bodied)
	if !ok {
		return
	}
	registry := api.OpenAPI().Components.Schemas
	operation(api, op).RequestBody = &huma.RequestBody{
		Content: map[string]*huma.MediaType{
			"application/json": {Schema: registry.Schema(in.bodyType(), true, op.OperationID+"Request")},
		},
	}
}

// anyQuery is an input that reads query parameters whose names are not fixed.
type anyQuery interface{ anyQuery() }

func acceptsAnyQuery[I any]() bool {
	_, ok := any(new(I)).(anyQuery)
	return ok
}

// answers is a response of an operation that relays what a node says.
func answers[T any](api huma.API, kinds ...string) map[string]*huma.Response {
	schema := api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[T](), true, "")
	content := map[string]*huma.MediaType{"application/json": {Schema: schema}}
	for _, kind := range kinds {
		content[kind] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	return map[string]*huma.Response{"200": {Description: http.StatusText(http.StatusOK), Content: content}}
}

// bytesOf is the same for what is no JSON.
func bytesOf(kind string) map[string]*huma.Response {
	return map[string]*huma.Response{"200": {
		Description: http.StatusText(http.StatusOK),
		Content:     map[string]*huma.MediaType{kind: {Schema: &huma.Schema{Type: huma.TypeString}}},
	}}
}

// total is the header with the number of entries on all pages.
func total(what string) map[string]*huma.Header {
	return map[string]*huma.Header{"X-Total-Count": {
		Description: fmt.Sprintf("How many %s there are on all pages.", what),
		Schema:      &huma.Schema{Type: huma.TypeInteger},
	}}
}
