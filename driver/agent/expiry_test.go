// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
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
