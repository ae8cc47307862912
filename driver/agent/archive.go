// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// The kinds of archives.
const (
	tarKind  = "application/x-tar"
	zstdKind = "application/zstd"
)

const (
	// sessionArchives and nodeArchives are how many archives are made or unpacked at the
	// same time. It is the plugin that does it, outside of the session's limits: each may
	// take a core, and up to 20 MB.
	sessionArchives = 2
	nodeArchives    = 16
	// archiveTimeout is how long one may take.
	archiveTimeout = 10 * time.Minute
	// archiveSlack is how much longer than a session's disk an archive may be, in bytes:
	// the heads of many small files.
	archiveSlack = 64 << 20
)

// errLong is what an archive ends with that has more than the session's disk: of files
// with holes, or of one file again and again.
var errLong = errors.New("the archive has more bytes than the session's disk")

// beginArchive takes the room that an archive needs, until end is called. room is how
// many bytes it may have.
func (s *Session) beginArchive(r *http.Request) (ctx context.Context, room int64, end func(), err error) {
	usage, err := s.box.Workspace().Usage()
	if err != nil {
		return nil, 0, nil, err
	}
	var taken []chan struct{}
	free := func() {
		for _, c := range taken {
			<-c
		}
	}
	for _, c := range []chan struct{}{s.archives, s.allArchives} {
		select {
		case c <- struct{}{}:
			taken = append(taken, c)
		default:
			free()
			return nil, 0, nil, unavailable("as many archives are read and written as there may be at a time: %d of a session, %d of its node; try again", sessionArchives, nodeArchives)
		}
	}
	ctx, cancel := context.WithTimeoutCause(r.Context(), archiveTimeout, fmt.Errorf("the archive took over %v", archiveTimeout))
	return ctx, int64(usage.Used+usage.Free) + archiveSlack, func() { cancel(); free() }, nil
}

// serveArchive answers GET /v1/files/archive with what is in a directory, as a tar that
// is made while it is read.
func (s *Session) serveArchive(w http.ResponseWriter, r *http.Request) error {
	s.awaitRecords(r.Context())
	p := r.URL.Query().Get("path")
	dir, name, err := s.files.openDir(p)
	if err != nil {
		return err
	}
	defer dir.Close()
	ctx, room, end, err := s.beginArchive(r)
	if err != nil {
		return err
	}
	defer end()
	kind := tarKind
	if r.URL.Query().Get("kind") == zstdKind {
		kind = zstdKind
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := pack(ctx, w, kind, dir, name, room); err != nil {
		s.log.Debug("an archive broke off", "path", p, "error", err)
		panic(http.ErrAbortHandler) // who reads it must not take a part for the whole
	}
	return nil
}

// pack writes the archive of a directory, whose name is relative to the workspace. Its
// files may have room bytes.
func pack(ctx context.Context, w io.Writer, kind string, dir *os.File, name string, room int64) error {
	if kind == zstdKind {
		z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return err
		}
		defer z.Close()
		if err := (&packer{ctx, tar.NewWriter(z), name, maxEntries, room}).pack(dir); err != nil {
			return err
		}
		return z.Close()
	}
	return (&packer{ctx, tar.NewWriter(w), name, maxEntries, room}).pack(dir)
}

// packer writes a tree as a tar. It goes down by descriptor and follows no link.
type packer struct {
	ctx  context.Context
	w    *tar.Writer
	root string // what is packed, relative to the workspace
	left int    // entries that there may be yet
	room int64  // bytes of files that there may be yet
}

func (p *packer) pack(dir *os.File) error {
	if err := p.dir(dir, ".", 1); err != nil {
		return err
	}
	return p.w.Close()
}

// dir packs what is in a directory. rel is its name in the archive.
func (p *packer) dir(dir *os.File, rel string, depth int) error {
	for {
		if p.ctx.Err() != nil {
			return context.Cause(p.ctx)
		}
		names, err := dir.Readdirnames(512)
		for _, name := range names {
			if hidden(path.Join(p.root, rel), name) {
				continue
			}
			if p.left--; p.left < 0 {
				return errMany
			}
			if err := p.entry(dir, name, path.Join(rel, name), depth); err != nil {
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

// entry packs one entry. One that is gone meanwhile, or is neither file, directory
// nor link, is left out.
func (p *packer) entry(dir *os.File, name, rel string, depth int) error {
	var st unix.Stat_t
	if unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil
	}
	h := &tar.Header{Name: rel, Mode: int64(st.Mode & 0o777), ModTime: time.Unix(st.Mtim.Unix())}
	h.ModTime = h.ModTime.Truncate(time.Second) // no record of its own for what is below
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(int(dir.Fd()), name, target)
		if err != nil {
			return nil
		}
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, string(target[:n]), 0o777
		return p.w.WriteHeader(h)
	case unix.S_IFDIR, unix.S_IFREG:
	default:
		return nil
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat() // it may be another one by now
	switch {
	case err != nil:
		return err
	case info.IsDir():
		if depth == maxDepth {
			return errDeep
		}
		h.Typeflag, h.Name = tar.TypeDir, rel+"/"
		if err := p.w.WriteHeader(h); err != nil {
			return err
		}
		return p.dir(f, rel, depth+1)
	case !info.Mode().IsRegular():
		return nil
	}
	h.Typeflag, h.Size = tar.TypeReg, info.Size()
	if h.Size > p.room {
		return errLong
	}
	p.room -= h.Size
	if err := p.w.WriteHeader(h); err != nil {
		return err
	}
	// What has become shorter since is filled up with zeros: the length is said.
	_, err = io.CopyN(p.w, io.MultiReader(whileWanted{p.ctx, f}, zeros{}), h.Size)
	return err
}

// whileWanted reads until a context ends.
type whileWanted struct {
	ctx context.Context
	io.Reader
}

func (w whileWanted) Read(b []byte) (int, error) {
	if w.ctx.Err() != nil {
		return 0, context.Cause(w.ctx)
	}
	return w.Reader.Read(b)
}

// zeros reads as zeros without end.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// serveUnpack answers PUT /v1/files/archive: it unpacks a tar into a directory while it
// arrives. What was unpacked before something is refused stays.
func (s *Session) serveUnpack(w http.ResponseWriter, r *http.Request) error {
	ctx, room, end, err := s.beginArchive(r)
	if err != nil {
		return err
	}
	defer end()
	q := r.URL.Query()
	u := unpacker{files: s.files, dir: q.Get("path"), room: room}
	for name, n := range map[string]*int64{"maxFile": &u.maxFile, "maxFiles": &u.maxFiles} {
		v, err := strconv.ParseInt(q.Get(name), 10, 64)
		if err != nil || v < 0 {
			return invalid(name, "%s %q is no number", name, q.Get(name))
		}
		*n = v
	}
	body := io.Reader(whileWanted{ctx, r.Body})
	if r.Header.Get("Content-Type") == zstdKind {
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			return fmt.Errorf("make decoder: %w", err)
		}
		defer z.Close()
		body = z
	}
	if err := u.unpack(ctx, body); err != nil {
		return err
	}
	if s.life.gone() {
		return errGone // what is written now is not in the snapshot
	}
	writeJSON(w, http.StatusOK, map[string]any{"path": u.dir, "files": u.count, "size": u.size})
	return nil
}

// maxZstdWindow is what a decoder may hold, in bytes: zstd's strongest level without
// --ultra has 8 MiB.
const maxZstdWindow = 8 << 20
