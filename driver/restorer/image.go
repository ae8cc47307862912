// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package restorer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/workspace"
	"github.com/buntime/buntime/driver/snapshot"
)

// image is one that is served.
type image struct {
	id    string
	begun chan struct{} // closed when there is either err or what follows
	err   error

	server *workspace.Server
	lazy   *snapshot.Lazy // nil if all was there at the beginning
	forget func()         // what the repository knows

	done  chan struct{} // closed when all is there
	early []uint32      // then
}

// begin begins to serve an image. It takes the descriptors over, the first of which is
// the device.
func (s *server) begin(ctx context.Context, i *image, m message, fds []int) (err error) {
	file, err := i.restore(ctx, s, m, fds[1:])
	if err != nil {
		closeAll(fds[:1])
		return err
	}
	var content workspace.Content
	if i.lazy != nil {
		content = i.lazy
	}
	if i.server, err = workspace.Serve(fds[0], file, content); err != nil {
		if i.lazy != nil {
			i.lazy.Close()
		}
		return errors.Join(err, file.Close())
	}
	return nil
}

// restore begins to restore the image, and returns it open. given is the image if there
// was one before.
func (i *image) restore(ctx context.Context, s *server, m message, given []int) (*os.File, error) {
	path, again := m.Path, len(given) > 0
	if again {
		path = fmt.Sprintf("/proc/self/fd/%d", given[0]) // it may have another name by now
		defer closeAll(given)
	}
	// A restore that came to its end has left no note, and its image is not to be touched.
	restore := m.Restore
	if again && restore != nil {
		if _, err := os.Stat(restore.Arrived); errors.Is(err, fs.ErrNotExist) {
			restore = nil
		}
	}
	if restore != nil {
		repo, err := s.repository(restore.Store)
		if err != nil {
			return nil, err
		}
		i.lazy, err = repo.RestoreLazily(ctx, restore.Session, restore.Pointer, path, restore.Arrived)
		if err != nil {
			return nil, err
		}
		i.forget = func() { repo.Forget(restore.Session.ID) }
	}
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		if i.lazy != nil {
			i.lazy.Close()
		}
		return nil, fmt.Errorf("open image: %w", err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

// watch sees an image to its end.
func (s *server) watch(i *image) {
	if i.lazy == nil {
		close(i.done)
	} else {
		select {
		case <-i.lazy.Done():
			i.early = i.lazy.Learnt()
			i.lazy = nil // a big image has much to know of
			close(i.done)
		case <-i.server.Gone():
		}
		i.forget()
	}
	<-i.server.Gone()
	// Nobody hears it: it is gone.
	_ = i.server.Close()
	s.drop(i)
}
