// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// TestLooksRest wants a look that takes long to be followed by a rest that is as
// long by far, and longer where others look too.
func TestLooksRest(t *testing.T) {
	for _, others := range []int32{0, 3} {
		synctest.Test(t, func(t *testing.T) {
			var looking atomic.Int32
			looking.Store(others)
			var ends, rests []time.Duration
			begin := time.Now()
			repeat(t.Context(), make(chan struct{}), &looking, func() bool {
				if n := len(ends); n > 0 {
					rests = append(rests, time.Since(begin)-ends[n-1])
				}
				time.Sleep([]time.Duration{0, time.Second, 0, 0}[len(ends)])
				ends = append(ends, time.Since(begin))
				return len(ends) == 4
			})
			want := []time.Duration{time.Millisecond, lookRest * time.Duration(others+1) * time.Second, 4 * time.Millisecond}
			if !slices.Equal(rests, want) {
				t.Errorf("beside %d: rests %v, want %v", others, rests, want)
			}
			if n := looking.Load(); n != others {
				t.Errorf("%d look when it is over, want %d", n, others)
			}
		})
	}
}

// TestLooksEnd wants a look of many descriptors to stop at its limit, and when
// nobody wants to know any more.
func TestLooksEnd(t *testing.T) {
	const some = 100
	for range some {
		pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(pair[0]); syscall.Close(pair[1]) })
	}
	if n := len(socketInodes(t.Context(), os.Getpid(), lookDescriptors)); n < 2*some {
		t.Errorf("%d sockets, want at least %d", n, 2*some)
	}
	if n := len(socketInodes(t.Context(), os.Getpid(), some)); n == 0 || n > some {
		t.Errorf("%d sockets among %d descriptors", n, some)
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if n := len(socketInodes(done, os.Getpid(), lookDescriptors)); n != 0 {
		t.Errorf("%d sockets when it is over", n)
	}
}
