// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/frontend"
)

// uploadTimeout is how long a body may take to arrive.
const uploadTimeout = 30 * time.Second

// JSON is the part of an operation's input that is its JSON body. An empty
// body is an empty object.
type JSON[T any] struct {
	value T
	// sum is a hash of the body, of a request with an Idempotency-Key.
	sum [sha256.Size]byte
}

// Resolve implements huma.Resolver: it reads the body.
func (j *JSON[T]) Resolve(ctx huma.Context) []error {
	door.ArriveBy(ctx.Context(), time.Now().Add(uploadTimeout))
	body, err := io.ReadAll(ctx.BodyReader())
	if err == nil && len(body) > 0 {
		if err = checkType(ctx.Header("Content-Type"), ctx.Header("Content-Encoding")); err == nil {
			err = decode(body, &j.value)
		}
	}
	if err == nil && ctx.Header(keyHeader) != "" {
		j.sum = sha256.Sum256(body)
	}
	if err != nil {
		return []error{unreadable(err)}
	}
	return nil
}

func checkType(header, encoding string) error {
	if encoding != "" && !strings.EqualFold(encoding, "identity") {
		return frontend.Errorf(frontend.CodeMediaType, "send the body as it is, not with Content-Encoding: %.100s", encoding)
	}
	kind, parameters, err := mime.ParseMediaType(header)
	charset := parameters["charset"]
	if err != nil || kind != "application/json" || charset != "" && !strings.EqualFold(charset, "utf-8") {
		return frontend.Errorf(frontend.CodeMediaType, "send the body as JSON with Content-Type: application/json, not %q", header)
	}
	return nil
}

// unreadable is the error for a body that could not be read or decoded.
func unreadable(err error) *frontend.Error {
	if e, ok := errors.AsType[*frontend.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return tooLarge(e.Limit)
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		return frontend.Errorf(frontend.CodeRequestTimeout, "the request has not arrived within %v", uploadTimeout)
	}
	return frontend.Invalid("body", "the request cannot be read: %v", err)
}

func tooLarge(limit int64) *frontend.Error {
	return frontend.Errorf(frontend.CodeFileTooLarge, "the request has more than the %d bytes that this key allows", limit)
}

// decode reads a JSON object into v, a pointer to a struct. It takes nothing
// that is ambiguous: no unknown, misspelt or repeated member, no invalid
// UTF-8, no second value.
func decode(body []byte, v any) error {
	err := json.Unmarshal(body, v, json.RejectUnknownMembers(true))
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		return mismatch(e)
	}
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		field := fieldOf(e.JSONPointer)
		return frontend.Invalid(field, "%s: %v, at byte %d of the request", field, e.Err, e.ByteOffset)
	}
	return frontend.Invalid("body", "the request is no JSON: %v", err)
}

// mismatch is the error for JSON that is well-formed but not what is wanted.
func mismatch(e *json.SemanticError) error {
	field := fieldOf(e.JSONPointer)
	var own *frontend.Error
	switch {
	case errors.As(e.Err, &own):
		return frontend.Invalid(field, "%s %s", field, own.Message)
	case errors.Is(e.Err, json.ErrUnknownName):
		return frontend.Invalid(field, "there is no field %s here", field)
	case e.GoType != nil:
		return frontend.Invalid(field, "%s must be %s", field, nameOf(e.GoType))
	}
	return frontend.Invalid(field, "%s: %v", field, e.Err)
}

// fieldOf is a JSON pointer as clients write it: files[0].path.
func fieldOf(p jsontext.Pointer) string {
	var b strings.Builder
	last := ""
	for token := range p.Tokens() {
		switch _, err := strconv.Atoi(token); {
		case err == nil && last == "files":
			fmt.Fprintf(&b, "[%s]", token)
		case b.Len() > 0:
			b.WriteString("." + token)
		default:
			b.WriteString(token)
		}
		last = token
	}
	const most = 200 // of the client's own text in a message
	switch {
	case b.Len() == 0:
		return "body"
	case b.Len() > most:
		return strings.ToValidUTF8(b.String()[:most], "") + "…"
	}
	return b.String()
}

// nameOf says in words what JSON a Go type is read from.
func nameOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return nameOf(t.Elem())
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	case reflect.Slice:
		return "a list"
	}
	return "an object"
}
