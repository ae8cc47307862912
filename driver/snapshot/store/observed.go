// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package store

import (
	"context"
	"iter"
	"time"
)

// Observer is told of each call of a Store once it is over: what was called ("put",
// "get", "delete", "expire", "list" or "folders"), how many bytes were to be stored or
// read, how long that took, tries included, and how it ended. It must not block.
type Observer func(operation string, bytes int, took time.Duration, err error)

// Observed is s, of whose calls somebody is told.
func Observed(s Store, tell Observer) Store { return observed{s, tell} }

type observed struct {
	Store
	tell Observer
}

// Put implements Store.
func (o observed) Put(ctx context.Context, name string, data []byte, expires time.Time) error {
	begin := time.Now()
	err := o.Store.Put(ctx, name, data, expires)
	o.done(ctx, "put", len(data), begin, err)
	return err
}

// Get implements Store.
func (o observed) Get(ctx context.Context, name string, offset int64, p []byte) error {
	begin := time.Now()
	err := o.Store.Get(ctx, name, offset, p)
	o.done(ctx, "get", len(p), begin, err)
	return err
}

// Delete implements Store.
func (o observed) Delete(ctx context.Context, name string) error {
	begin := time.Now()
	err := o.Store.Delete(ctx, name)
	o.done(ctx, "delete", 0, begin, err)
	return err
}

// Expire implements Store.
func (o observed) Expire(ctx context.Context, name string, expires time.Time) error {
	begin := time.Now()
	err := o.Store.Expire(ctx, name, expires)
	o.done(ctx, "expire", 0, begin, err)
	return err
}

// List implements Store.
func (o observed) List(ctx context.Context, folder string) iter.Seq2[string, error] {
	return o.each(ctx, "list", o.Store.List(ctx, folder))
}

// Folders implements Store.
func (o observed) Folders(ctx context.Context, beginning string) iter.Seq2[string, error] {
	return o.each(ctx, "folders", o.Store.Folders(ctx, beginning))
}

// each counts the time of the store, not that of who takes what it yields.
func (o observed) each(ctx context.Context, operation string, names iter.Seq2[string, error]) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var took time.Duration
		var last error
		begin := time.Now()
		for name, err := range names {
			took, last = took+time.Since(begin), err
			if !yield(name, err) {
				break
			}
			begin = time.Now()
		}
		o.done(ctx, operation, 0, time.Now().Add(-took), last)
	}
}

// done tells of a call, unless it was given up by who called: that is no news of the store.
func (o observed) done(ctx context.Context, operation string, bytes int, begin time.Time, err error) {
	if err != nil && ctx.Err() == context.Canceled {
		return
	}
	if err != nil {
		bytes = 0
	}
	o.tell(operation, bytes, time.Since(begin), err)
}
