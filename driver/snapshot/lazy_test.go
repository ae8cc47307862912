// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package snapshot

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/buntime/buntime/driver/snapshot/store"
)

// gated is a store whose gets of data have to pass a gate.
type gated struct {
	store.Store

	mu   sync.Mutex
	gate func(get int) error // nil lets all pass
	gets int
}

func (g *gated) Get(ctx context.Context, name string, offset int64, p []byte) error {
	if !strings.HasSuffix(name, "/manifest") {
		g.mu.Lock()
		gate, n := g.gate, g.gets
		g.gets++
		g.mu.Unlock()
		if gate != nil {
			if err := gate(n); err != nil {
				return err
			}
		}
	}
	return g.Store.Get(ctx, name, offset, p)
}

func (g *gated) set(gate func(get int) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.gate, g.gets = gate, 0
}

// lateImage is a snapshot of an image of some megabytes of noise, and what it holds.
func lateImage(t *testing.T, g *gated) (Session, Pointer, []byte) {
	t.Helper()
	want := noise(7, 12<<20)
	image := filepath.Join(t.TempDir(), "image")
	write(t, image, want)
	session := newSession()
	p, _, err := newRepository(t, g).Snapshot(t.Context(), Request{Session: session, Epoch: 1, Image: image})
	must(t, err)
	return session, p, want
}

// begin restores lazily to files that are the same each time.
func begin(t *testing.T, g *gated, s Session, p Pointer, dir string) *Lazy {
	t.Helper()
	l, err := newRepository(t, g).RestoreLazily(t.Context(), s, p, filepath.Join(dir, "image"), filepath.Join(dir, "arrived"))
	must(t, err)
	t.Cleanup(l.Close)
	return l
}

func finished(t *testing.T, l *Lazy) {
	t.Helper()
	select {
	case <-l.Done():
	case <-time.After(time.Minute):
		t.Fatal("not all has come after a minute")
	}
}

var errAway = errors.New("the store is away")

// TestLazyGoesOn: a restore that another process has begun goes on: what was written
// to it meanwhile stays, and what had come is not fetched again.
func TestLazyGoesOn(t *testing.T) {
	inner, _ := newDir(t)
	g := &gated{Store: inner}
	session, p, want := lateImage(t, g)
	folder := t.TempDir()
	// All but the first few requests fail, as if the store went away in the middle.
	g.set(func(n int) error {
		if n >= 6 {
			return errAway
		}
		return nil
	})
	first := begin(t, g, session, p, folder)
	image, err := os.OpenFile(filepath.Join(folder, "image"), os.O_RDWR, 0)
	must(t, err)
	defer image.Close()
	must(t, first.Need(0, 4096))
	mine := bytes.Repeat([]byte("mine"), 1024)
	_, err = image.WriteAt(mine, 0)
	must(t, err)
	copy(want, mine)
	first.Close()
	if _, err := os.Stat(filepath.Join(folder, "arrived")); err != nil {
		t.Fatalf("it came to an end without the store: %v", err)
	}
	frames := len(first.frames)

	g.set(nil)
	text, err := os.ReadFile(filepath.Join(folder, "arrived"))
	must(t, err)
	had := bytes.Count(text, []byte{1})
	second := begin(t, g, session, p, folder)
	finished(t, second)
	if g.gets == 0 || g.gets > frames-had {
		t.Errorf("%d requests for what was missing of %d frames, of which %d had come", g.gets, frames, had)
	}
	if had == 0 || had == frames {
		t.Errorf("of %d frames %d had come before", frames, had)
	}
	got, err := os.ReadFile(filepath.Join(folder, "image"))
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Error("the image is not what it was, with what was written to it")
	}
	if _, err := os.Stat(filepath.Join(folder, "arrived")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("note of what has arrived: %v", err)
	}
}

