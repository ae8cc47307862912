// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestExtend: a session whose end was put off lives on, also with a plugin that was
// never told, and what is stored of it does.
func TestExtend(t *testing.T) {
	ttl := 8 * time.Second
	f := newFixtureFor(t, ttl)
	first := f.task.Session.ExpiresAt
	f.run(t, map[string]any{"command": "echo kept >file"})
	// One that nothing is stored of.
	later := first.Add(time.Hour).Truncate(time.Second)
	f.rests().extend(later)
	if status := f.call(t, "POST", "/v1/extend", nil, nil); status != 200 {
		t.Fatalf("extend: status %d", status)
	}
	if info := f.info(t); info.ExpiresAt != timestamp(later) || info.NextTransition.At != timestamp(later) || info.Durability.LastCheckpoint != "" {
		t.Fatalf("%+v", info)
	}
	// One that has woken, and has its snapshot from an earlier life.
	if status := f.call(t, "POST", "/v1/sleep", map[string]any{"state": "deep-sleep"}, nil); status != 200 {
		t.Fatalf("sleep: status %d", status)
	}
	f.gone(t)
	f.wake(t) // with the first end, as a task that was started before it was put off
	latest := later.Add(time.Hour)
	f.rests().extend(latest)
	if status := f.call(t, "POST", "/v1/extend", nil, nil); status != 200 {
		t.Fatalf("extend: status %d", status)
	}
	objects := 0
	err := filepath.WalkDir(f.config.Store.Dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		st, err := d.Info()
		if objects++; err == nil && !st.ModTime().Equal(latest) {
			t.Errorf("%s expires at %v, want %v", path, st.ModTime(), latest)
		}
		return err
	})
	if err != nil || objects == 0 {
		t.Fatalf("%d objects, %v", objects, err)
	}
	// A plugin that was started after it, and one that was not told.
	f.restart(t)
	if info := f.info(t); info.ExpiresAt != timestamp(latest) {
		t.Errorf("after a restart: %+v", info)
	}
	f.instance.(*instance).expiry.Reset(0)
	ctx, cancel := context.WithDeadline(t.Context(), first.Add(time.Second))
	defer cancel()
	if exit, err := f.instance.Wait(ctx); err == nil {
		t.Fatalf("ended before its time: %+v", exit)
	}
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Errorf("%+v", r)
	}
	// Its time comes all the same.
	f.rests().extend(time.Now())
	f.instance.(*instance).expiry.Reset(0)
	f.gone(t)
}

// TestEnd: a session whose record is gone is nobody's at once, and its sandbox ends
// without a word of Nomad's; one that has a record is not ended by a mistaken word.
func TestEnd(t *testing.T) {
	f := newFixture(t)
	f.run(t, map[string]any{"command": "echo kept >file"})
	if status := f.call(t, "POST", "/v1/end", nil, nil); status != http.StatusConflict {
		t.Fatalf("end of a session with a record: status %d", status)
	}
	f.rests().fail(errors.New("no store"))
	if status := f.call(t, "POST", "/v1/end", nil, nil); status != http.StatusServiceUnavailable {
		t.Fatalf("end of a session that nobody can tell of: status %d", status)
	}
	f.rests().fail(nil)
	if r := f.run(t, map[string]any{"command": "cat file"}); r.Stdout != "kept\n" {
		t.Fatalf("%+v", r)
	}
	f.rests().want(0)
	if status := f.call(t, "POST", "/v1/end", nil, nil); status != http.StatusOK {
		t.Fatalf("end: status %d", status)
	}
	if _, err := f.instance.(*instance).session.life.use("test"); !errors.Is(err, errAsleep) {
		t.Errorf("who comes after the answer: %v", err)
	}
	f.gone(t)
	if at := f.rests().at(1); !at.Snapshot.IsZero() {
		t.Errorf("a snapshot was taken: %+v", at)
	}
}
