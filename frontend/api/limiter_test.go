// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestLimiterIsBounded: addresses without end are counted together in the end,
// and keys that were there before are still counted each for itself.
func TestLimiterIsBounded(t *testing.T) {
	var l limiter
	now := time.Now()
	l.take("key", 1, 10, now)
	for i := range 2 * mostNames {
		l.take(strconv.Itoa(i), 1, 10, now)
	}
	if len(l.used) > mostNames+1 {
		t.Errorf("%d names are kept", len(l.used))
	}
	if at := l.take("another", 1, 10, now); !at.over() {
		t.Errorf("one more of the crowd: %+v", at)
	}
	if at := l.take("key", 1, 10, now); at.used != 2 {
		t.Errorf("a key from before: %+v", at)
	}
	if at := l.take("another", 1, 10, now.Add(2*window)); at.over() {
		t.Errorf("a window later: %+v", at)
	}
}

func FuzzParseHash(f *testing.F) {
	for _, seed := range []string{HashKey("btk_x"), "sha256:", "btk_abcdefghijklmnopqrstuvwxyz", "SHA256:00", "sha256:zz"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		hash, err := parseHash(text)
		if err == nil && !strings.EqualFold(text, fmt.Sprintf("sha256:%x", hash)) {
			t.Errorf("%q is taken for %x", text, hash)
		}
		if err != nil && strings.HasPrefix(text, "btk_") && len(text) > 8 && strings.Contains(err.Error(), text) {
			t.Errorf("the error repeats %q", text)
		}
	})
}
