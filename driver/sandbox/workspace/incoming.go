// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/fuse"
	"github.com/buntime/buntime/driver/sandbox/loop"
)

// Source brings an image's content. Its methods may be called from any goroutine.
type Source interface {
	// Need returns when n bytes of the image from off on are as they have to be, which
	// lasts, or with an error when they cannot be any more.
	Need(off, n int64) error
	// Done is closed when all is there.
	Done() <-chan struct{}
	// Close ends it. What waits in Need gets an error, unless all is there.
	Close()
}

// incoming is the file between a loop device and an image that is in use before all
// of it is there. It stays in between until the workspace ends: the kernel has no way
// of taking it out.
type incoming struct {
	server *fuse.Server
	image  *os.File
	bound  bound

	mu       sync.Mutex
	source   Source        // nil until it is known, after a restart
	supplied chan struct{} // closed when it is
	ended    chan struct{} // closed when there will be none
}

// errNoSource is what who waits gets when the workspace ends before its content has
// come.
var errNoSource = errors.New("the workspace has ended before all of it was there")

func newIncoming(image *os.File) *incoming {
	return &incoming{image: image, supplied: make(chan struct{}), ended: make(chan struct{})}
}

// bound is how a loop device says what it is bound to, and noted for another process.
type bound struct {
	Loop string // path of the device
	Mark string // of the device: no other, before or after, has the same
	loop.Identity
}

// NoteFile is where it is noted what a workspace is bound to, in the folder that Manager.CreateFrom is given.
const NoteFile = "incoming.json"

func (b bound) note(dir string) error {
	text, err := json.Marshal(b)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, NoteFile), text, 0o600)
	}
	if err != nil {
		return fmt.Errorf("note what the workspace is bound to: %w", err)
	}
	return nil
}

// readBound reads what was noted in a folder.
func readBound(dir string) (b bound, err error) {
	text, err := os.ReadFile(filepath.Join(dir, NoteFile))
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err != nil {
		return b, fmt.Errorf("read what the workspace is bound to: %w", err)
	}
	return b, nil
}

// Release ends what is left of a workspace that was made with a Source, and notes in
// a folder, when nobody can serve it any more: whoever waits for content of it gets
// an error. What waits may be a process that died, as long as its thread waits for
// what only it could have answered.
func Release(notes string) error {
	b, err := readBound(notes)
	if err != nil {
		return err
	}
	dev, err := loop.Open(b.Loop, b.Mark)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release workspace: %w", err)
	}
	return errors.Join(fuse.Abort(b.Dev), dev.Close())
}

// Bound is the loop device that a workspace is bound to whose notes are in a folder, ""
// if it is not any more.
func Bound(notes string) string {
	b, err := readBound(notes)
	if err != nil {
		return ""
	}
	dev, err := loop.Open(b.Loop, b.Mark)
	if err != nil {
		return ""
	}
	dev.Close()
	return b.Loop
}

// supply says what brings the content.
func (i *incoming) supply(source Source) {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.ended:
		source.Close()
		return
	default:
	}
	i.source = source
	close(i.supplied)
}

// attach binds the image to a loop device by way of a server.
func (i *incoming) attach(mode loop.Mode) (_ *os.File, err error) {
	st, err := i.image.Stat()
	if err != nil {
		return nil, err
	}
	server, fd, err := fuse.New(i, st.Size())
	if err != nil {
		return nil, err
	}
	i.server = server
	defer unix.Close(fd)
	var file unix.Stat_t
	if err := unix.Fstat(fd, &file); err != nil {
		return nil, fmt.Errorf("look at file of FUSE: %w", err)
	}
	mark := "buntime " + rand.Text()
	dev, err := loop.AttachFD(fd, i.image.Name(), mark, mode)
	if err != nil {
		return nil, err
	}
	i.bound = bound{dev.Name(), mark, loop.Identity{Dev: file.Dev, Ino: file.Ino}}
	return dev, nil
}

// resume goes on where a process has died. It takes dev over.
func (i *incoming) resume(dev int, b bound) error {
	st, err := i.image.Stat()
	if err != nil {
		return errors.Join(err, unix.Close(dev))
	}
	i.bound = b
	i.server, err = fuse.Resume(dev, i, st.Size())
	return err
}

// end has who waits for content get errors, if it has not all come.
func (i *incoming) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.ended:
		return
	default:
	}
	close(i.ended)
	if i.source != nil {
		i.source.Close()
	}
}

// close ends the server: when nothing is bound to it any more, or another process is
// to go on. Who waits then goes on waiting.
func (i *incoming) close() error {
	if i.server == nil {
		i.end()
		return nil
	}
	err := i.server.Stop()
	i.end()
	return ignore(errors.Join(err, i.server.Close()), os.ErrClosed)
}

// complete waits until all has come.
func (i *incoming) complete(ctx context.Context) error {
	select {
	case <-i.supplied:
	case <-i.ended:
		return errNoSource
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-i.source.Done():
		return nil
	case <-i.ended:
		return errNoSource
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Ready implements fuse.File.
func (i *incoming) Ready(int64, int64) bool {
	select {
	case <-i.supplied:
	default:
		return false
	}
	select {
	case <-i.source.Done():
		return true
	default:
		return false
	}
}

func (i *incoming) need(off, n int64) error {
	if n == 0 || i.Ready(off, n) {
		return nil
	}
	select {
	case <-i.supplied:
		return i.source.Need(off, n)
	case <-i.ended:
		return errNoSource
	}
}

// ReadAt implements fuse.File.
func (i *incoming) ReadAt(p []byte, off int64) (int, error) {
	if err := i.need(off, int64(len(p))); err != nil {
		return 0, err
	}
	return i.image.ReadAt(p, off)
}

// WriteAt implements fuse.File.
func (i *incoming) WriteAt(p []byte, off int64) (int, error) {
	if err := i.need(off, int64(len(p))); err != nil {
		return 0, err
	}
	return i.image.WriteAt(p, off)
}

// Fallocate implements fuse.File.
func (i *incoming) Fallocate(mode uint32, off, n int64) error {
	if err := i.need(off, n); err != nil {
		return err
	}
	return unix.Fallocate(int(i.image.Fd()), mode, off, n)
}

// Supply says what brings the content of a workspace that was opened before all of
// it had come.
func (w *Workspace) Supply(source Source) {
	if w.incoming == nil {
		source.Close()
		return
	}
	w.incoming.supply(source)
}

// Complete waits until all of the workspace has come.
func (w *Workspace) Complete(ctx context.Context) error {
	if w.incoming == nil {
		return nil
	}
	if err := w.incoming.complete(ctx); err != nil {
		return fmt.Errorf("wait for the rest of workspace %s: %w", w.id, err)
	}
	return nil
}

// Abandon has whoever waits for content that has not come get an error instead: a
// process that waits for it cannot be killed.
func (w *Workspace) Abandon() {
	if w.incoming != nil {
		w.incoming.end()
	}
}

// Keep returns a descriptor that somebody has to hold who lives as long as the
// sandbox, or -1 if there is nothing to hold: with it the workspace outlives this
// process. The caller closes it.
func (w *Workspace) Keep() (int, error) {
	if w.incoming == nil {
		return -1, nil
	}
	return w.incoming.server.Device()
}
