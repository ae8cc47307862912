// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package backup copies what outlasts the nodes, records in Consul and snapshots in the
// object store, to a directory, and back into a Consul that is empty.
//
// A copy of the one and a copy of the other do not fit together: a session that goes on
// takes another snapshot in between, and what the older one alone needs is removed. So each
// session is copied by itself: its record, its snapshot, and the record again; if that
// points elsewhere by then, once more. What an unchanged record points at was there all
// the time.
package backup

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/driver/snapshot/store"
	"github.com/buntime/buntime/driver/snapshot/store/dir"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/consul"
)

const (
	// form is of the files here.
	form = 1
	// tries is how often a session is copied whose snapshot is replaced meanwhile.
	tries = 10
	// raise is added to the epoch of a session that is restored: more lives than it can
	// have had since the backup, so that none comes twice, whatever of them is left on
	// nodes and in the store.
	raise = 1 << 20
	// sweepEvery is how often the directory is rid of what has expired.
	sweepEvery = time.Hour
)

// others are the folders in Consul that are copied as they are: API keys and receipts.
var others = []string{"api-keys/", "receipts/", "receipts-end/"}

// about is the file about.json.
type about struct {
	Form  int               `json:"form"`
	Taken time.Time         `json:"taken"`
	Other map[string][]byte `json:"other"`
}

// Result is what was done.
type Result struct {
	Sessions, Copied int   // in the backup; with another snapshot than in the one before
	Bytes            int64 // of Copied
	// Without are sessions that are not in it: nothing of them was stored yet.
	Without []string
}

// target is a backup.
type target struct {
	path    string
	objects *dir.Store
}

func open(path string) (*target, error) {
	objects, err := dir.New(filepath.Join(path, "objects"), sweepEvery)
	if err != nil {
		return nil, err
	}
	return &target{path: path, objects: objects}, nil
}

func (t *target) file(id string) string { return filepath.Join(t.path, "sessions", id+".json") }

