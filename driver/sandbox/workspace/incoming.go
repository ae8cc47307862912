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
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/fuse"
	"github.com/buntime/buntime/driver/sandbox/loop"
)

// Source has images served by another process.
type Source interface {
	// Serve has the file of a device be an image, and returns as soon as it is. It is
	// called again whenever nobody serves it any more.
	Serve(ctx context.Context, h Handover) (Service, error)
}

// Handover is what there is to serve.
type Handover struct {
	// ID tells the workspace from all others, before and after.
	ID string
	// Path is where there is to be an image, if Image is nil.
	Path  string
	Image *os.File
	// Device is FUSE's. Image and Device are the caller's.
	Device int
}

// Service is an image that is being served. Its methods may be called from any
// goroutine.
type Service interface {
	// Done is closed when all of the image is there, Broken when nobody serves it.
	Done() <-chan struct{}
	Broken() <-chan struct{}
	// End has whoever waits for what is not there get an error.
	End() error
	// Close lets go of it, and leaves it being served.
	Close()
}

// incoming is the plugin's side of what is between a loop device and an image that is
// in use before all of it is there. Whatever happens to who serves it, somebody does
// again soon.
type incoming struct {
	made  *fuse.Made // nil if an earlier process made it
	bound bound
	image *os.File // the workspace's
	log   hclog.Logger

	ctx  context.Context // ends with close
	stop context.CancelFunc
	work sync.WaitGroup

	supplied chan Source   // has the source once it is known
	complete chan struct{} // closed when all is there
	ended    chan struct{} // closed when no more will come

	mu      sync.Mutex
	device  int     // of FUSE; -1 once closed
	service Service // nil while nobody serves it
}

// errNoSource is what who waits gets when the workspace ends before its content has
// come.
var errNoSource = errors.New("the workspace has ended before all of it was there")

