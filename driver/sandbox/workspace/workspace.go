// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package workspace makes the file systems of sandboxes: each an ext4 of its
// own on a sparse image of the size of its limit, so that the limit is the
// kernel's and the whole can be dropped at once. Nothing of it is attached in
// the host's mount namespace.
package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

// Config of a Manager.
type Config struct {
	// Dir is where the images lie.
	Dir string
	// Ready workspaces of ReadySize bytes are kept made in advance.
	Ready     int
	ReadySize int64
}

// Manager makes and finds workspaces. Its methods may be called at the same
// time.
type Manager struct {
	config Config
	log    hclog.Logger
	making sync.Mutex // of templates

	ready  chan *Workspace
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// New opens the images in a directory. Of an earlier process it removes what
// was only made in advance, or was on its way out.
func New(config Config, log hclog.Logger) (*Manager, error) {
	if err := os.MkdirAll(config.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory of workspaces: %w", err)
	}
	old, err := filepath.Glob(filepath.Join(config.Dir, "*"))
	if err != nil {
		return nil, err
	}
	for _, name := range old {
		base := filepath.Base(name)
		if strings.HasPrefix(base, "ready-") || strings.HasPrefix(base, "gone-") || strings.HasSuffix(base, ".new") {
			if err := os.Remove(name); err != nil {
				return nil, fmt.Errorf("remove left-over workspace: %w", err)
			}
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	m := &Manager{config: config, log: log, ready: make(chan *Workspace), cancel: cancel}
	for n := range config.Ready {
		m.tasks.Go(func() { m.keepReady(ctx, n) })
	}
	return m, nil
}

// Close lets go of what was made in advance. Workspaces in use stay.
func (m *Manager) Close() error {
	m.cancel()
	m.tasks.Wait()
	return nil
}

// keepReady makes workspace after workspace, each when the one before is taken.
func (m *Manager) keepReady(ctx context.Context, n int) {
	for i := 0; ctx.Err() == nil; i++ {
		w, err := m.make(ctx, fmt.Sprintf("ready-%d-%d", n, i), m.config.ReadySize)
		if err != nil {
			if ctx.Err() == nil {
				// Create meets the same error and returns it to who waits.
				m.log.Warn("workspaces are not made in advance any more", "error", err)
			}
			return
		}
		select {
		case m.ready <- w:
		case <-ctx.Done():
			if err := w.Destroy(context.WithoutCancel(ctx)); err != nil {
				m.log.Warn("could not remove a workspace made in advance", "error", err)
			}
		}
	}
}

// Workspace is one mounted file system.
type Workspace struct {
	manager *Manager
	path    string

	mu    sync.Mutex
	mount *os.File // attached nowhere; nil once destroyed
}

// ErrGone is a workspace that is mounted nowhere any more.
var ErrGone = errors.New("workspace is gone")

func (m *Manager) image(id string) string { return filepath.Join(m.config.Dir, id+".img") }

// Create makes an empty workspace. Its root belongs to 1000:1000, as stored.
func (m *Manager) Create(ctx context.Context, id string, size int64) (*Workspace, error) {
	if size == m.config.ReadySize {
		select {
		case w := <-m.ready:
			if err := os.Rename(w.path, m.image(id)); err != nil {
				return nil, errors.Join(err, w.Destroy(ctx))
			}
			w.path = m.image(id)
			return w, nil
		default:
		}
	}
	return m.make(ctx, id, size)
}

func (m *Manager) make(ctx context.Context, id string, size int64) (*Workspace, error) {
	template, err := m.template(ctx, size)
	if err != nil {
		return nil, fmt.Errorf("make an empty file system of %d bytes: %w", size, err)
	}
	w := &Workspace{manager: m, path: m.image(id)}
	if err := clone(template, w.path); err != nil {
		return nil, errors.Join(fmt.Errorf("copy an empty file system: %w", err), os.Remove(w.path))
	}
	if w.mount, err = mountImage(w.path); err != nil {
		return nil, errors.Join(err, os.Remove(w.path))
	}
	return w, nil
}

// Open finds a workspace again that a sandbox uses since before a restart. An
// error is ErrGone when none does; Destroy then removes what is left of it.
func (m *Manager) Open(_ context.Context, id string) (*Workspace, error) {
	w := &Workspace{manager: m, path: m.image(id)}
	dev, err := deviceOf(w.path)
	if err != nil {
		return w, err
	}
	w.mount, err = mountDevice(dev)
	return w, err
}

// deviceOf finds the loop device that has an image.
func deviceOf(image string) (string, error) {
	names, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil && strings.TrimSpace(string(b)) == image {
			return "/dev/" + strings.Split(name, "/")[3], nil
		}
	}
	return "", fmt.Errorf("find the loop device of %s: %w", image, ErrGone)
}

// Root gives access to the files from the host, with owners as they are stored.
// The caller closes it.
func (w *Workspace) Root() (*os.Root, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mount == nil {
		return nil, ErrGone
	}
	return os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", w.mount.Fd()))
}

// IDMapped returns a mount of the workspace, attached nowhere, in which owners
// appear as the user namespace maps them: for a sandbox to attach.
func (w *Workspace) IDMapped(userns *os.File) (*os.File, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mount == nil {
		return nil, ErrGone
	}
	// Mounted a second time, not cloned: before Linux 6.15 only a mount that is
	// attached somewhere can be cloned.
	f, err := mountDevice(w.mount.Name())
	if err != nil {
		return nil, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(int(f.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		f.Close()
		return nil, fmt.Errorf("map owners of workspace: %w", err)
	}
	return f, nil
}

// Usage is what a workspace holds, in bytes and inodes.
type Usage struct {
	Used, Free            uint64
	InodesUsed, InodesAll uint64
}

// Usage reads it.
func (w *Workspace) Usage() (Usage, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mount == nil {
		return Usage{}, ErrGone
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(w.mount.Fd()), &st); err != nil {
		return Usage{}, fmt.Errorf("read usage of workspace: %w", err)
	}
	size := uint64(st.Bsize)
	return Usage{
		Used: (st.Blocks - st.Bfree) * size, Free: st.Bavail * size,
		InodesUsed: st.Files - st.Ffree, InodesAll: st.Files,
	}, nil
}

// ext4Shutdown is EXT4_IOC_SHUTDOWN with its flag NOLOGFLUSH: what is not yet
// written never will be, so that the last unmount is quick.
const (
	ext4Shutdown = 0x8004587d
	noLogFlush   = 2
)

// Destroy drops the file system with all that is in it. The sandbox that used
// it has ended. It may be called again.
func (w *Workspace) Destroy(context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mount != nil {
		if err := shutdown(w.mount); err != nil {
			return fmt.Errorf("shut workspace down: %w", err)
		}
		w.mount.Close()
		w.mount = nil
	}
	if err := os.Remove(w.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove image of workspace: %w", err)
	}
	return nil
}

func shutdown(mount *os.File) error {
	// The ioctl wants a file of the file system; a mount's descriptor is only
	// a path.
	fd, err := unix.Openat(int(mount.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.IoctlSetPointerInt(fd, ext4Shutdown, noLogFlush)
}
