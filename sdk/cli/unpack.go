// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// unpacker unpacks an archive that a session has made, so that is hostile. Everything
// stays below a folder, which the kernel sees to (os.Root): no name and no link leads
// out of it. Only files, folders and links that stay inside are made; nothing is written
// through a link; no bit but those of rwx is taken.
type unpacker struct {
	root *os.Root
	// room is how many bytes, left how many entries there may be yet.
	room int64
	left int
	// refused is told what is left out, and why.
	refused func(name, why string)

	files, size int64
	skipped     int
	links       []string
}

// maxUnpacked is how many entries an archive may have.
const maxUnpacked = 1_000_000

var errLarge = errors.New("the archive has more than the session's disk has room for")

func (u *unpacker) unpack(from io.Reader) error {
	defer u.checkLinks()
	r := tar.NewReader(from)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read archive: %w", err)
		}
		if u.left--; u.left < 0 {
			return fmt.Errorf("the archive has more than %d entries", maxUnpacked)
		}
		if err := u.entry(h, r); err != nil {
			return err
		}
	}
}

func (u *unpacker) leaveOut(name, why string) {
	u.skipped++
	u.refused(name, why)
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := filepath.FromSlash(path.Clean(h.Name))
	if !filepath.IsLocal(name) {
		u.leaveOut(h.Name, "it leads out of the folder")
		return nil
	}
	if name == "." {
		return nil
	}
	if h.Size > u.room {
		return errLarge
	}
	mode := fs.FileMode(h.Mode) & 0o777
	err := u.root.MkdirAll(filepath.Dir(name), 0o755)
	switch {
	case err != nil:
	case h.Typeflag == tar.TypeDir:
		err = u.root.MkdirAll(name, mode|0o700)
	case h.Typeflag == tar.TypeReg:
		err = u.file(name, mode, content)
	case h.Typeflag == tar.TypeSymlink:
		if !inside(name, h.Linkname) {
			u.leaveOut(h.Name, "it is a link to "+h.Linkname+", out of the folder")
			return nil
		}
		if err = u.clear(name); err == nil {
			err = u.root.Symlink(h.Linkname, name)
			u.links = append(u.links, name)
		}
	default:
		u.leaveOut(h.Name, "it is neither file nor folder nor link")
		return nil
	}
	if err != nil && !errors.Is(err, errLarge) && !errors.Is(err, io.ErrUnexpectedEOF) {
		u.leaveOut(h.Name, err.Error())
		return nil
	}
	return err
}

// inside says whether a link of that name stays in the folder.
func inside(name, target string) bool {
	return target != "" && !path.IsAbs(target) && filepath.IsLocal(filepath.Join(filepath.Dir(name), filepath.FromSlash(target)))
}

// checkLinks takes those links back that lead out by way of others, as x to y/.. and y
// to the folder itself.
func (u *unpacker) checkLinks() {
	for _, name := range u.links {
		if _, err := u.root.Stat(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			u.leaveOut(name, err.Error())
			_ = u.root.Remove(name) // or it is no link any more
		}
	}
}

// clear makes room for a new entry. What is a folder stays.
func (u *unpacker) clear(name string) error {
	st, err := u.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return errors.New("there is a folder of that name")
	}
	return u.root.Remove(name)
}

// file writes a file that is new, so that there is no link to write through.
func (u *unpacker) file(name string, mode fs.FileMode, content io.Reader) (err error) {
	if err := u.clear(name); err != nil {
		return err
	}
	f, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode|0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	n, err := io.Copy(f, io.LimitReader(content, u.room+1))
	u.room -= n
	u.size += n
	u.files++
	if err == nil && u.room < 0 {
		return errLarge
	}
	return err
}

// printable makes a warning of what was left out.
func leftOut(to io.Writer) func(name, why string) {
	told := 0
	return func(name, why string) {
		const most = 20
		if told++; told <= most {
			fmt.Fprintf(to, "buntime: left out %s: %s\n", clean(name), clean(strings.TrimSpace(why)))
		}
	}
}
