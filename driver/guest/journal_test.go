// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"

	"github.com/buntime/buntime/driver/guest/wire"
)

// testJournal is the files of a journal.
type testJournal struct {
	b   *box
	dir string
}

// journal gives an execution a journal.
func (b *box) journal(c *client, id string) testJournal {
	b.tb.Helper()
	j := testJournal{b, filepath.Join(b.root, "journal-"+id)}
	if err := os.MkdirAll(j.dir, 0o755); err != nil {
		b.tb.Fatal(err)
	}
	var files []*os.File
	for _, name := range []string{"stdout", "stderr", "order"} {
		f, err := os.OpenFile(filepath.Join(j.dir, name), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			b.tb.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	if err := c.Write(wire.KindJournal, nil, files...); err != nil {
		b.tb.Fatal(err)
	}
	return j
}

// read returns what the journal has, put together by its order.
func (j testJournal) read() (stdout, stderr string) {
	j.b.tb.Helper()
	var text [3]string
	for i, name := range []string{"order", "stdout", "stderr"} { // the order is written last
		b, err := os.ReadFile(filepath.Join(j.dir, name))
		if err != nil {
			j.b.tb.Fatal(err)
		}
		text[(i+2)%3] = string(b)
	}
	var out [2]strings.Builder
	var at [2]int
	for order := []byte(text[2]); len(order) >= 5; order = order[5:] {
		i := 0
		if wire.Kind(order[0]) == wire.KindStderr {
			i = 1
		}
		n := int(binary.BigEndian.Uint32(order[1:]))
		if n > wire.MaxData || at[i]+n > len(text[i]) {
			j.b.tb.Fatalf("the journal's order tells of a piece of %d bytes at %d of %d", n, at[i], len(text[i]))
		}
		out[i].WriteString(text[i][at[i] : at[i]+n])
		at[i] += n
	}
	return out[0].String(), out[1].String()
}
