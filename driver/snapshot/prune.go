// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
)

// requests is how many requests about objects are made at a time.
const requests = 8

// each does something with each of the objects, several at a time.
func (r *Repository) each(ctx context.Context, names []string, do func(context.Context, string) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(requests)
	for _, name := range names {
		g.Go(func() error { return do(ctx, name) })
	}
	return g.Wait()
}

// Prune removes what the store has of a session and the snapshot at keep does not
// need. It is to be called once keep is in the session's record, and not before.
// What is later than keep stays: if it was not this node's to prune any more,
// nothing is lost.
func (r *Repository) Prune(ctx context.Context, s Session, keep Pointer) error {
	if err := r.prune(ctx, s, keep); err != nil {
		return fmt.Errorf("prune session %s: %w", s.ID, err)
	}
	return nil
}

func (r *Repository) prune(ctx context.Context, s Session, keep Pointer) error {
	needed, err := r.names(ctx, s, keep)
	if err != nil {
		return err
	}
	isNeeded := map[string]bool{}
	for _, n := range needed {
		isNeeded[n] = true
	}
	var old []string
	for name, err := range r.store.List(ctx, s.ID) {
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(name, "/")
		folder, _, _ := strings.Cut(rest, "/")
		g, err := parseGeneration(folder)
		if err != nil {
			continue // not ours
		}
		if !isNeeded[name] && !g.after(keep.generation()) {
			old = append(old, name)
		}
	}
	return r.each(ctx, old, r.store.Delete)
}

// names lists all objects of a snapshot.
func (r *Repository) names(ctx context.Context, s Session, p Pointer) ([]string, error) {
	if err := checkID(s.ID); err != nil {
		return nil, err
	}
	var chunks table
	r.mu.Lock()
	known, ok := r.known[s.ID]
	r.mu.Unlock()
	if ok && known.exact && known.base == p.Digest && !p.IsZero() {
		chunks = known.chunks
	} else {
		m, err := r.loadManifest(ctx, s, p)
		if err != nil {
			return nil, err
		}
		chunks = m.chunks
	}
	names := []string{p.manifest(s.ID)}
	for _, o := range chunks.objects() {
		names = append(names, s.ID+"/"+o.name)
	}
	return names, nil
}

// Extend gives the objects of a snapshot another expiry, for a session whose end
// has been put off, and returns the pointer with it. A snapshot that is taken
// later with another Session.Expires does this by itself.
func (r *Repository) Extend(ctx context.Context, s Session, p Pointer, expires time.Time) (Pointer, error) {
	names, err := r.names(ctx, s, p)
	if err == nil {
		err = r.each(ctx, names, func(ctx context.Context, name string) error {
			return r.store.Expire(ctx, name, expires)
		})
	}
	if err != nil {
		return Pointer{}, fmt.Errorf("extend session %s: %w", s.ID, err)
	}
	r.Forget(s.ID) // which has the former expiry
	p.Expires = expires.UTC()
	return p, nil
}

// Remove removes all that the store has of a session, whose record is gone. Should
// it fail, the store's own expiry is left.
func (r *Repository) Remove(ctx context.Context, session string) error {
	if err := checkID(session); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	r.Forget(session)
	var names []string
	for name, err := range r.store.List(ctx, session) {
		if err != nil {
			return fmt.Errorf("remove session %s: %w", session, err)
		}
		names = append(names, name)
	}
	if err := r.each(ctx, names, r.store.Delete); err != nil {
		return fmt.Errorf("remove session %s: %w", session, err)
	}
	return nil
}

// Sessions yields the sessions whose ids begin like that and that the store has
// anything of, for those to be removed whose record is gone. It ends with the first
// error.
func (r *Repository) Sessions(ctx context.Context, beginning string) iter.Seq2[string, error] {
	return r.store.Folders(ctx, beginning)
}
