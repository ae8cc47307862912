// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/buntime/buntime/driver/guest/wire"
)

// TestJournalIsBounded: it takes so much and no more, and says that there was.
func TestJournalIsBounded(t *testing.T) {
	dir := t.TempDir()
	var fds []int
	for _, name := range []string{"stdout", "stderr", "order"} {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fds = append(fds, int(f.Fd()))
	}
	j, err := newJournal(fds)
	if err != nil {
		t.Fatal(err)
	}
	piece := make([]byte, wire.MaxData-1) // so that the last one is cut
	for range journalLimit/len(piece) + 10 {
		j.append(wire.KindStdout, piece)
	}
	size := func(name string) int64 {
		st, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	if got := size("stdout"); got != journalLimit {
		t.Errorf("the journal has %d bytes, want %d", got, journalLimit)
	}
	order, err := os.ReadFile(filepath.Join(dir, "order"))
	if err != nil {
		t.Fatal(err)
	}
	pieces := journalLimit/len(piece) + 1
	if len(order) != 5*(pieces+1) || wire.Kind(order[len(order)-5]) != wire.JournalFull {
		t.Errorf("its order has %d bytes and ends with %q", len(order), order[len(order)-5:])
	}
}
