// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net/http"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// workspaceDir is where the workspace lies in the sandbox.
const workspaceDir = "/workspace"

// historyDir is ours, inside the workspace.
const historyDir = ".buntime"

// files is the workspace seen from the host. Every path goes through one
// os.Root, which looks names up directory by directory and refuses to leave
// it, so a link that the session swaps meanwhile leads nowhere.
type files struct {
	root *os.Root
	// uid owns, as stored on disk, what the session's processes make.
	uid int

	removals     chan struct{} // has one in it while removeAll runs
	makeRemovals sync.Once
}

func (f *files) removing() chan struct{} {
	f.makeRemovals.Do(func() { f.removals = make(chan struct{}, 1) })
	return f.removals
}

// File is an entry of a listing.
type File struct {
	// Path is relative to the workspace.
	Path string `json:"path"`
	// Size is in bytes.
	Size     int64  `json:"size"`
	Modified string `json:"modified"`
	// Type is "file" or "directory".
	Type string `json:"type"`
}

// clean turns a/b, ./a/b and /workspace/a/b into a/b, and the workspace itself
// into ".". A path that leaves the workspace is refused.
func clean(field, p string) (string, error) {
	if strings.IndexByte(p, 0) >= 0 {
		return "", invalid(field, "path has a NUL byte")
	}
	if path.IsAbs(p) {
		c := path.Clean(p)
		if c == workspaceDir {
			return ".", nil
		}
		rest, ok := strings.CutPrefix(c, workspaceDir+"/")
		if !ok {
			return "", invalid(field, "path %q lies outside %s", p, workspaceDir)
		}
		return rest, nil
	}
	c := path.Clean(p)
	if c == ".." || strings.HasPrefix(c, "../") {
		return "", invalid(field, "path %q lies outside %s", p, workspaceDir)
	}
	return c, nil
}

// fileError turns what the file system says into an answer.
func fileError(field, p string, err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, fs.ErrNotExist):
		return notFound("file_not_found", "there is no %s in the workspace", p)
	case escapes(err):
		return invalid(field, "path %q leaves %s through a symbolic link", p, workspaceDir)
	case errors.Is(err, syscall.ENXIO): // a socket, or a device without driver
		return invalid(field, "path %q is no regular file", p)
	case errors.Is(err, syscall.ELOOP):
		return invalid(field, "path %q has too many symbolic links", p)
	case errors.Is(err, syscall.ENAMETOOLONG):
		return invalid(field, "a name in path %q is longer than the file system takes", p)
	case errors.Is(err, syscall.ENOTDIR):
		return invalid(field, "a part of path %q is a file, not a directory", p)
	case errors.Is(err, syscall.EISDIR):
		return invalid(field, "path %q is a directory", p)
	case errors.Is(err, syscall.ENOTEMPTY):
		return invalid(field, "directory %q is not empty; ask for recursive=true to delete what is in it", p)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &Error{
			Status: http.StatusInsufficientStorage, Code: "disk_full",
			Message: fmt.Sprintf("no space left in the workspace for %s; delete files or ask for a session with more disk", p),
		}
	}
	return fmt.Errorf("access %s: %w", p, err)
}

// escapes tells whether an os.Root refused to leave itself. It has no exported
// error for that.
func escapes(err error) bool {
	return err != nil && strings.HasSuffix(err.Error(), "path escapes from parent")
}

// inside calls op with name and, should a link lead out of the os.Root, once
// more with the links resolved as the session sees them: to it, a link to
// /workspace/x stays inside. However the session changes its links meanwhile,
// op goes through the os.Root.
func (f *files) inside(name string, op func(name string) error) error {
	err := op(name)
	if !escapes(err) {
		return err
	}
	resolved, ok := f.resolve(name)
	if !ok {
		return err
	}
	return op(resolved)
}

// resolve follows the symbolic links in all but the last part of name, and
// there too where the last is one with an absolute target. It is false where a
// link leaves the workspace.
func (f *files) resolve(name string) (string, bool) {
	parts := strings.Split(name, "/")
	done := "."
	for links := 0; len(parts) > 0; {
		next := path.Join(done, parts[0])
		rest := parts[1:]
		st, err := f.root.Lstat(next)
		if err != nil || st.Mode()&fs.ModeSymlink == 0 {
			if strings.HasPrefix(next, "../") || next == ".." {
				return "", false
			}
			done, parts = next, rest
			continue
		}
		link, err := f.root.Readlink(next)
		if links++; err != nil || links > 40 { // the kernel's own limit
			return "", false
		}
		if !path.IsAbs(link) {
			link = path.Join(workspaceDir, done, link)
		}
		target, err := clean("", link)
		if err != nil {
			return "", false
		}
		done, parts = ".", append(strings.Split(target, "/"), rest...)
	}
	return done, true
}

