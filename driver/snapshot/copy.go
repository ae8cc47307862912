// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/buntime/buntime/driver/snapshot/store"
)

// Copy copies the objects of a snapshot to another store, as they are, sealed and with the
// snapshot's expiry, and returns how many bytes they are. That the manifest is the one
// pointed at is verified; what is in the others is when they are restored from.
func (r *Repository) Copy(ctx context.Context, s Session, p Pointer, to store.Store) (int64, error) {
	n, err := r.copy(ctx, s, p, to)
	if err != nil {
		return n, fmt.Errorf("copy snapshot of session %s: %w", s.ID, err)
	}
	return n, nil
}

func (r *Repository) copy(ctx context.Context, s Session, p Pointer, to store.Store) (int64, error) {
	if err := checkID(s.ID); err != nil {
		return 0, err
	}
	m, err := r.loadManifest(ctx, s, p)
	if err != nil {
		return 0, err
	}
	sizes := map[string]int64{}
	var names []string
	for _, o := range m.chunks.objects() {
		name := s.ID + "/" + o.name
		names, sizes[name] = append(names, name), int64(o.size)
	}
	var copied atomic.Int64
	one := func(ctx context.Context, name string) error {
		data := make([]byte, sizes[name])
		if err := r.store.Get(ctx, name, 0, data); err != nil {
			return err
		}
		copied.Add(int64(len(data)))
		return to.Put(ctx, name, data, p.Expires)
	}
	if err := r.each(ctx, names, one); err != nil {
		return copied.Load(), err
	}
	sizes[p.manifest(s.ID)] = p.Length // last: with it the copy is whole
	return copied.Load() + p.Length, one(ctx, p.manifest(s.ID))
}
