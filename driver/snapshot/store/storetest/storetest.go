// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package storetest is what each back-end of the object store has to pass.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/snapshot/store"
)

// patience is for what a store does in the background, on a busy machine.
const patience = 60 * time.Second

// Run tests a store that is empty.
func Run(t *testing.T, s store.Store) {
	tests := map[string]func(*testing.T, store.Store){
		"content": testContent, "missing": testMissing, "replace": testReplace, "list": testList,
		"expiry": testExpiry, "extended": testExtended, "parallel": testParallel, "names": testNames, "canceled": testCanceled,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

func later() time.Time { return time.Now().Add(time.Hour) }

func put(t *testing.T, s store.Store, name string, data []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, data, later()); err != nil {
		t.Fatal(err)
	}
}

// random makes n bytes that are the same every time.
func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b) // never fails
	return b
}

func testContent(t *testing.T, s store.Store) {
	for _, n := range []int{0, 1, 4095, 65537, 5 << 20} {
		name, data := fmt.Sprintf("content/a/%d", n), random(n)
		put(t, s, name, data)
		for _, part := range [][2]int{{0, n}, {0, n / 2}, {n / 2, n - n/2}, {n, 0}, {n / 3, min(1, n)}} {
			got := make([]byte, part[1])
			if err := s.Get(t.Context(), name, int64(part[0]), got); err != nil {
				t.Errorf("%d+%d of %d: %v", part[0], part[1], n, err)
			}
			if !bytes.Equal(got, data[part[0]:][:part[1]]) {
				t.Errorf("%d+%d of %d: other bytes", part[0], part[1], n)
			}
		}
	}
	for _, offset := range []int64{1, 2, 100} {
		if err := s.Get(t.Context(), "content/a/1", offset, make([]byte, 1)); err == nil {
			t.Errorf("read a byte at %d of 1", offset)
		}
	}
	if err := s.Get(t.Context(), "content/a/1", 0, make([]byte, 2)); err == nil {
		t.Error("read two bytes of 1")
	}
}

func testMissing(t *testing.T, s store.Store) {
	put(t, s, "missing/there", []byte("x"))
	if err := s.Get(t.Context(), "missing/a", 0, make([]byte, 1)); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("get: %v", err)
	}
	if err := s.Expire(t.Context(), "missing/a", later()); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("expire: %v", err)
	}
	if err := s.Delete(t.Context(), "missing/b/c"); err != nil {
		t.Errorf("delete: %v", err)
	}
	for range 2 {
		if err := s.Delete(t.Context(), "missing/there"); err != nil {
			t.Errorf("delete: %v", err)
		}
	}
	if err := s.Get(t.Context(), "missing/there", 0, make([]byte, 1)); !errors.Is(err, store.ErrNotExist) {
		t.Errorf("get of a deleted one: %v", err)
	}
}

func testReplace(t *testing.T, s store.Store) {
	put(t, s, "replace/a", []byte("first"))
	put(t, s, "replace/a", []byte("second"))
	got := make([]byte, 6)
	if err := s.Get(t.Context(), "replace/a", 0, got); err != nil || string(got) != "second" {
		t.Errorf("got %q, %v", got, err)
	}
}

