// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

const (
	// removeBatch is how many names of a directory are read at a time: those of
	// all directories on the way down are held at once.
	removeBatch = 32
	// removePasses bounds how often a directory is gone through that something
	// is put into meanwhile.
	removePasses = 8
)

// removeAll removes name and everything in it, and is content where there is
// nothing. It goes down by descriptor and follows no link but those on the way to
// name, which stay in the os.Root. What os.Root.RemoveAll takes of descriptors is
// the session's to say, one for each level; this takes one for each of maxDepth
// levels, stops with errDeep at what has entries below them, and removes one thing
// of a session's at a time. What was removed before an error stays so.
func (f *files) removeAll(ctx context.Context, name string) error {
	select {
	case f.removing() <- struct{}{}:
		defer func() { <-f.removing() }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	dir, err := f.root.OpenFile(path.Dir(name), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer dir.Close()
	return removeAt(ctx, dir, path.Base(name), 0)
}

// removeAt removes name in dir, which is depth levels below what is removed.
func removeAt(ctx context.Context, dir *os.File, name string, depth int) error {
	fail := func(op string, err error) error { return &os.PathError{Op: op, Path: name, Err: err} }
	for pass := 0; ; pass++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := unix.Unlinkat(int(dir.Fd()), name, 0)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EISDIR) {
			return fail("unlink", err)
		}
		err = unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
		switch {
		case err == nil || errors.Is(err, unix.ENOENT):
			return nil
		case errors.Is(err, unix.ENOTDIR) && pass < removePasses:
			continue // replaced meanwhile
		case !errors.Is(err, unix.ENOTEMPTY) || pass == removePasses:
			return fail("rmdir", err)
		case depth == maxDepth:
			return errDeep
		}
		fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
			continue // deleted or replaced meanwhile; the next pass tells
		}
		if err != nil {
			return fail("open", err)
		}
		sub := os.NewFile(uintptr(fd), name)
		err = empty(ctx, sub, depth+1)
		sub.Close()
		if err != nil {
			return err
		}
	}
}

// empty removes what is in dir.
func empty(ctx context.Context, dir *os.File, depth int) error {
	for {
		names, err := dir.Readdirnames(removeBatch)
		for _, name := range names {
			if err := removeAt(ctx, dir, name, depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
