// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package dir is a store in a directory: of this machine, or of a file server
// that all nodes mount at the same place.
//
// An object is a file, and its time of modification is the time at which it
// expires.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/snapshot/store"
)

// temporary begins the names of files that are being written. No object's name
// begins with a dot.
const temporary = ".new-"

// abandoned is how old a file has to be that is still being written for Sweep to
// take its writer for dead.
const abandoned = time.Hour

// Store is a store in a directory. The zero value is not usable; see New.
type Store struct {
	dir  string
	stop context.CancelFunc
	work sync.WaitGroup
}

var _ store.Store = (*Store)(nil)

// New returns the store in dir, which is made if there is none, and sweeps it
// every interval until Close. Any number of processes may use the same directory.
func New(dir string, interval time.Duration) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make store: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	s := &Store{dir: dir, stop: stop}
	s.work.Go(func() { s.sweepAlways(ctx, interval) })
	return s, nil
}

// Close ends the sweeping.
func (s *Store) Close() error {
	s.stop()
	s.work.Wait()
	return nil
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, filepath.FromSlash(name)) }

// Put implements store.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte, expires time.Time) error {
	err := store.ValidName(name)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = s.put(s.path(name), data, expires)
	}
	if err != nil {
		return fmt.Errorf("put object %s: %w", name, err)
	}
	return nil
}

func (s *Store) put(path string, data []byte, expires time.Time) (err error) {
	dir := filepath.Dir(path)
	f, err := createTemp(dir)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := os.Chtimes(f.Name(), time.Time{}, expires); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	// The name too has to outlive a crash, and so have those of new folders.
	for ; ; dir = filepath.Dir(dir) {
		// A sweep may have taken it already, if it has expired, and folders with it.
		if err := syncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if dir == s.dir {
			return nil
		}
	}
}

// createTemp creates a file in dir, which Delete or a sweep may just be removing
// because it is empty.
func createTemp(dir string) (*os.File, error) {
	for try := 0; ; try++ {
		if err := os.MkdirAll(dir, 0o700); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		f, err := os.CreateTemp(dir, temporary)
		if !errors.Is(err, fs.ErrNotExist) || try == 100 {
			return f, err
		}
	}
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, name string, offset int64, p []byte) error {
	err := store.ValidName(name)
	if err == nil {
		err = context.Cause(ctx)
	}
	if err == nil {
		err = s.get(name, offset, p)
	}
	if err != nil {
		return fmt.Errorf("get object %s: %w", name, err)
	}
	return nil
}

func (s *Store) get(name string, offset int64, p []byte) error {
	f, err := os.Open(s.path(name))
	if err != nil {
		return known(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.ModTime().After(time.Now()) {
		return store.ErrNotExist
	}
	if _, err := f.ReadAt(p, offset); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	return nil
}

// Delete implements store.Store.
func (s *Store) Delete(_ context.Context, name string) error {
	if err := store.ValidName(name); err != nil {
		return fmt.Errorf("delete object: %w", err)
	}
	if err := os.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete object %s: %w", name, err)
	}
	s.removeEmpty(filepath.Dir(s.path(name)))
	return nil
}

// removeEmpty removes a folder, and those it is in, as far as they are empty.
func (s *Store) removeEmpty(dir string) {
	for ; strings.HasPrefix(dir, s.dir+string(filepath.Separator)); dir = filepath.Dir(dir) {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return
		}
	}
}

// Expire implements store.Store.
func (s *Store) Expire(_ context.Context, name string, expires time.Time) error {
	err := store.ValidName(name)
	if err == nil {
		err = s.get(name, 0, nil) // which also tells whether it has expired
	}
	if err != nil {
		return fmt.Errorf("set expiry of object %s: %w", name, err)
	}
	if err := os.Chtimes(s.path(name), time.Time{}, expires); err != nil {
		return fmt.Errorf("set expiry of object %s: %w", name, known(err))
	}
	return nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, folder string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		err := s.walk(ctx, s.path(folder), func(path string, info fs.FileInfo) error {
			if hidden(path) || !info.ModTime().After(time.Now()) {
				return nil
			}
			rel, err := filepath.Rel(s.dir, path)
			if err == nil && !yield(filepath.ToSlash(rel), nil) {
				err = fs.SkipAll
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.SkipAll) {
			yield("", fmt.Errorf("list objects of %s: %w", folder, err))
		}
	}
}

// Folders implements store.Store.
func (s *Store) Folders(ctx context.Context, beginning string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		entries, err := os.ReadDir(s.dir)
		if err != nil {
			yield("", fmt.Errorf("list folders: %w", err))
			return
		}
		for _, e := range entries {
			if !e.IsDir() || !strings.HasPrefix(e.Name(), beginning) {
				continue
			}
			for _, err := range s.List(ctx, e.Name()) {
				if !yield(e.Name(), err) || err != nil {
					return
				}
				break // there is an object; which does not matter
			}
		}
	}
}

// Sweep removes what has expired, and what writers left that have died.
func (s *Store) Sweep(ctx context.Context) error {
	now := time.Now()
	err := s.walk(ctx, s.dir, func(path string, info fs.FileInfo) error {
		end := info.ModTime()
		if hidden(path) {
			st, err := changed(path)
			if err != nil {
				return known(err)
			}
			end = st.Add(abandoned)
		}
		if end.After(now) {
			return nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		s.removeEmpty(filepath.Dir(path))
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrNotExist) {
		return fmt.Errorf("sweep store: %w", err)
	}
	return nil
}

// changed is when a file was last written or given its times: its time of
// modification may be its expiry already.
func changed(path string) (time.Time, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return time.Time{}, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return time.Unix(st.Ctim.Unix()), nil
}

// sweepAlways has no one to tell of an error; the next turn tries again.
func (s *Store) sweepAlways(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		_ = s.Sweep(ctx)
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// walk visits the files below dir. What goes while it looks was not there.
func (s *Store) walk(ctx context.Context, dir string, visit func(string, fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil && !e.IsDir() {
			var info fs.FileInfo
			if info, err = e.Info(); err == nil {
				return visit(path, info)
			}
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

func hidden(path string) bool { return strings.HasPrefix(filepath.Base(path), ".") }

// known turns the error of a file that is not there into the store's.
func known(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return store.ErrNotExist
	}
	return err
}