func newIncoming(device int, b bound, log hclog.Logger) *incoming {
	i := &incoming{
		bound: b, device: device, log: log,
		supplied: make(chan Source, 1), complete: make(chan struct{}), ended: make(chan struct{}),
	}
	i.ctx, i.stop = context.WithCancel(context.Background())
	return i
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

// begin makes the file, and has source serve it and make the image at path.
func begin(ctx context.Context, source Source, path string, log hclog.Logger) (*incoming, error) {
	made, err := fuse.Make()
	if err != nil {
		return nil, err
	}
	device, err := made.Device()
	if err != nil {
		return nil, errors.Join(err, made.Close())
	}
	i := newIncoming(device, bound{Mark: "buntime " + rand.Text(), Identity: loop.Identity{Dev: made.Dev}}, log)
	i.made = made
	i.service, err = source.Serve(ctx, Handover{ID: i.bound.Mark, Path: path, Device: device})
	if err != nil {
		return nil, errors.Join(err, i.close())
	}
	i.supplied <- source
	return i, nil
}

// attach binds the file to a loop device.
func (i *incoming) attach(ctx context.Context, image *os.File, mode loop.Mode) (*os.File, error) {
	i.keepServed(image)
	// Nobody else could end the wait for who serves it.
	defer context.AfterFunc(ctx, i.end)()
	fd, err := i.made.Open()
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var file unix.Stat_t
	if err := unix.Fstat(fd, &file); err != nil {
		return nil, fmt.Errorf("look at file of FUSE: %w", err)
	}
	dev, err := loop.AttachFD(fd, image.Name(), i.bound.Mark, mode)
	if err != nil {
		return nil, err
	}
	i.bound.Loop, i.bound.Identity = dev.Name(), loop.Identity{Dev: file.Dev, Ino: file.Ino}
	return dev, nil
}

// keepServed begins to see to it that somebody serves the image.
func (i *incoming) keepServed(image *os.File) {
	i.image = image
	i.work.Go(i.run)
}

// handOverTimeout bounds one try: the store may be slow. handOverPause is before the
// next.
const (
	handOverTimeout = 30 * time.Second
	handOverPause   = 100 * time.Millisecond
)

func (i *incoming) run() {
	var source Source
	select {
	case source = <-i.supplied:
	case <-i.ctx.Done():
		return
	}
	for i.ctx.Err() == nil {
		service, err := i.served(source)
		switch {
		case err == nil:
			i.watch(service)
			continue
		case i.over():
			return
		case i.ctx.Err() == nil:
			i.log.Warn("nobody serves a workspace yet", "error", err)
		}
		select {
		case <-time.After(handOverPause):
		case <-i.ctx.Done():
		}
	}
}

// served returns who serves the image, which is handed over if nobody does.
func (i *incoming) served(source Source) (Service, error) {
	i.mu.Lock()
	service, device := i.service, i.device
	i.mu.Unlock()
	if service != nil {
		return service, nil
	}
	if i.over() {
		return nil, errors.Join(errNoSource, fuse.Abort(i.bound.Dev))
	}
	ctx, cancel := context.WithTimeoutCause(i.ctx, handOverTimeout, fmt.Errorf("not in %s", handOverTimeout))
	defer cancel()
	service, err := source.Serve(ctx, Handover{ID: i.bound.Mark, Image: i.image, Device: device})
	if err != nil {
		return nil, err
	}
	i.mu.Lock()
	i.service = service
	i.mu.Unlock()
	if i.over() {
		_ = service.End() // or it is broken
	}
	return service, nil
}

// watch returns when nobody serves the image any more.
func (i *incoming) watch(service Service) {
	select {
	case <-service.Done():
		if !i.whole() {
			close(i.complete)
		}
	case <-service.Broken():
	case <-i.ctx.Done():
	}
	select {
	case <-service.Broken():
	case <-i.ctx.Done():
	}
	i.mu.Lock()
	i.service = nil
	i.mu.Unlock()
	service.Close()
}

// whole says whether all has come, over that not all will.
func (i *incoming) whole() bool { return closed(i.complete) }
func (i *incoming) over() bool  { return closed(i.ended) && !i.whole() }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// end has who waits for content get errors, if it has not all come.
func (i *incoming) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if closed(i.ended) || i.whole() {
		return
	}
	close(i.ended)
	if i.service == nil || i.service.End() != nil {
		if err := fuse.Abort(i.bound.Dev); err != nil {
			i.log.Warn("who waits for a workspace that has ended goes on waiting", "error", err)
		}
	}
}

// close lets go of the file: when nothing is bound to it any more, or another process
// is to go on with it.
func (i *incoming) close() error {
	i.stop()
	i.work.Wait()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.device < 0 {
		return nil
	}
	err := i.unmake()
	if i.service != nil {
		i.service.Close()
	}
	err = errors.Join(err, unix.Close(i.device))
	i.device, i.service = -1, nil
	return err
}

// unmake lets go of what the file was made by.
func (i *incoming) unmake() (err error) {
	if i.made != nil {
		err = i.made.Close()
		i.made = nil
	}
	return err
}

// wait waits until all has come.
func (i *incoming) wait(ctx context.Context) error {
	if i.whole() {
		return nil
	}
	select {
	case <-i.complete:
		return nil
	case <-i.ended:
		return errNoSource
	case <-i.ctx.Done():
		return errNoSource
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Supply says who is to serve a workspace that was opened in another process than it
// was made in. It is called once.
func (w *Workspace) Supply(source Source) {
	if w.incoming != nil {
		w.incoming.supplied <- source
	}
}

// Complete waits until all of the workspace has come.
func (w *Workspace) Complete(ctx context.Context) error {
	if w.incoming == nil {
		return nil
	}
	if err := w.incoming.wait(ctx); err != nil {
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
// sandbox, or -1 if there is nothing to hold: with it the workspace outlives who serves
// it, and this process. The caller closes it.
func (w *Workspace) Keep() (int, error) {
	if w.incoming == nil {
		return -1, nil
	}
	return unix.FcntlInt(uintptr(w.incoming.device), unix.F_DUPFD_CLOEXEC, 3)
}
