// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package backup

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/driver/snapshot/store"
	"github.com/buntime/buntime/driver/snapshot/store/dir"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/testserver"
)

// busyStore calls meanwhile before the first reading.
type busyStore struct {
	store.Store
	meanwhile func()
}

func (b *busyStore) Get(ctx context.Context, name string, offset int64, p []byte) error {
	if do := b.meanwhile; do != nil {
		b.meanwhile = nil
		do()
	}
	return b.Store.Get(ctx, name, offset, p)
}

// node is a session's.
type node struct {
	t          *testing.T
	records    *consul.Store
	objects    *dir.Store
	repository *snapshot.Repository
	session    snapshot.Session
	record     *frontend.Session
	image      string
	last       snapshot.Pointer
}

const id = "ses_00000000000000000001"

func newNode(t *testing.T) *node {
	n := &node{t: t, records: newRecords(t), objects: newObjects(t), image: filepath.Join(t.TempDir(), "image")}
	var err error
	if n.repository, err = snapshot.New(n.objects, snapshot.Config{}); err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	n.session = snapshot.Session{ID: id, Key: snapshot.NewKey(), Expires: now.Add(time.Hour)}
	n.record = &frontend.Session{
		ID: id, Account: "a", Plan: "free", State: frontend.StateActive, Since: now, Epoch: 3,
		Claim:  claim.Claim{Session: id, Epoch: 3, Alloc: "alloc", API: "127.0.0.1:1", Preview: "127.0.0.1:2"},
		Limits: frontend.DefaultLimits, Created: now, Expires: now.Add(time.Hour), LastActive: now,
	}
	if err := n.records.Create(t.Context(), n.record); err != nil {
		t.Fatal(err)
	}
	return n
}

