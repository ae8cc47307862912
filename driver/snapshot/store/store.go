// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package store is what snapshots are kept in: objects of a few megabytes at
// most, whole or not there, each with a time at which the store itself removes
// it. Back-ends are in the packages below; storetest is what each has to pass.
package store

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"regexp"
	"time"
)

// ErrNotExist is returned for an object that is not there, or not any more.
var ErrNotExist = errors.New("object does not exist")

// Store keeps objects by name: file names joined by slashes, as ValidName has
// them. Its methods may be called from any goroutine. A back-end has tried again
// what is worth it before it returns an error.
type Store interface {
	// Put stores data until expires, a time in the future. Once it returns nil the
	// object is durable; before, it is not there at all. Put again, an object of the
	// same name is replaced.
	Put(ctx context.Context, name string, data []byte, expires time.Time) error
	// Get reads len(p) bytes from offset on. An object that ends before that is an
	// error. What is read may be wrong: the caller verifies it.
	Get(ctx context.Context, name string, offset int64, p []byte) error
	// Delete removes an object; that there is none is no error.
	Delete(ctx context.Context, name string) error
	// Expire gives an object another time of its end.
	Expire(ctx context.Context, name string, expires time.Time) error
	// List yields the objects below a folder ("a" or "a/b"), in no order, and ends
	// with the first error.
	List(ctx context.Context, folder string) iter.Seq2[string, error]
	// Folders yields the first part of the names that there are and begin like that,
	// each once. It asks for no others: there may be millions.
	Folders(ctx context.Context, beginning string) iter.Seq2[string, error]
}

var validName = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}(/[A-Za-z0-9_-][A-Za-z0-9_.-]{0,99}){0,7}$`)

// ValidName returns an error if an object cannot have that name: nothing hidden,
// nothing that means something else to a file system or in a URL.
func ValidName(name string) error {
	if !validName.MatchString(name) {
		return fmt.Errorf("%q cannot name an object", name)
	}
	return nil
}