func testList(t *testing.T, s store.Store) {
	var want []string
	for i := range 25 {
		name := fmt.Sprintf("list/%d/%02d", i%3, i)
		put(t, s, name, nil)
		want = append(want, name)
	}
	put(t, s, "list2/a", nil)
	put(t, s, "lis/a", nil)
	slices.Sort(want)
	if got := collect(t, s.List(t.Context(), "list")); !slices.Equal(got, want) {
		t.Errorf("listed %v", got)
	}
	inOne := slices.DeleteFunc(slices.Clone(want), func(n string) bool { return n[5] != '1' })
	if got := collect(t, s.List(t.Context(), "list/1")); !slices.Equal(got, inOne) {
		t.Errorf("listed %v", got)
	}
	if got := collect(t, s.List(t.Context(), "nothing")); len(got) > 0 {
		t.Errorf("listed %v", got)
	}
	got := collect(t, s.Folders(t.Context(), ""))
	for _, name := range []string{"list", "list2", "lis"} {
		if n := slices.Index(got, name); n < 0 || slices.Contains(got[n+1:], name) {
			t.Errorf("%s is not once in the folders %v", name, got)
		}
	}
	if got := collect(t, s.Folders(t.Context(), "list")); !slices.Equal(got, []string{"list", "list2"}) {
		t.Errorf("folders that begin with list: %v", got)
	}
	for _, err := range s.List(t.Context(), "list") {
		if err != nil {
			t.Error(err)
		}
		break // must be possible
	}
	for _, name := range append(want, "list2/a") {
		if err := s.Delete(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
	got = collect(t, s.Folders(t.Context(), ""))
	if slices.Contains(got, "list") || slices.Contains(got, "list2") || !slices.Contains(got, "lis") {
		t.Errorf("folders after deletion: %v", got)
	}
}

func collect(t *testing.T, names iter.Seq2[string, error]) []string {
	t.Helper()
	var list []string
	for name, err := range names {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, name)
	}
	slices.Sort(list)
	return list
}

// soon is long enough to do something before it on a busy machine. Of a store that knows
// only whole seconds it is a second less.
const soon = 10 * time.Second

// testExpiry needs no more of the clock than that the object goes after its time,
// not before it, and in the end from the list.
func testExpiry(t *testing.T, s store.Store) {
	t.Parallel()
	put(t, s, "expiry/stays", []byte("x"))
	end := time.Now().Add(soon)
	if err := s.Put(t.Context(), "expiry/goes", []byte("x"), end); err != nil {
		t.Fatal(err)
	}
	untilGone(t, s, "expiry/goes")
	if now := time.Now(); now.Before(end.Truncate(time.Second)) {
		t.Errorf("gone %v before its time", end.Sub(now))
	}
	eventually(t, "it to leave the list", func() bool {
		return slices.Equal(collect(t, s.List(t.Context(), "expiry")), []string{"expiry/stays"})
	})
}

func testExtended(t *testing.T, s store.Store) {
	t.Parallel()
	end := time.Now().Add(soon)
	for _, name := range []string{"extended/longer", "extended/witness"} {
		if err := s.Put(t.Context(), name, []byte("x"), end); err != nil {
			t.Fatal(err)
		}
	}
	put(t, s, "extended/shorter", []byte("x"))
	if err := s.Expire(t.Context(), "extended/longer", later()); err != nil {
		t.Fatal(err)
	}
	if err := s.Expire(t.Context(), "extended/shorter", time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	untilGone(t, s, "extended/witness")
	untilGone(t, s, "extended/shorter")
	if err := s.Get(t.Context(), "extended/longer", 0, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func untilGone(t *testing.T, s store.Store, name string) {
	t.Helper()
	eventually(t, name+" to expire", func() bool {
		err := s.Get(t.Context(), name, 0, make([]byte, 1))
		if err != nil && !errors.Is(err, store.ErrNotExist) {
			t.Fatal(err)
		}
		return err != nil
	})
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
	}
}

// testParallel has many write and remove in one folder, and some to one name:
// what is read is always something that one of them has written.
func testParallel(t *testing.T, s store.Store) {
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			data := bytes.Repeat([]byte{byte(i)}, 100_000)
			for n := range 5 {
				own := fmt.Sprintf("parallel/%d/%d", i, n)
				got := make([]byte, len(data))
				err := errors.Join(s.Put(t.Context(), own, data, later()), s.Put(t.Context(), "parallel/same", data, later()),
					s.Get(t.Context(), own, 0, got), s.Delete(t.Context(), own))
				if err != nil || !bytes.Equal(got, data) {
					t.Errorf("own: %v", err)
				}
				if err := s.Get(t.Context(), "parallel/same", 0, got); err != nil || !bytes.Equal(got, bytes.Repeat(got[:1], len(got))) {
					t.Errorf("parts of different objects: %v", err)
				}
			}
		})
	}
	wg.Wait()
}

func testNames(t *testing.T, s store.Store) {
	for _, name := range []string{"", "/", "/a", "a/", "a//b", "..", "a/../b", ".a", "a/.b", "a b", "a?b", "a%2fb", "a\nb", "ä"} {
		if err := s.Put(t.Context(), name, nil, later()); err == nil {
			t.Errorf("put %q", name)
		}
		if err := s.Delete(t.Context(), name); err == nil {
			t.Errorf("deleted %q", name)
		}
		if err := s.Get(t.Context(), name, 0, make([]byte, 1)); err == nil {
			t.Errorf("got %q", name)
		}
		if err := s.Expire(t.Context(), name, later()); err == nil {
			t.Errorf("gave %q an expiry", name)
		}
	}
}

func testCanceled(t *testing.T, s store.Store) {
	put(t, s, "canceled/a", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "canceled/b", []byte("x"), later()); !errors.Is(err, context.Canceled) {
		t.Errorf("put: %v", err)
	}
	if err := s.Get(ctx, "canceled/a", 0, make([]byte, 1)); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
}
