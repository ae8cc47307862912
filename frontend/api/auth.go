// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/keys"
)

// Keys finds API keys.
type Keys interface {
	// Find returns what the key with a hash allows, if there is one. An error says
	// that this is not known at the moment.
	Find(sum keys.Sum) (frontend.Key, bool, error)
	// Loaded says whether all keys are known.
	Loaded() bool
}

// find returns the key that a request carries, and a name for it that is no
// secret.
func (s *Server) find(r *http.Request) (key frontend.Key, name string, known bool, err error) {
	sum, ok := s.sumOf(r)
	if !ok {
		return key, "", false, nil
	}
	key, known, err = s.Keys.Find(sum)
	if err != nil {
		err = fmt.Errorf("%w; %w", frontend.Unavailable("the API keys are not known at the moment; try again"), err)
	}
	return key, "key " + string(sum[:]), known, err
}

// sumOf is the hash of the key that a request carries, or has a ticket for.
func (s *Server) sumOf(r *http.Request) (keys.Sum, bool) {
	if text, ok := door.Key(r.Header); ok {
		return keys.SumOf(text), true
	}
	return s.presented(r)
}

type keyContext struct{}

// caller is the key of the request that a context belongs to.
func caller(ctx context.Context) frontend.Key {
	key, _ := ctx.Value(keyContext{}).(frontend.Key)
	return key
}
