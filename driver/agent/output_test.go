// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"testing"
	"time"
)

func TestOutputIsFollowedFromAnyOffset(t *testing.T) {
	o := newOutput(1 << 20)
	o.add(stdout, []byte("one "))
	o.add(stderr, []byte("two "))
	go func() {
		o.add(stdout, []byte("three"))
		o.close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for from := int64(0); from <= 13; from++ {
		var got []byte
		for at := from; ; {
			pieces, behind, over, err := o.next(ctx, at, nil)
			if err != nil || behind {
				t.Fatalf("from %d: behind %v, %v", from, behind, err)
			}
			if over {
				break
			}
			for _, p := range pieces {
				if p.offset != at {
					t.Fatalf("from %d: piece at %d, want %d", from, p.offset, at)
				}
				got = append(got, p.data...)
				at += int64(len(p.data))
			}
		}
		if want := "one two three"[from:]; string(got) != want {
			t.Errorf("from %d: got %q, want %q", from, got, want)
		}
	}
}

func TestOutputWindowIsBounded(t *testing.T) {
	o := newOutput(1 << 20)
	block := bytes.Repeat([]byte("x"), 64<<10)
	for range 64 {
		o.add(stdout, block)
	}
	if o.held > windowSize {
		t.Fatalf("window holds %d bytes", o.held)
	}
	if _, behind, _, _ := o.next(t.Context(), 0, nil); !behind {
		t.Fatal("offset 0 should have left the window")
	}
	if _, all := o.whole(); all {
		t.Fatal("a window that lost pieces says it is whole")
	}
}

func TestOutputWaitEndsWithItsContext(t *testing.T) {
	o := newOutput(1 << 20)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := o.next(ctx, 0, nil); err == nil {
		t.Fatal("no error from a cancelled wait")
	}
}

// TestOutputOfManySmallPiecesIsSmall: a program that prints byte by byte costs no
// more than one that prints blocks.
func TestOutputOfManySmallPiecesIsSmall(t *testing.T) {
	o := newOutput(1 << 20)
	o.add(stdout, []byte("x"))
	before, _, _, err := o.next(t.Context(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * windowSize {
		o.add(stdout, []byte("y"))
	}
	if most := windowSize/mergedSize + 1; len(o.window) > most {
		t.Errorf("the window has %d pieces, want %d at most", len(o.window), most)
	}
	if got := string(before[0].data); got != "x" {
		t.Errorf("a piece that was handed out has become %d bytes", len(got))
	}
	if o.held > windowSize {
		t.Errorf("window holds %d bytes", o.held)
	}
}
