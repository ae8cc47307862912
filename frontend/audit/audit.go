// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package audit writes down who has done what to which session: a line of JSON for each
// event. There is nothing in it of what was done it with: neither code, commands, paths
// and contents of files, nor keys.
package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

// Event is a line.
type Event struct {
	// Time is when it was over, in UTC.
	Time time.Time `json:"time"`
	// Action is what was done, or was to be: "session.create", "files.write", "key.revoke".
	Action string `json:"action"`
	// Outcome is "ok", or the code of the error.
	Outcome string `json:"outcome"`
	// Account and Key are whose key it was, and which: an id that is no secret. Both are
	// empty of who has shown none that is good.
	Account string `json:"account,omitempty"`
	Key     string `json:"key,omitempty"`
	// By is the user of the machine who has run a command.
	By string `json:"by,omitempty"`
	// Subject is the id of the key that was changed.
	Subject   string `json:"subject,omitempty"`
	Session   string `json:"session,omitempty"`
	Execution string `json:"execution,omitempty"`
	Request   string `json:"request,omitempty"`
	// Remote is the address that the request came from.
	Remote string `json:"remote,omitempty"`
	// Status is the answer's.
	Status int `json:"status,omitempty"`
	// Took is in milliseconds.
	Took int64 `json:"took,omitempty"`
}

const (
	// queued is how many events may wait for the disk: half a megabyte.
	queued = 2048
	// patience is how long who has an event waits for room. What finds none is lost, and
	// counted: a disk that hangs must not be the end of the service.
	patience = 20 * time.Millisecond
	// lastPatience is how long the end waits for what is queued to be written.
	lastPatience = 3 * time.Second
	// lookEvery is how often it is looked whether the file is still there under its name.
	lookEvery = time.Second
)

// Log takes events. A nil *Log takes none.
type Log struct {
	path string // "" for a Writer
	to   io.Writer
	file *os.File
	seen time.Time // of the file under its name
	lost func()
	fail func(error)
	// lookEvery and lastPatience, but in tests
	every, last time.Duration

	mu     sync.RWMutex // held for writing by Close
	closed bool
	events chan Event
	done   chan struct{}
}

// Open makes a log: of standard output for "stdout", nil for "", and otherwise in a file,
// which is made for its owner only and is added to. Somebody may rename it, as logrotate
// does: then there is a new one. lost is told of each event that is not in it; failed why,
// when that begins.
func Open(path string, lost func(), failed func(error)) (*Log, error) {
	switch path {
	case "":
		return nil, nil
	case "stdout":
		return New(os.Stdout, lost, failed), nil
	}
	l := &Log{path: path, lost: lost, fail: failed}
	if err := l.open(); err != nil {
		return nil, err
	}
	return newLog(l), nil
}

// New makes a log of w.
func New(w io.Writer, lost func(), failed func(error)) *Log {
	return newLog(&Log{to: w, lost: lost, fail: failed})
}

func newLog(l *Log) *Log {
	l.events, l.done = make(chan Event, queued), make(chan struct{})
	l.every, l.last = lookEvery, lastPatience
	go l.run()
	return l
}

func (l *Log) open() error {
	// No link: root may open it in a directory of the front-end's user, to whom it must not
	// make, write or give a file elsewhere.
	f, err := os.OpenFile(l.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if errors.Is(err, syscall.ELOOP) {
		return fmt.Errorf("open audit log: %s is a symbolic link; name the file itself", l.path)
	}
	if err != nil {
		return fmt.Errorf("open audit log: %w", err)
	}
	if err := give(f); err != nil {
		return errors.Join(fmt.Errorf("open audit log: %w", err), f.Close())
	}
	l.file, l.to = f, f
	return nil
}

// Record takes an event, whose Time it sets.
func (l *Log) Record(e Event) {
	if l == nil {
		return
	}
	e.Time = time.Now().UTC()
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		l.lost()
		return
	}
	select {
	case l.events <- e:
		return
	default:
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case l.events <- e:
	case <-late.C:
		l.lost()
	}
}

// Close writes what waits. It is an error if the disk does not take that in time.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.mu.Lock()
	was := l.closed
	l.closed = true
	if !was {
		close(l.events)
	}
	l.mu.Unlock()
	late := time.NewTimer(l.last)
	defer late.Stop()
	select {
	case <-l.done:
		return nil
	case <-late.C:
		return fmt.Errorf("close audit log: %d events were not written within %s", len(l.events)+1, l.last)
	}
}

func (l *Log) run() {
	defer close(l.done)
	failing := false
	for e := range l.events {
		err := l.write(e)
		if err != nil {
			l.lost()
			if !failing {
				l.fail(err)
			}
		}
		failing = err != nil
	}
	if l.file != nil {
		_ = l.file.Close() // each line is with the kernel already
	}
}

func (l *Log) write(e Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event: %w", err)
	}
	if err := l.look(); err != nil {
		return err
	}
	// In one write, so that no other process's line comes in between.
	if _, err := l.to.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write audit log: %w", err)
	}
	return nil
}

// look opens the file anew if it has got another name, or none.
func (l *Log) look() error {
	now := time.Now()
	if l.path == "" || now.Sub(l.seen) < l.every {
		return nil
	}
	there, err := os.Stat(l.path)
	if err == nil {
		var ours os.FileInfo
		if ours, err = l.file.Stat(); err == nil && os.SameFile(there, ours) {
			l.seen = now
			return nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at audit log: %w", err)
	}
	old := l.file
	if err := l.open(); err != nil {
		return err
	}
	l.seen = now
	return old.Close()
}