// openDir opens a directory, and returns its name with links resolved that lead out
// of the workspace as the host sees it.
func (f *files) openDir(p string) (*os.File, string, error) {
	dir, err := clean("path", p)
	if err != nil {
		return nil, "", err
	}
	var d *os.File
	err = f.inside(dir, func(name string) (err error) {
		d, err = f.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		dir = name
		return err
	})
	if err != nil {
		return nil, "", fileError("path", p, err)
	}
	st, err := d.Stat()
	if err == nil && !st.IsDir() {
		err = invalid("path", "path %q is a file, not a directory", p)
	}
	if err != nil {
		d.Close()
		return nil, "", fileError("path", p, err)
	}
	return d, dir, nil
}

// list returns one level of a directory, sorted by path, and the number of its
// entries.
func (f *files) list(p string, limit, offset int) ([]File, int, error) {
	d, dir, err := f.openDir(p)
	if err != nil {
		return nil, 0, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, 0, fileError("path", p, err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { return hidden(dir, n) })
	slices.Sort(names)
	page := names[min(offset, len(names)):]
	page = page[:min(limit, len(page))]
	out := make([]File, 0, len(page))
	for _, name := range page {
		entry := path.Join(dir, name)
		st, err := f.root.Lstat(entry)
		if err != nil {
			continue // deleted since it was listed
		}
		out = append(out, fileOf(entry, st))
	}
	return out, len(names), nil
}

// entryName is what code is run from, as long as it runs (package guest).
var entryName = regexp.MustCompile(`^\.buntime(-[0-9]+)?\.ts$`)

// hidden tells whether a name in dir is ours and not the session's.
func hidden(dir, name string) bool {
	return entryName.MatchString(name) || dir == "." && name == historyDir
}

func fileOf(p string, st fs.FileInfo) File {
	kind, size := "file", st.Size()
	if st.IsDir() {
		kind, size = "directory", 0
	}
	return File{Path: p, Size: size, Modified: timestamp(st.ModTime()), Type: kind}
}

// timestamp is a time as the API shows it.
func timestamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

// decode turns a request's content into bytes.
func decode(content, encoding string) ([]byte, error) {
	switch encoding {
	case "", "utf8":
		return []byte(content), nil
	case "base64":
		b, err := base64.StdEncoding.DecodeString(content)
		if err != nil {
			return nil, invalid("content", "content is no valid base64: %v", err)
		}
		return b, nil
	}
	return nil, invalid("encoding", "encoding %q is neither utf8 nor base64", encoding)
}

// write replaces the file at p in one step and returns its clean path. Who
// reads it meanwhile sees the old content or the new, never a part.
func (f *files) write(field, p string, content []byte) (string, error) {
	name, err := clean(field, p)
	if err != nil {
		return "", err
	}
	if name == "." || strings.HasSuffix(p, "/") {
		return "", invalid(field, "path %q names a directory", p)
	}
	err = f.inside(name, func(name string) error { return f.writeFile(name, content) })
	if err != nil {
		return "", fileError(field, p, err)
	}
	return name, nil
}

func (f *files) writeFile(name string, content []byte) error {
	if err := f.mkdirAll(path.Dir(name)); err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	switch st, err := f.root.Stat(name); {
	case err == nil && st.IsDir():
		return syscall.EISDIR
	case err == nil && !st.Mode().IsRegular():
		return invalid("path", "path %q is no regular file", name)
	case err == nil:
		mode = st.Mode().Perm()
		if name, err = f.follow(name); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return f.fill(name, bytes.NewReader(content), mode, time.Time{})
}

// fill makes a file beside name and puts it there, whatever is there. The zero time
// leaves its time as it is.
func (f *files) fill(name string, content io.Reader, mode fs.FileMode, modified time.Time) error {
	temp := path.Join(path.Dir(name), ".buntime-"+rand.Text())
	w, err := f.root.OpenFile(temp, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, content)
	if err == nil {
		err = w.Chmod(mode)
	}
	if err == nil {
		err = w.Chown(f.uid, f.uid)
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err == nil && !modified.IsZero() {
		err = f.root.Chtimes(temp, modified, modified)
	}
	if err == nil {
		err = f.root.Rename(temp, name)
	}
	if err != nil {
		// Best effort: the session may have removed it already.
		_ = f.root.Remove(temp)
	}
	return err
}

// follow resolves the last name while it is a symbolic link, so that a write
// through a link replaces its target, as a program's write would.
func (f *files) follow(name string) (string, error) {
	for range 40 { // the kernel's own limit
		st, err := f.root.Lstat(name)
		if err != nil || st.Mode()&fs.ModeSymlink == 0 {
			return name, err
		}
		link, err := f.root.Readlink(name)
		if err != nil {
			return "", err
		}
		if path.IsAbs(link) {
			if name, err = clean("path", link); err != nil {
				return "", err
			}
			continue
		}
		name = path.Join(path.Dir(name), link)
	}
	return "", syscall.ELOOP
}

// mkdirAll makes dir and its parents, each the session's own.
func (f *files) mkdirAll(dir string) error {
	if dir == "." {
		return nil
	}
	if st, err := f.root.Stat(dir); err == nil {
		if !st.IsDir() {
			return syscall.ENOTDIR
		}
		return nil
	}
	if err := f.mkdirAll(path.Dir(dir)); err != nil {
		return err
	}
	// Held open, so that what is made is what is given to the session, which may change
	// the way to it meanwhile: a directory of root's in it would be there to stay.
	parent, err := f.root.OpenRoot(path.Dir(dir))
	if err != nil {
		return err
	}
	defer parent.Close()
	err = parent.Mkdir(path.Base(dir), 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return parent.Lchown(path.Base(dir), f.uid, f.uid)
}

// open opens a regular file for reading. It never blocks: a named pipe is
// refused without waiting for its other end.
func (f *files) open(p string) (*os.File, fs.FileInfo, error) {
	name, err := clean("path", p)
	if err != nil {
		return nil, nil, err
	}
	var r *os.File
	err = f.inside(name, func(name string) (err error) {
		r, err = f.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		return err
	})
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist // to who reads, there is just nothing of that name
	}
	if err != nil {
		return nil, nil, fileError("path", p, err)
	}
	st, err := r.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = invalid("path", "path %q is no regular file", p)
		if st.IsDir() {
			err = invalid("path", "path %q is a directory", p)
		}
	}
	if err != nil {
		r.Close()
		return nil, nil, fileError("path", p, err)
	}
	return r, st, nil
}

// remove deletes a file, or a directory: an empty one, or with recursive
// everything in it, until ctx is done.
func (f *files) remove(ctx context.Context, p string, recursive bool) (string, error) {
	name, err := clean("path", p)
	if err != nil {
		return "", err
	}
	if name == "." {
		return "", invalid("path", "the workspace itself cannot be deleted")
	}
	err = f.inside(name, func(name string) error {
		if _, err := f.root.Lstat(name); err != nil {
			return err
		}
		if recursive {
			return f.removeAll(ctx, name)
		}
		return f.root.Remove(name)
	})
	if errors.Is(err, syscall.ENOTDIR) {
		err = fs.ErrNotExist
	}
	if errors.Is(err, errDeep) {
		return "", invalid("path", "%s has directories nested more than %d deep, and is not or not all deleted; delete it with a command in the session", p, maxDepth)
	}
	if err != nil {
		return "", fileError("path", p, err)
	}
	return name, nil
}

// serveFile sends a file with its type, length and ETag, whole or the Range that
// was asked for.
func serveFile(w http.ResponseWriter, r *http.Request, name string, f *os.File, st fs.FileInfo) {
	kind := mime.TypeByExtension(path.Ext(name))
	if kind == "" {
		kind = "application/octet-stream"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("ETag", etag(st))
	http.ServeContent(w, r, "", st.ModTime(), io.NewSectionReader(f, 0, st.Size()))
}

func etag(st fs.FileInfo) string {
	var ino uint64
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		ino = sys.Ino
	}
	return fmt.Sprintf(`"%x-%x-%x"`, ino, st.ModTime().UnixNano(), st.Size())
}
