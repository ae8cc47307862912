// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"

	gitignore "github.com/sabhiram/go-gitignore"

	buntime "github.com/buntime/buntime/sdk/go"
)

// packed is what is to be uploaded: files and folders of here, with the names that they
// have in the archive.
type packed struct {
	entries []entry
	size    int64
	// temporary is removed when it is uploaded.
	temporary string
}

type entry struct {
	file, name string
	info       fs.FileInfo
}

func (p *packed) close() {
	if p != nil && p.temporary != "" {
		_ = os.Remove(p.temporary)
	}
}

func (p *packed) add(file, name string, info fs.FileInfo) {
	p.entries = append(p.entries, entry{file, name, info})
	if info.Mode().IsRegular() {
		p.size += info.Size()
	}
}

// packFile packs one file, whatever a link of that name leads to.
func packFile(file, name string) (*packed, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	p := &packed{}
	p.add(file, name, info)
	return p, nil
}

// packInput packs standard input as one file. Its length has to be known first.
func packInput(in io.Reader, name string) (_ *packed, err error) {
	f, err := os.CreateTemp("", "buntime-")
	if err != nil {
		return nil, fmt.Errorf("keep standard input: %w", err)
	}
	_, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("keep standard input: %w", err), os.Remove(f.Name()))
	}
	p, err := packFile(f.Name(), name)
	if err != nil {
		return nil, errors.Join(err, os.Remove(f.Name()))
	}
	p.temporary = f.Name()
	return p, nil
}

// packTree packs what is in a folder below prefix, but for what skip names.
func packTree(dir, prefix string, skip func(rel string, isDir bool) bool) (*packed, error) {
	p := &packed{}
	err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || file == dir {
			return err
		}
		rel, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if skip != nil && skip(rel, d.IsDir()) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if kind := info.Mode().Type(); kind == 0 || kind == fs.ModeDir || kind == fs.ModeSymlink {
			p.add(file, path.Join(prefix, rel), info)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	return p, nil
}

// packProject is packTree without what is made from the rest: node_modules, .git, and
// what the folder's .gitignore files name.
func packProject(dir string) (*packed, error) {
	type rules struct {
		dir string // with a final slash, or empty
		*gitignore.GitIgnore
	}
	var all []rules
	note := func(rel string) {
		if g, err := gitignore.CompileIgnoreFile(filepath.Join(dir, filepath.FromSlash(rel), ".gitignore")); err == nil {
			if rel != "" {
				rel += "/"
			}
			all = append(all, rules{rel, g})
		}
	}
	note("")
	return packTree(dir, "", func(rel string, isDir bool) bool {
		if name := path.Base(rel); isDir && (name == "node_modules" || name == ".git") {
			return true
		}
		ignored := false
		for _, r := range all { // those further down come later, and count more
			inner, ok := strings.CutPrefix(rel, r.dir)
			if !ok {
				continue
			}
			match, how := r.MatchesPathHow(inner)
			if isDir && how == nil {
				match, how = r.MatchesPathHow(inner + "/")
			}
			if how != nil {
				ignored = match
			}
		}
		if isDir && !ignored {
			note(rel)
		}
		return ignored
	})
}

// write writes the archive.
func (p *packed) write(to io.Writer) error {
	w := tar.NewWriter(to)
	for _, e := range p.entries {
		if err := e.write(w); err != nil {
			return fmt.Errorf("pack %s: %w", e.file, err)
		}
	}
	return w.Close()
}

func (e entry) write(w *tar.Writer) error {
	link := ""
	if e.info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(e.file); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(e.info, link)
	if err != nil {
		return err
	}
	h.Name, h.Uid, h.Gid, h.Uname, h.Gname = e.name, 0, 0, "", "" // whoever's it is here
	if e.info.IsDir() {
		h.Name += "/"
	}
	if !e.info.Mode().IsRegular() {
		return w.WriteHeader(h)
	}
	f, err := os.Open(e.file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(w, io.LimitReader(f, h.Size))
	if err == nil && n < h.Size {
		err = errors.New("it has become shorter meanwhile")
	}
	return err
}

// upload unpacks p into a directory of a session.
func (a *app) upload(ctx context.Context, c *buntime.Client, session, dir string, p *packed) (*buntime.Unpacked, error) {
	var done atomic.Int64
	end := a.progress("Uploading", &done, p.size)
	defer end()
	r, w := io.Pipe()
	packing := make(chan error, 1)
	go func() {
		err := p.write(w)
		w.CloseWithError(err)
		packing <- err
	}()
	out, err := c.Unpack(ctx, session, dir, counted{r, &done})
	r.CloseWithError(errUnread)
	if perr := <-packing; perr != nil && !errors.Is(perr, errUnread) {
		return nil, perr // the reason, of which err is what came
	}
	if err != nil {
		return nil, fmt.Errorf("upload: %w", err)
	}
	return out, nil
}

// errUnread is the end of an archive that nobody takes any more.
var errUnread = errors.New("the archive is not read any more")