func newRecords(t *testing.T) *consul.Store {
	s, err := consul.NewStore(consul.Config{Address: testserver.Consul(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func newObjects(t *testing.T) *dir.Store {
	s, err := dir.New(t.TempDir(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// checkpoint changes the workspace, and has a new snapshot instead of the last one.
func (n *node) checkpoint() (image []byte) {
	n.t.Helper()
	image = make([]byte, 300<<10)
	rand.Read(image) // never fails
	if err := os.WriteFile(n.image, image, 0o600); err != nil {
		n.t.Fatal(err)
	}
	p, _, err := n.repository.Snapshot(n.t.Context(), snapshot.Request{Session: n.session, Epoch: 3, Last: n.last, Image: n.image})
	if err != nil {
		n.t.Fatal(err)
	}
	n.last = p
	rest, err := json.Marshal(claim.Rest{Session: id, Epoch: 3, Alloc: "alloc", Snapshot: p, Files: 7})
	if err != nil {
		n.t.Fatal(err)
	}
	key, err := json.Marshal(n.session.Key)
	if err != nil {
		n.t.Fatal(err)
	}
	err = n.records.SetRaw(n.t.Context(), map[string][]byte{"rests/" + id + "/3": rest, "keys/" + id: key, "api-keys/x": []byte("{}")})
	if err != nil {
		n.t.Fatal(err)
	}
	if err := n.repository.Prune(n.t.Context(), n.session, p); err != nil {
		n.t.Fatal(err)
	}
	return image
}

// TestBackup: a session whose snapshot is replaced, and whose former one removed, while it is
// copied is in the backup as of the new one; it comes back asleep, under an epoch that it never had.
func TestBackup(t *testing.T) {
	n := newNode(t)
	path := t.TempDir()
	r, err := Save(t.Context(), n.records, n.objects, path)
	if err != nil || r.Sessions != 0 || len(r.Without) != 1 {
		t.Fatalf("with nothing stored yet: %+v, %v", r, err)
	}
	n.checkpoint()
	var image []byte
	r, err = Save(t.Context(), n.records, &busyStore{n.objects, func() { image = n.checkpoint() }}, path)
	if err != nil || r.Sessions != 1 || r.Copied != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if image == nil {
		t.Fatal("nothing was read")
	}
	if r, err := Save(t.Context(), n.records, &busyStore{n.objects, func() { t.Error("what it has is copied again") }}, path); err != nil || r.Copied != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := Load(t.Context(), n.records, n.objects, path); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("restored over what there is: %v", err)
	}

	records, objects := newRecords(t), newObjects(t)
	if r, err := Load(t.Context(), records, objects, path); err != nil || r.Sessions != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	back, err := records.Stored(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	got := back.Record
	if got.State != frontend.StateDeepSleep || got.Epoch <= n.record.Epoch || !got.Lost || got.Placed() || got.Files != 7 || !got.Expires.Equal(n.record.Expires) {
		t.Errorf("record %+v", got)
	}
	if back.Rest.Epoch != got.Epoch || !back.Rest.Over() {
		t.Errorf("rest %+v of epoch %d", back.Rest, got.Epoch)
	}
	if raw, err := records.Raw(t.Context(), "api-keys/"); err != nil || len(raw) != 1 {
		t.Errorf("API keys %v, %v", raw, err)
	}
	repository, err := snapshot.New(objects, snapshot.Config{})
	if err != nil {
		t.Fatal(err)
	}
	restored := filepath.Join(t.TempDir(), "restored")
	if err := repository.Restore(t.Context(), n.session, back.Rest.Snapshot, restored); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(restored); err != nil || !bytes.Equal(text, image) {
		t.Errorf("the workspace is another: %d bytes, %v", len(text), err)
	}

	// What has lost everything, or is another cluster's, does not take the backup with it.
	if _, err := Save(t.Context(), newRecords(t), newObjects(t), path); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("backed up from an empty Consul: %v", err)
	}
	if r, err := Load(t.Context(), newRecords(t), newObjects(t), path); err != nil || r.Sessions != 1 {
		t.Errorf("restored after that: %+v, %v", r, err)
	}

	// Another whose objects are not there, and which comes first, stays away alone.
	good := filepath.Join(path, "sessions", id+".json")
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	const other = "ses_00000000000000000002"
	bad := filepath.Join(path, "sessions", other+".json")
	stored := strings.ReplaceAll(strings.ReplaceAll(string(text), id, other), n.record.Created.Format(time.RFC3339), "2020-01-01T00:00:00Z")
	if err := os.WriteFile(bad, []byte(stored), 0o600); err != nil {
		t.Fatal(err)
	}
	records = newRecords(t)
	if r, err := Load(t.Context(), records, newObjects(t), path); err == nil || !strings.Contains(err.Error(), other) || r.Sessions != 1 {
		t.Errorf("with a damaged one: %+v, %v", r, err)
	}
	if _, err := records.Stored(t.Context(), id); err != nil {
		t.Errorf("the other one: %v", err)
	}
	if err := os.Remove(bad); err != nil {
		t.Fatal(err)
	}

	// A deleted session goes from the backup, its key first.
	if err := n.records.Delete(t.Context(), n.record); err != nil {
		t.Fatal(err)
	}
	if r, err := Save(t.Context(), n.records, n.objects, path); err != nil || r.Sessions != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	for _, left := range []string{"sessions/" + id + ".json", "objects/" + id} {
		if _, err := os.Stat(filepath.Join(path, left)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
}

// TestBadBackup: a backup that somebody has changed is refused before anything is restored.
func TestBadBackup(t *testing.T) {
	records, objects := newRecords(t), newObjects(t)
	for name, file := range map[string]struct{ path, text string }{
		"no record":         {"sessions/" + id + ".json", "{}"},
		"another's record":  {"sessions/" + id + ".json", `{"Record":{"ID":"ses_00000000000000000002"}}`},
		"another's folder":  {"about.json", `{"form":1,"other":{"sessions/` + id + `":"e30="}}`},
		"the leader's lock": {"about.json", `{"form":1,"other":{"leader":"e30="}}`},
	} {
		path := t.TempDir()
		for _, f := range []struct{ path, text string }{{"about.json", `{"form":1,"other":{"api-keys/x":"e30="}}`}, file} {
			at := filepath.Join(path, f.path)
			if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(at, []byte(f.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Load(t.Context(), records, objects, path); err == nil {
			t.Errorf("%s: restored", name)
		}
		if all, err := records.Raw(t.Context(), ""); err != nil || len(all) > 0 {
			t.Errorf("%s: there is %q, %v", name, all, err)
		}
	}
}
