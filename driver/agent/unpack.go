// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"syscall"
	"time"
)

// unpacker writes what is in a tar to the workspace. Nothing in the tar is believed:
// every name goes through the workspace's os.Root, so that whatever links there are,
// or the session makes meanwhile, nothing is written outside.
type unpacker struct {
	files *files
	// dir is the directory to unpack into; it is made if it is not there.
	dir string
	// maxFile is how many bytes one file may have, maxFiles how many entries there may be.
	maxFile, maxFiles int64
	// room is how many bytes there may be in all.
	room int64

	count, size int64 // files and bytes so far
}

func (u *unpacker) unpack(ctx context.Context, body io.Reader) error {
	var err error
	if u.dir, err = clean("path", u.dir); err != nil {
		return err
	}
	err = u.files.inside(u.dir, u.files.mkdirAll)
	if err != nil {
		return fileError("path", u.dir, err)
	}
	in := tar.NewReader(body)
	for entries := int64(0); ; entries++ {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF) && entries == 0:
			return invalid("body", "the archive is empty, or is no tar")
		case errors.Is(err, io.EOF):
			_, err := io.Copy(io.Discard, io.LimitReader(body, 1<<20)) // padding; it may be cut off before
			return u.broken(err)
		case err != nil:
			return u.broken(err)
		case entries >= u.maxFiles:
			return invalid("body", "the archive has more than the %d entries that this key allows", u.maxFiles)
		}
		if err := u.entry(h, in); err != nil {
			return err
		}
	}
}

// broken is the error for an archive that cannot be read to its end.
func (u *unpacker) broken(err error) error {
	if err == nil {
		return nil
	}
	return invalid("body", "the archive cannot be read behind %d files: %v", u.count, err)
}

func (u *unpacker) entry(h *tar.Header, body io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := u.name(h.Name)
	if err != nil {
		return err
	}
	if name == u.dir {
		if h.Typeflag == tar.TypeDir {
			return nil // the directory itself
		}
		return invalid("body", "%q in the archive has no name", h.Name)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		err = u.files.inside(name, u.files.mkdirAll)
	case tar.TypeReg:
		err = u.file(name, h, body)
	case tar.TypeSymlink:
		err = u.symlink(name, h.Linkname)
	case tar.TypeLink:
		err = u.link(name, h.Linkname)
	default:
		return invalid("body", "%q in the archive is neither file, directory nor link", h.Name)
	}
	if err != nil {
		return unpackError(h.Name, err)
	}
	return nil
}

// unpackError is fileError for an entry: what is missing is not what the caller named.
func unpackError(name string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return invalid("body", "%q in the archive needs a file that is not there", name)
	}
	return fileError("body", name, err)
}

// name is where an entry goes, relative to the workspace.
func (u *unpacker) name(name string) (string, error) {
	switch {
	case strings.IndexByte(name, 0) >= 0:
		return "", invalid("body", "a name in the archive has a NUL byte")
	case path.IsAbs(name):
		return "", invalid("body", "%q in the archive is an absolute name", name)
	case len(name) > syscall.PathMax:
		return "", invalid("body", "a name in the archive has %d bytes, more than %d", len(name), syscall.PathMax)
	}
	c := path.Clean(name)
	if c == ".." || strings.HasPrefix(c, "../") {
		return "", invalid("body", "%q in the archive leads out of its directory", name)
	}
	return path.Join(u.dir, c), nil
}

func (u *unpacker) file(name string, h *tar.Header, body io.Reader) error {
	if h.Size > u.maxFile {
		return &Error{
			Status: http.StatusRequestEntityTooLarge, Code: "file_too_large",
			Message: fmt.Sprintf("%q in the archive has %d bytes, more than the %d that this key allows a file", h.Name, h.Size, u.maxFile),
			Details: map[string]any{"field": "body"},
		}
	}
	if h.Size > u.room-u.size {
		return &Error{Status: http.StatusRequestEntityTooLarge, Code: "file_too_large", Message: errLong.Error(), Details: map[string]any{"field": "body"}}
	}
	from := &source{Reader: body}
	err := u.files.inside(name, func(name string) error {
		if from.read {
			return from.err // the content is gone
		}
		from.err = u.files.replace(name, from, fs.FileMode(h.Mode)&fs.ModePerm|0o600, h.ModTime)
		return from.err
	})
	if from.broken != nil {
		return u.broken(from.broken)
	}
	if err == nil {
		u.count++
		u.size += h.Size
	}
	return err
}

// source is an entry's content, which can be read once.
type source struct {
	io.Reader
	read   bool
	broken error // of the archive, not of the workspace
	err    error // of the file that was made of it
}

func (s *source) Read(b []byte) (int, error) {
	s.read = true
	n, err := s.Reader.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		s.broken = err
	}
	return n, err
}

// symlink makes a link. It may name what is not there, but nothing outside.
func (u *unpacker) symlink(name, target string) error {
	to := target
	if !path.IsAbs(to) {
		to = path.Join(workspaceDir, path.Dir(name), to)
	}
	if _, err := clean("body", to); err != nil || target == "" {
		return invalid("body", "the link %q in the archive leads out of %s", name, workspaceDir)
	}
	return u.files.inside(name, func(name string) error {
		if err := u.files.clear(name); err != nil {
			return err
		}
		if err := u.files.root.Symlink(target, name); err != nil {
			return err
		}
		return u.files.root.Lchown(name, u.files.uid, u.files.uid)
	})
}

// link gives a file that was unpacked before another name.
func (u *unpacker) link(name, target string) error {
	old, err := u.name(target)
	if err != nil {
		return err
	}
	if old == name {
		return nil
	}
	return u.files.inside(name, func(name string) error {
		if st, err := u.files.root.Lstat(old); err != nil {
			return err
		} else if !st.Mode().IsRegular() {
			return invalid("body", "%q in the archive is a link to what is no file", name)
		}
		if err := u.files.clear(name); err != nil {
			return err
		}
		return u.files.root.Link(old, name)
	})
}

// clear makes room for a name that is to be made: the directories above it, and
// nothing of that name.
func (f *files) clear(name string) error {
	if err := f.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	st, err := f.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return syscall.EISDIR
	}
	return f.root.Remove(name)
}

// replace puts content at a name in one step, as write does, but not through a link.
func (f *files) replace(name string, content io.Reader, mode fs.FileMode, modified time.Time) error {
	if err := f.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	if st, err := f.root.Lstat(name); err == nil && st.IsDir() {
		return syscall.EISDIR
	}
	return f.fill(name, content, mode, modified)
}
