// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCaptureKeepsWhatFits(t *testing.T) {
	c := capture{limit: 16}
	c.write([]byte("0123456789"))
	c.write([]byte("abcdef"))
	if s, cut := c.text(); s != "0123456789abcdef" || cut != 0 {
		t.Fatalf("got %q, %d cut", s, cut)
	}
}

func TestCaptureCutsTheMiddle(t *testing.T) {
	for _, step := range []int{1, 3, 7, 100} {
		c := capture{limit: 10}
		in := strings.Repeat("abcdefghij", 9) + "ABCDE"
		for p := in; p != ""; {
			n := min(step, len(p))
			c.write([]byte(p[:n]))
			p = p[n:]
		}
		if s, cut := c.text(); s != "abcdeABCDE" || cut != int64(len(in)-10) {
			t.Errorf("in steps of %d: got %q, %d cut", step, s, cut)
		}
	}
}

func FuzzCapture(f *testing.F) {
	f.Add("häßlich 日本語 🙂🙂🙂", 8, 3)
	f.Fuzz(func(t *testing.T, in string, limit, step int) {
		if limit < 2 || limit > 1<<16 || step < 1 {
			t.Skip()
		}
		c := capture{limit: limit &^ 1}
		for p := in; p != ""; {
			n := min(step, len(p))
			c.write([]byte(p[:n]))
			p = p[n:]
		}
		s, cut := c.text()
		if !utf8.ValidString(s) {
			t.Fatalf("invalid UTF-8 in %q", s)
		}
		if len(in) <= limit&^1 && (cut != 0 || s != strings.ToValidUTF8(in, "\uFFFD")) {
			t.Fatalf("lost something of %q: %q, %d", in, s, cut)
		}
		if utf8.ValidString(in) && int64(len(s))+cut != int64(len(in)) {
			t.Fatalf("%d kept + %d cut of %d", len(s), cut, len(in))
		}
	})
}
