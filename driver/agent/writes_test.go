// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"os"
	"slices"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver/sandbox/workspace"
)

func TestWrites(t *testing.T) {
	m, err := workspace.New(workspace.Config{Dir: t.TempDir()}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ws, err := m.Create(t.Context(), "w", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Destroy(t.Context())
	root, err := ws.Root()
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	w, err := watchWrites(root, closedEvents)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()

	put := func(name string) {
		t.Helper()
		if err := root.WriteFile(name, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put("before")
	r := w.begin()
	put("top.txt")
	if err := root.MkdirAll("a/b/node_modules/m", 0o755); err != nil {
		t.Fatal(err)
	}
	put("a/b/deep.txt")
	put("a/b/node_modules/m/index.js")
	put("gone")
	if err := root.Remove("gone"); err != nil {
		t.Fatal(err)
	}
	put("moving")
	if err := root.Rename("moving", "a/moved"); err != nil {
		t.Fatal(err)
	}
	if f, err := root.OpenFile("before", os.O_RDONLY, 0); err == nil {
		f.Close()
	}
	got := w.end(r)
	if want := []string{"a/b/deep.txt", "a/moved", "top.txt"}; !slices.Equal(got, want) {
		t.Fatalf("written %v, want %v", got, want)
	}
	put("after")
	if got := w.end(w.begin()); len(got) != 0 {
		t.Fatalf("written by nobody: %v", got)
	}
}
