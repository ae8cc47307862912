// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func read(t *testing.T, path string) (sessions []string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if !bytes.HasSuffix(line, []byte("\n")) {
			break // it is being written
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		sessions = append(sessions, e.Session)
	}
	return sessions
}

// TestFile: events are added to what there is, by any number of processes, and follow the
// name when somebody has taken the file away.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	open := func() *Log {
		l, err := Open(path, func() { t.Error("lost") }, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	one, two := open(), open()
	one.every = 0 // its name is looked at with each event
	var all sync.WaitGroup
	const each = 200
	for n, l := range []*Log{one, two} {
		all.Go(func() {
			for i := range each {
				l.Record(Event{Action: "a", Session: fmt.Sprint(n, i, strings.Repeat("x", 500))})
			}
		})
	}
	all.Wait()
	two.Close()
	two.Close()
	deadline := time.Now().Add(10 * time.Second)
	for len(read(t, path)) < 2*each && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond) // the writer says nothing when it is done
	}
	if n := len(read(t, path)); n != 2*each {
		t.Fatalf("%d lines", n)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Error(st.Mode(), err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	one.Record(Event{Session: "after"})
	one.Close()
	if got := read(t, path); len(got) != 1 || got[0] != "after" {
		t.Errorf("after rotation: %q", got)
	}
	if n := len(read(t, path+".1")); n != 2*each {
		t.Errorf("%d lines in the old file", n)
	}
	var none *Log
	none.Record(Event{})
	if err := none.Close(); err != nil {
		t.Error(err)
	}
}

// stuck is a disk that takes nothing until it is told.
type stuck struct{ go_ chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	<-s.go_
	return len(p), nil
}

// TestStuck: who records waits for a moment and not for the disk, and what is lost is counted.
func TestStuck(t *testing.T) {
	disk := stuck{make(chan struct{})}
	var lost atomic.Int64
	l := New(disk, func() { lost.Add(1) }, func(error) {})
	const more = 5
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range queued + 1 + more { // one is with the writer
			l.Record(Event{})
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it waits for the disk")
	}
	if n := lost.Load(); n < more || n > more+1 {
		t.Errorf("%d are lost", n)
	}
	l.last = time.Millisecond
	if err := l.Close(); err == nil || !strings.Contains(err.Error(), "not written") {
		t.Errorf("closed with a disk that hangs: %v", err)
	}
	close(disk.go_)
	l.last = lastPatience
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	before := lost.Load()
	l.Record(Event{})
	if lost.Load() != before+1 {
		t.Error("an event after the end is not counted")
	}
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, errors.New("no space left") }

// TestFull: a disk that is full is told of once, and every event counted.
func TestFull(t *testing.T) {
	var lost, told atomic.Int64
	l := New(full{}, func() { lost.Add(1) }, func(error) { told.Add(1) })
	for range 3 {
		l.Record(Event{})
	}
	l.Close()
	if lost.Load() != 3 || told.Load() != 1 {
		t.Errorf("%d lost, told %d times", lost.Load(), told.Load())
	}
}

// TestLink: who owns the log's directory has no other file made, written or given to
// them by root.
func TestLink(t *testing.T) {
	there, made := filepath.Join(t.TempDir(), "there"), filepath.Join(t.TempDir(), "made")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{there, made} {
		path := filepath.Join(t.TempDir(), "audit.log")
		if err := os.Symlink(target, path); err != nil {
			t.Fatal(err)
		}
		l, err := Open(path, func() {}, func(error) {})
		if err == nil {
			l.Record(Event{})
			l.Close()
			t.Errorf("%s is opened through a link", target)
		}
	}
	if st, err := os.Stat(there); err != nil || st.Size() > 0 {
		t.Errorf("it is written to: %v, %v", st, err)
	}
	if _, err := os.Stat(made); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is made: %v", err)
	}
}