// TestLazyWaits: who needs what the store does not give waits for it, and for no
// longer than until Close.
func TestLazyWaits(t *testing.T) {
	inner, _ := newDir(t)
	g := &gated{Store: inner}
	session, p, want := lateImage(t, g)
	g.set(func(int) error { return errAway })
	folder := t.TempDir()
	l := begin(t, g, session, p, folder)
	got := make(chan error, 2)
	go func() { got <- l.Need(5<<20, 10) }()
	select {
	case err := <-got:
		t.Fatalf("it has come from nowhere: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	g.set(nil)
	must(t, <-got)
	b := make([]byte, 10)
	f, err := os.Open(filepath.Join(folder, "image"))
	must(t, err)
	defer f.Close()
	_, err = f.ReadAt(b, 5<<20)
	must(t, err)
	if !bytes.Equal(b, want[5<<20:5<<20+10]) {
		t.Error("what was needed is not what it was")
	}

	g.set(func(int) error { return errAway })
	other := begin(t, g, session, p, t.TempDir())
	go func() { got <- other.Need(0, 10) }()
	other.Close()
	if err := <-got; err == nil {
		t.Error("it has come after the end")
	}
	must(t, other.Need(int64(len(want)), 0)) // nothing is always there
}

// TestLazyDamaged: what is not what was stored is an error for who needs it, and
// never comes to the image.
func TestLazyDamaged(t *testing.T) {
	inner, path := newDir(t)
	g := &gated{Store: inner}
	session, p, want := lateImage(t, g)
	for name := range names(t, inner, session.ID) {
		if !strings.HasSuffix(name, "/manifest") {
			flip(t, filepath.Join(path, name), 100)
		}
	}
	folder := t.TempDir()
	l := begin(t, g, session, p, folder)
	failed := 0
	for off := int64(0); off < int64(len(want)); off += chunkSize {
		if err := l.Need(off, chunkSize); err != nil {
			failed++
			if !errors.Is(err, ErrCorrupt) {
				t.Fatal(err)
			}
		}
	}
	if failed == 0 {
		t.Error("nothing was found to be damaged")
	}
	got, err := os.ReadFile(filepath.Join(folder, "image"))
	must(t, err)
	for off := 0; off < len(want); off += chunkSize {
		if b := got[off : off+chunkSize]; !bytes.Equal(b, want[off:off+chunkSize]) && !bytes.Equal(b, zeroes[:]) {
			t.Fatalf("at %d the image has what was never in it", off)
		}
	}
	select {
	case <-l.Done():
		t.Error("it is complete")
	default:
	}
}

// TestLazyDamagedOnTheWay: what is damaged once is fetched again, and that puts nothing
// back that was written to what had come with it.
func TestLazyDamagedOnTheWay(t *testing.T) {
	inner, _ := newDir(t)
	image := filepath.Join(t.TempDir(), "image")
	// Little of it remains when it is compressed, so that one request has many frames.
	want := bytes.Repeat([]byte("compressible "), (12<<20)/13)
	write(t, image, want)
	session := newSession()
	p, _, err := newRepository(t, inner).Snapshot(t.Context(), Request{Session: session, Epoch: 1, Image: image})
	must(t, err)
	g := &spoiled{Store: inner, again: make(chan struct{}), proceed: make(chan struct{})}
	folder := t.TempDir()
	l, err := newRepository(t, g).RestoreLazily(t.Context(), session, p, filepath.Join(folder, "image"), filepath.Join(folder, "arrived"))
	must(t, err)
	defer l.Close()
	<-g.again // all but the last frame of the first piece have come
	at := uint32(0)
	for !l.there(at, at+1) {
		if at++; int64(at)*chunkSize >= p.Size {
			t.Fatal("nothing has come of a piece whose end was damaged")
		}
	}
	f, err := os.OpenFile(filepath.Join(folder, "image"), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	mine := bytes.Repeat([]byte("mine"), 1024)
	_, err = f.WriteAt(mine, int64(at)*chunkSize)
	must(t, err)
	copy(want[at*chunkSize:], mine)
	close(g.proceed)
	finished(t, l)
	got, err := os.ReadFile(filepath.Join(folder, "image"))
	must(t, err)
	if !bytes.Equal(got[:len(want)], want) {
		t.Errorf("what was written is overwritten: %q", got[at*chunkSize:][:16])
	}
}

// spoiled is a store whose first answer is damaged at its end, and whose second waits.
type spoiled struct {
	store.Store
	mu             sync.Mutex
	gets           int
	again, proceed chan struct{}
}

func (s *spoiled) Get(ctx context.Context, name string, offset int64, p []byte) error {
	if strings.HasSuffix(name, "/manifest") {
		return s.Store.Get(ctx, name, offset, p)
	}
	s.mu.Lock()
	n := s.gets
	s.gets++
	s.mu.Unlock()
	if n == 1 {
		close(s.again)
		<-s.proceed
	}
	err := s.Store.Get(ctx, name, offset, p)
	if n == 0 {
		p[len(p)-1] ^= 1
	}
	return err
}

// TestLazyTogether: many who need the same, and others, at once.
func TestLazyTogether(t *testing.T) {
	inner, _ := newDir(t)
	g := &gated{Store: inner}
	session, p, want := lateImage(t, g)
	folder := t.TempDir()
	l := begin(t, g, session, p, folder)
	f, err := os.Open(filepath.Join(folder, "image"))
	must(t, err)
	defer f.Close()
	var all sync.WaitGroup
	for n := range 16 {
		all.Go(func() {
			for i := range 200 {
				off := int64((i*7919+n*104729)%(len(want)-5000)) &^ 4095
				b := make([]byte, 4096)
				if err := l.Need(off, int64(len(b))); err != nil {
					t.Error(err)
					return
				}
				if _, err := f.ReadAt(b, off); err != nil || !bytes.Equal(b, want[off:off+4096]) {
					t.Errorf("at %d: not what it was, %v", off, err)
					return
				}
			}
		})
	}
	all.Wait()
	finished(t, l)
	if n := g.gets; n > 3*len(l.frames) {
		t.Errorf("%d requests for %d frames", n, len(l.frames))
	}
}

// TestLearns: a wake knows what the one before waited for.
func TestLearns(t *testing.T) {
	inner, _ := newDir(t)
	g := &gated{Store: inner}
	session, p, _ := lateImage(t, g)
	hold := make(chan struct{})
	g.set(func(int) error { <-hold; return nil })
	r := newRepository(t, g)
	folder := t.TempDir()
	image := filepath.Join(folder, "image")
	l, err := r.RestoreLazily(t.Context(), session, p, image, filepath.Join(folder, "arrived"))
	must(t, err)
	defer l.Close()
	got := make(chan error)
	const at = 9 << 20
	go func() { got <- l.Need(at, 1) }()
	for {
		l.mu.Lock()
		waits := l.waiting
		l.mu.Unlock()
		if waits > 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(hold)
	must(t, <-got)
	finished(t, l)
	next, _, err := r.Snapshot(t.Context(), Request{Session: session, Epoch: 2, Last: p, Image: image})
	must(t, err)
	m, err := newRepository(t, g).loadManifest(t.Context(), session, next)
	must(t, err)
	if len(m.early) != 1 || m.early[0] != at/chunkSize {
		t.Errorf("early chunks: %v", m.early)
	}
}
