// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package credentials is what a process shows to others and what it wants to be shown:
// certificates, and tokens of Consul and Nomad. They lie in files, which are looked at
// when they are needed, once a second at most: who puts new ones in place need not
// restart anything.
package credentials

import (
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
)

// lookEvery is how long files are taken for what they were.
const lookEvery = time.Second

// fresh is a value made of files, and made anew when they have changed. What cannot be
// used is told of once, and leaves the value as it was: of a certificate and its key, one
// is there before the other.
type fresh[T any] struct {
	paths []string
	read  func() (T, error)
	fail  func(error) // may be nil

	mu     sync.Mutex
	looked time.Time
	stamps []stamp
	value  T
}

// stamp tells a file from what it was before.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
}

// open reads the files for the first time.
func (f *fresh[T]) open() error {
	f.stamps, f.looked = f.look(), time.Now()
	var err error
	f.value, err = f.read()
	return err
}

// get is the value as of now.
func (f *fresh[T]) get() T {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.looked) < lookEvery {
		return f.value
	}
	f.looked = now
	stamps := f.look() // before they are read: what changes meanwhile is seen the next time
	if equal(stamps, f.stamps) {
		return f.value
	}
	f.stamps = stamps
	value, err := f.read()
	if err == nil {
		f.value = value
	} else if f.fail != nil {
		f.fail(err)
	}
	return f.value
}

func (f *fresh[T]) look() []stamp {
	stamps := make([]stamp, len(f.paths))
	for i, path := range f.paths {
		if info, err := os.Stat(path); err == nil { // one that is away differs from one that is there
			stamps[i] = stampOf(info)
		}
	}
	return stamps
}

func stampOf(info fs.FileInfo) stamp {
	s := stamp{modified: info.ModTime(), size: info.Size()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.inode = st.Ino
	}
	return s
}

func equal(a, b []stamp) bool {
	for i := range a {
		if a[i].size != b[i].size || a[i].inode != b[i].inode || !a[i].modified.Equal(b[i].modified) {
			return false
		}
	}
	return true
}