// read reads what the backup has of a session; nil if it has nothing.
func (t *target) read(id string) (*consul.Stored, error) {
	text, err := os.ReadFile(t.file(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	stored := new(consul.Stored)
	if err := json.Unmarshal(text, stored); err != nil {
		return nil, fmt.Errorf("decode %s: %w", t.file(id), err)
	}
	if stored.Record == nil || stored.Record.ID != id {
		return nil, fmt.Errorf("decode %s: it has no record of %s", t.file(id), id)
	}
	return stored, nil
}

// write puts a file in place whole, readable by its owner alone: it has keys in it.
func write(path string, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Save makes the directory a copy of what there is. One that has a backup is brought up to
// date, and what is gone goes from it.
func Save(ctx context.Context, records *consul.Store, objects store.Store, path string) (r Result, err error) {
	t, err := open(path)
	if err != nil {
		return r, fmt.Errorf("open backup: %w", err)
	}
	defer func() { err = errors.Join(err, t.objects.Close()) }()
	repository, err := snapshot.New(objects, snapshot.Config{})
	if err != nil {
		return r, err
	}
	taken := time.Now().UTC()
	all, err := records.All(ctx, "")
	if err != nil {
		return r, fmt.Errorf("list sessions: %w", err)
	}
	saved := map[string]bool{}
	for _, sess := range all {
		n, err := t.save(ctx, records, repository, sess.ID)
		switch {
		case errors.Is(err, consul.ErrGone):
			continue
		case errors.Is(err, errNothing):
			r.Without = append(r.Without, sess.ID)
			continue
		case err != nil:
			return r, fmt.Errorf("back up %s: %w", sess.ID, err)
		}
		saved[sess.ID] = true
		if r.Sessions++; n > 0 {
			r.Copied++
			r.Bytes += n
		}
	}
	a := about{Form: form, Taken: taken, Other: map[string][]byte{}}
	for _, folder := range others {
		some, err := records.Raw(ctx, folder)
		if err != nil {
			return r, err
		}
		maps.Copy(a.Other, some)
	}
	if len(all)+len(a.Other) == 0 {
		if err := t.empty(); err != nil {
			return r, err
		}
	}
	if err := t.forget(ctx, saved); err != nil {
		return r, fmt.Errorf("remove from backup what is gone: %w", err)
	}
	return r, write(filepath.Join(path, "about.json"), a)
}

// errNothing says that nothing of a session is stored.
var errNothing = errors.New("nothing of it is stored")

// save copies a session, if the backup does not have its snapshot yet.
func (t *target) save(ctx context.Context, records *consul.Store, from *snapshot.Repository, id string) (n int64, err error) {
	before, err := t.read(id)
	if err != nil {
		return 0, err
	}
	now, err := records.Stored(ctx, id)
	for range tries {
		if err != nil {
			return 0, err
		}
		if now.Rest.Snapshot.IsZero() {
			return 0, errNothing
		}
		if before != nil && before.Rest.Snapshot == now.Rest.Snapshot {
			return 0, write(t.file(id), now)
		}
		s, kerr := sealed(now)
		if kerr != nil {
			return 0, kerr
		}
		var cerr error
		n, cerr = from.Copy(ctx, s, now.Rest.Snapshot, t.objects)
		again, err := records.Stored(ctx, id)
		if err != nil {
			return 0, err
		}
		if again.Rest.Snapshot != now.Rest.Snapshot { // it may have been pruned meanwhile
			now = again
			continue
		}
		if cerr != nil {
			return 0, cerr
		}
		if err := write(t.file(id), now); err != nil {
			return 0, err
		}
		return n, t.prune(ctx, s, now.Rest.Snapshot)
	}
	return 0, fmt.Errorf("its snapshot was replaced %d times while it was copied", tries)
}

// sealed is whose snapshots they are, with the key.
func sealed(s consul.Stored) (snapshot.Session, error) {
	out := snapshot.Session{ID: s.Record.ID, Expires: s.Record.Expires}
	if err := json.Unmarshal(s.Key, &out.Key); err != nil {
		return out, fmt.Errorf("read its key: %w", err)
	}
	return out, nil
}

func (t *target) prune(ctx context.Context, s snapshot.Session, keep snapshot.Pointer) error {
	r, err := snapshot.New(t.objects, snapshot.Config{})
	if err != nil {
		return err
	}
	return r.Prune(ctx, s, keep)
}

// sessions are the ids that the backup has.
func (t *target) sessions() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(t.path, "sessions"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), ".json"); ok && frontend.ValidID(id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// empty returns an error if the backup has sessions. A Consul that has nothing may have
// lost it: then the backup is all there is, and the next run of a timer is not to empty it.
func (t *target) empty() error {
	ids, err := t.sessions()
	if err == nil && len(ids) > 0 {
		err = fmt.Errorf("there are neither sessions, API keys nor receipts in Consul, and the backup has %d sessions: nothing was changed; "+
			"look at consul.address and consul.prefix, restore, or remove %s if it is of no use any more", len(ids), t.path)
	}
	return err
}

// forget removes all sessions but some: their keys first, without which the rest is noise.
func (t *target) forget(ctx context.Context, but map[string]bool) error {
	ids, err := t.sessions()
	if err != nil {
		return err
	}
	for _, id := range ids {
		if !but[id] {
			if err := os.Remove(t.file(id)); err != nil {
				return err
			}
		}
	}
	r, err := snapshot.New(t.objects, snapshot.Config{})
	if err != nil {
		return err
	}
	for id, err := range t.objects.Folders(ctx, "") {
		if err != nil {
			return err
		}
		if !but[id] {
			if err := r.Remove(ctx, id); err != nil {
				return err
			}
		}
	}
	return nil
}

// Load brings a backup into a Consul that has no sessions and no front-end that leads, and
// into the object store. Every session sleeps then, at its last snapshot. One whose objects
// are damaged, or cannot be copied, is in the error, and keeps no other from coming back.
func Load(ctx context.Context, records *consul.Store, objects store.Store, path string) (r Result, err error) {
	if err := vacant(ctx, records); err != nil {
		return r, err
	}
	text, err := os.ReadFile(filepath.Join(path, "about.json"))
	if err != nil {
		return r, fmt.Errorf("read backup: %w", err)
	}
	var a about
	if err := json.Unmarshal(text, &a); err != nil {
		return r, fmt.Errorf("read backup: about.json: %w", err)
	}
	if a.Form != form {
		return r, fmt.Errorf("read backup: it is of form %d, and this program knows form %d", a.Form, form)
	}
	for name := range a.Other {
		if !slices.ContainsFunc(others, func(folder string) bool { return strings.HasPrefix(name, folder) }) {
			return r, fmt.Errorf("read backup: about.json has %q, which no backup has: somebody has changed it", name)
		}
	}
	t, err := open(path)
	if err != nil {
		return r, fmt.Errorf("open backup: %w", err)
	}
	defer func() { err = errors.Join(err, t.objects.Close()) }()
	repository, err := snapshot.New(t.objects, snapshot.Config{})
	if err != nil {
		return r, err
	}
	all, err := t.oldestFirst()
	if err != nil {
		return r, err
	}
	if err := records.SetRaw(ctx, a.Other); err != nil {
		return r, err
	}
	var damaged []error
	for _, stored := range all {
		if stored.Record.Expired(time.Now()) {
			continue
		}
		s, err := sealed(*stored)
		if err != nil {
			return r, fmt.Errorf("restore %s: %w", stored.Record.ID, err)
		}
		n, err := repository.Copy(ctx, s, stored.Rest.Snapshot, objects)
		if ctx.Err() != nil {
			return r, context.Cause(ctx)
		}
		if err != nil { // the others are not to be lost with it
			damaged = append(damaged, fmt.Errorf("%s: %w", stored.Record.ID, err))
			continue
		}
		if err := records.Restore(ctx, asleep(*stored, time.Now())); err != nil {
			return r, fmt.Errorf("restore %s: %w", stored.Record.ID, err)
		}
		r.Sessions, r.Copied, r.Bytes = r.Sessions+1, r.Copied+1, r.Bytes+n
	}
	if len(damaged) > 0 {
		return r, fmt.Errorf("%d sessions are restored, %d could not be copied: %w", r.Sessions, len(damaged), errors.Join(damaged...))
	}
	return r, nil
}

// vacant returns an error if there is anything that a backup would meet.
func vacant(ctx context.Context, records *consul.Store) error {
	leader, err := records.Raw(ctx, "leader")
	if err != nil {
		return err
	}
	if len(leader) > 0 {
		return errors.New("a front-end leads: end all of them before a backup is restored")
	}
	all, err := records.Raw(ctx, "sessions/")
	if err != nil {
		return err
	}
	if len(all) > 0 {
		return fmt.Errorf("there are %d sessions in Consul already: a backup is restored into an empty folder", len(all))
	}
	return nil
}

// oldestFirst are the sessions in the order in which they were made, which lists keep.
func (t *target) oldestFirst() ([]*consul.Stored, error) {
	ids, err := t.sessions()
	if err != nil {
		return nil, err
	}
	var all []*consul.Stored
	for _, id := range ids {
		stored, err := t.read(id)
		if err != nil {
			return nil, err
		}
		all = append(all, stored)
	}
	slices.SortStableFunc(all, func(a, b *consul.Stored) int { return a.Record.Created.Compare(b.Record.Created) })
	return all, nil
}

// asleep is a session as it comes back.
func asleep(s consul.Stored, now time.Time) consul.Stored {
	record := *s.Record
	record.Epoch += raise
	record.Lost = record.State != frontend.StateDeepSleep && (!s.Rest.Asleep || s.Rest.Epoch != record.Epoch)
	record.State, record.Since, record.Version, record.Failures = frontend.StateDeepSleep, now.UTC(), 0, 0
	record.Claim = claim.Claim{}
	record.Files, record.Checkpoint = s.Rest.Files, s.Rest.Snapshot.Taken.UTC().Truncate(time.Second)
	s.Record = &record
	s.Rest.Epoch, s.Rest.Asleep, s.Rest.Sealed = record.Epoch, true, true
	return s
}
