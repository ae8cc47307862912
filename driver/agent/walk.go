// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The bounds of a walk through the workspace on the host's account: a session
// may nest directories as deep and make files as many as its disk takes.
const (
	maxDepth   = 256
	maxEntries = 200_000
)

var (
	errDeep = errors.New("directories are nested too deep")
	errMany = errors.New("too many entries")
)

// walk calls f for all entries below dir, which it goes down by descriptor:
// each step costs the same at any depth, and a link is never followed. It stops
// with errDeep or errMany at its bounds, and when ctx is done.
func walk(ctx context.Context, dir *os.File, f func(depth int, d fs.DirEntry) (descend bool)) error {
	left := maxEntries
	return walkDir(ctx, dir, 1, &left, f)
}

func walkDir(ctx context.Context, dir *os.File, depth int, left *int, f func(int, fs.DirEntry) bool) error {
	for {
		entries, err := dir.ReadDir(512)
		for _, d := range entries {
			if *left--; *left < 0 {
				return errMany
			}
			if !f(depth, d) || !d.IsDir() {
				continue
			}
			if depth == maxDepth {
				return errDeep
			}
			fd, err := unix.Openat(int(dir.Fd()), d.Name(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				continue // deleted or replaced meanwhile
			}
			sub := os.NewFile(uintptr(fd), d.Name())
			err = walkDir(ctx, sub, depth+1, left, f)
			sub.Close()
			if err != nil {
				return err
			}
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// countTimeout bounds how long the files are counted.
const countTimeout = 500 * time.Millisecond

// count returns the number of files in the workspace, without our own: of very
// many or deeply nested ones those that were met within the bounds.
func (f *files) count(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, countTimeout)
	defer cancel()
	dir, err := f.root.Open(".")
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	n := 0
	err = walk(ctx, dir, func(depth int, d fs.DirEntry) bool {
		if entryName.MatchString(d.Name()) || depth == 1 && d.Name() == historyDir {
			return false
		}
		if !d.IsDir() {
			n++
		}
		return true
	})
	if errors.Is(err, errDeep) || errors.Is(err, errMany) || errors.Is(err, context.DeadlineExceeded) {
		err = nil
	}
	return n, err
}
