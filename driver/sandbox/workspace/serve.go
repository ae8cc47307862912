// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/fuse"
)

// Content brings an image's content. Its methods may be called from any goroutine.
type Content interface {
	// Need returns when n bytes of the image from off on are as they have to be, which
	// lasts, or with an error when they cannot be any more.
	Need(off, n int64) error
	// Done is closed when all is there.
	Done() <-chan struct{}
	// Close ends it. What waits in Need gets an error, unless all is there.
	Close()
}

// Server is the file between a loop device and an image that is in use before all of
// it is there. It stays in between until the workspace ends: the kernel has no way of
// taking it out. It belongs into a process that does nothing in workspaces: one that
// waits for itself cannot be killed.
type Server struct {
	fuse    *fuse.Server
	image   *os.File
	content atomic.Pointer[Content] // nil if all is there
}

// Serve serves an image on a device of FUSE, and takes both over. content is nil if
// all of it is there. The Server is to be closed.
func Serve(dev int, image *os.File, content Content) (*Server, error) {
	st, err := image.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("look at image: %w", err), unix.Close(dev))
	}
	s := &Server{image: image}
	if content != nil {
		s.content.Store(&content)
	}
	// Whoever has served it before: it may have died with the very first request.
	s.fuse, err = fuse.Resume(dev, s, st.Size())
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Gone is closed when nothing is bound to the file any more.
func (s *Server) Gone() <-chan struct{} { return s.fuse.Gone() }

// Abandon has whoever waits for content that has not come get an error.
func (s *Server) Abandon() {
	if c := s.lacks(); c != nil {
		c.Close()
	}
}

// lacks returns what brings the content, nil when it has.
func (s *Server) lacks() Content {
	c := s.content.Load()
	if c == nil {
		return nil
	}
	if closed((*c).Done()) {
		s.content.Store(nil) // a big image has much to know of
		return nil
	}
	return *c
}

// Close ends to serve. Who waits then goes on waiting, if somebody else has the device.
func (s *Server) Close() error {
	err := s.fuse.Stop()
	s.Abandon()
	return errors.Join(ignore(errors.Join(err, s.fuse.Close()), os.ErrClosed), s.image.Close())
}

// Ready implements fuse.File.
func (s *Server) Ready(int64, int64) bool { return s.lacks() == nil }

func (s *Server) need(off, n int64) error {
	if c := s.lacks(); c != nil && n != 0 {
		return c.Need(off, n)
	}
	return nil
}

// ReadAt implements fuse.File.
func (s *Server) ReadAt(p []byte, off int64) (int, error) {
	if err := s.need(off, int64(len(p))); err != nil {
		return 0, err
	}
	return s.image.ReadAt(p, off)
}

// WriteAt implements fuse.File.
func (s *Server) WriteAt(p []byte, off int64) (int, error) {
	if err := s.need(off, int64(len(p))); err != nil {
		return 0, err
	}
	return s.image.WriteAt(p, off)
}

// Fallocate implements fuse.File.
func (s *Server) Fallocate(mode uint32, off, n int64) error {
	if err := s.need(off, n); err != nil {
		return err
	}
	return unix.Fallocate(int(s.image.Fd()), mode, off, n)
}
