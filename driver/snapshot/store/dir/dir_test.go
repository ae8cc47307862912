// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package dir

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/snapshot/store/storetest"
)

func newStore(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := New(dir, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	storetest.Run(t, newStore(t, t.TempDir()))
}

// TestSweep has a store remove what expired and what a dead writer left, and
// nothing else, folders included.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	s, err := New(dir, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	now := time.Now()
	for name, end := range map[string]time.Time{
		"a/b/old": now.Add(-time.Second), "c/old": now.Add(-time.Hour), "c/new": now.Add(time.Hour),
	} {
		if err := s.Put(t.Context(), name, []byte("x"), end); err != nil {
			t.Fatal(err)
		}
	}
	// A file that is being written may already have its object's expiry.
	writing := filepath.Join(dir, "c", temporary+"1")
	if err := os.WriteFile(writing, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(writing, now, now.Add(-2*abandoned)); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for path, there := range map[string]bool{"a": false, "c/old": false, "c/new": true, "c/" + temporary + "1": true} {
		if _, err := os.Stat(filepath.Join(dir, path)); errors.Is(err, os.ErrNotExist) == there {
			t.Errorf("%s: there: %v", path, !there)
		}
	}
}
