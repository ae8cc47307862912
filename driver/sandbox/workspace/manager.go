// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/loop"
)

const (
	suffix   = ".img"
	readyDir = "ready" // below Config.Dir: made ahead, nobody's yet
	trashDir = "trash" // below Config.Dir: to be unlinked
)

// ErrNoSpace is returned by Create when the node's disk is too full.
var ErrNoSpace = errors.New("not enough space on the node's disk")

// Config of a Manager.
type Config struct {
	// Dir holds the images. The manager has it for itself.
	Dir string
	// Ready workspaces of ReadySize bytes are kept made in advance.
	Ready     int
	ReadySize int64
	// Reserve is how many bytes of the node's disk Create leaves free, beside
	// the new workspace's size; 256 MB if it is 0. Images are sparse: sessions
	// that fill theirs later can still take it below.
	Reserve int64
}

// Manager keeps the workspaces of a node.
type Manager struct {
	config Config
	log    hclog.Logger
	mkfs   string // path of mkfs.ext4

	stop  context.CancelFunc
	work  sync.WaitGroup
	ready chan *Workspace
	trash chan struct{} // has an element while the trash is not known to be empty

	serial    atomic.Uint64 // names new images
	mu        sync.Mutex
	templates map[int64]*template // by Create's size
}

// New makes a manager, which takes over the workspaces that an earlier process
// had in the same directory.
func New(config Config, log hclog.Logger) (*Manager, error) {
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil { // an agent need not have sbin in its PATH
		mkfs, err = exec.LookPath("/usr/sbin/mkfs.ext4")
	}
	if err == nil {
		_, err = os.Stat(loop.Control)
	}
	for _, d := range []string{"", readyDir, trashDir} {
		if err == nil {
			err = os.MkdirAll(filepath.Join(config.Dir, d), 0o700)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("prepare for workspaces: %w", err)
	}
	if config.Reserve == 0 {
		config.Reserve = 256 << 20
	}
	m := &Manager{
		config: config, log: log, mkfs: mkfs, templates: map[int64]*template{},
		ready: make(chan *Workspace, config.Ready), trash: make(chan struct{}, 1),
	}
	if err := m.discardAll(readyDir); err != nil {
		return nil, fmt.Errorf("prepare for workspaces: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.work.Go(func() { m.emptyTrash(ctx) })
	if config.Ready > 0 {
		m.work.Go(func() { m.keepReady(ctx) })
	}
	return m, nil
}

// Close ends the background work. Ready workspaces are dropped, all others stay.
func (m *Manager) Close() error {
	m.stop()
	m.work.Wait()
	return m.discardAll(readyDir)
}

// validID keeps ids to what is one file name, and not a hidden one.
var validID = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}$`)

func (m *Manager) path(id string) (string, error) {
	if !validID.MatchString(id) {
		return "", fmt.Errorf("%q cannot name a workspace", id)
	}
	return filepath.Join(m.config.Dir, id+suffix), nil
}

// Create makes an empty workspace for size bytes of files, or takes one that is
// ready. An error wraps fs.ErrExist if there is one of that id, and ErrNoSpace if
// the node's disk is too full.
func (m *Manager) Create(ctx context.Context, id string, size int64) (*Workspace, error) {
	path, err := m.path(id)
	if err != nil {
		return nil, err
	}
	w := m.takeReady(size)
	if w == nil {
		w, err = m.build(ctx, size)
	}
	if err != nil {
		return nil, fmt.Errorf("create workspace %s: %w", id, err)
	}
	return m.adopt(ctx, w, id, path)
}

// Fill makes an image at a path where there is nothing: one that a workspace had
// before. It is all there when Fill returns, or it makes nothing, and the Source it returns
// does.
type Fill func(ctx context.Context, path string) (Source, error)

// CreateFrom is Create with an image that fill makes. size is how large it will be
// at most. What fill has left when it fails is removed. notes is a folder for what
// OpenFrom has to know.
func (m *Manager) CreateFrom(ctx context.Context, id string, size int64, notes string, fill Fill) (*Workspace, error) {
	path, err := m.path(id)
	if err != nil {
		return nil, err
	}
	if err := m.checkSpace(size); err != nil {
		return nil, fmt.Errorf("create workspace %s: %w", id, err)
	}
	var i *incoming
	w, err := m.buildWith(func(path string) error {
		source, err := fill(ctx, path)
		if err == nil && source != nil {
			i, err = begin(ctx, source, path, m.log)
		}
		return err
	}, func(image *os.File) (*Workspace, error) {
		if i == nil {
			return m.mountImage(image, loop.Attach, restoredMode)
		}
		return m.mountIncoming(ctx, image, i)
	})
	if err != nil && i != nil {
		err = errors.Join(err, i.close())
	}
	if err == nil && w.incoming != nil {
		if err = w.incoming.bound.note(notes); err != nil {
			err = errors.Join(err, w.Destroy(ctx))
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create workspace %s: %w", id, err)
	}
	return m.adopt(ctx, w, id, path)
}

// mountIncoming mounts an image of which not all need be there.
func (m *Manager) mountIncoming(ctx context.Context, image *os.File, i *incoming) (*Workspace, error) {
	w, err := m.mountImage(image, func(_ *os.File, mode loop.Mode) (*os.File, error) { return i.attach(ctx, image, mode) }, loopMode)
	if err != nil {
		return nil, err
	}
	w.incoming = i
	_ = i.unmake() // descriptors only
	return w, nil
}

// adopt gives a workspace that is ready its id, and path.
func (m *Manager) adopt(ctx context.Context, w *Workspace, id, path string) (*Workspace, error) {
	if err := unix.Renameat2(unix.AT_FDCWD, w.path, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE); err != nil {
		return nil, errors.Join(fmt.Errorf("create workspace %s: %w", id, err), w.Destroy(ctx))
	}
	w.id, w.path = id, path
	return w, nil
}

// Open opens a workspace that was made before, perhaps by an earlier process,
// whether or not a sandbox has it mounted. An error wraps fs.ErrNotExist if there
// is none.
func (m *Manager) Open(_ context.Context, id string) (*Workspace, error) {
	return m.open(id, func(image *os.File) (*Workspace, error) { return m.mountImage(image, loop.Find, loopMode) })
}

// OpenFrom is Open for a workspace that CreateFrom has made in an earlier process,
// with the same notes. kept returns the descriptor that was kept of it (Workspace.Keep).
// If lacking, it waits for Supply.
func (m *Manager) OpenFrom(ctx context.Context, id, notes string, kept func() (int, error)) (w *Workspace, lacking bool, err error) {
	b, err := readBound(notes)
	if errors.Is(err, fs.ErrNotExist) { // all of it was there at once
		w, err := m.Open(ctx, id)
		return w, false, err
	}
	if err != nil {
		return nil, false, fmt.Errorf("open workspace %s: %w", id, err)
	}
	w, err = m.open(id, func(image *os.File) (*Workspace, error) {
		dev, err := kept()
		if err != nil {
			return nil, errors.Join(err, Release(notes)) // its sandbox has ended, or ends
		}
		i := newIncoming(dev, b, m.log)
		i.keepServed(image)
		w, err := m.mountImage(image, func(*os.File, loop.Mode) (*os.File, error) { return loop.Open(b.Loop, b.Mark) }, loopMode)
		if err != nil {
			return nil, errors.Join(err, i.close())
		}
		w.incoming = i
		return w, nil
	})
	return w, err == nil, err
}

// open opens the image of a workspace, has mount mount it, and thaws it.
func (m *Manager) open(id string, mount func(image *os.File) (*Workspace, error)) (*Workspace, error) {
	path, err := m.path(id)
	if err != nil {
		return nil, err
	}
	w, err := m.openImage(path, mount)
	if err != nil {
		return nil, fmt.Errorf("open workspace %s: %w", id, err)
	}
	w.id = id
	// A process that died may have left it frozen.
	if err := w.Thaw(); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}

// openImage opens the image at path and has mount mount it.
func (m *Manager) openImage(path string, mount func(image *os.File) (*Workspace, error)) (*Workspace, error) {
	image, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	w, err := mount(image)
	if err != nil {
		image.Close()
		return nil, err
	}
	w.path = path
	return w, nil
}

// mountImage mounts an image on the loop device that find returns.
func (m *Manager) mountImage(image *os.File, find func(*os.File, loop.Mode) (*os.File, error), mode loop.Mode) (*Workspace, error) {
	dev, err := find(image, mode)
	if err != nil {
		return nil, err
	}
	defer dev.Close() // the mount keeps it bound from now on
	mnt, err := mount(dev.Name())
	if err != nil {
		return nil, err
	}
	return &Workspace{manager: m, dev: dev.Name(), mount: mnt, image: image}, nil
}

// build makes a workspace among the ready ones.
func (m *Manager) build(ctx context.Context, size int64) (*Workspace, error) {
	if err := m.checkSpace(size); err != nil {
		return nil, err
	}
	t, err := m.template(ctx, size)
	if err != nil {
		return nil, err
	}
	return m.buildWith(t.create, func(image *os.File) (*Workspace, error) { return m.mountImage(image, loop.Attach, loopMode) })
}

// buildWith makes a workspace of the image that create makes.
func (m *Manager) buildWith(create func(path string) error, mount func(image *os.File) (*Workspace, error)) (*Workspace, error) {
	name := fmt.Sprintf("new-%d", m.serial.Add(1))
	path := filepath.Join(m.config.Dir, readyDir, name+suffix)
	if err := create(path); err != nil {
		_ = os.Remove(path)
		return nil, err
	}
	w, err := m.openImage(path, mount)
	if err != nil {
		_ = os.Remove(path)
		return nil, err
	}
	w.id = name
	return w, nil
}

// template returns the file system that workspaces of size begin as.
func (m *Manager) template(ctx context.Context, size int64) (*template, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t := m.templates[size]; t != nil {
		return t, nil
	}
	t, err := makeTemplate(ctx, m.mkfs, filepath.Join(m.config.Dir, readyDir), size)
	if err != nil {
		return nil, err
	}
	m.templates[size] = t
	return t, nil
}

func (m *Manager) checkSpace(size int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(m.config.Dir, &st); err != nil {
		return fmt.Errorf("read free space of %s: %w", m.config.Dir, err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < m.config.Reserve+size {
		return fmt.Errorf("%w: %d MB free in %s", ErrNoSpace, free>>20, m.config.Dir)
	}
	return nil
}

// Sweep drops all workspaces but those named. One that is still mounted in a
// sandbox frees its space when that ends. Not to be called beside Create.
func (m *Manager) Sweep(keep []string) error { return m.discardAll("", keep...) }

// discardAll discards the images in a directory below Config.Dir.
func (m *Manager) discardAll(dir string, keep ...string) error {
	entries, err := os.ReadDir(filepath.Join(m.config.Dir, dir))
	if err != nil {
		return fmt.Errorf("sweep workspaces: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if e.IsDir() || slices.Contains(keep, strings.TrimSuffix(e.Name(), suffix)) {
			continue
		}
		if err := m.discard(filepath.Join(m.config.Dir, dir, e.Name())); err != nil {
			errs = append(errs, fmt.Errorf("sweep workspaces: %w", err))
		}
	}
	m.poke()
	return errors.Join(errs...)
}

// discard moves an image to the trash.
func (m *Manager) discard(path string) error {
	name := fmt.Sprintf("%s.%d", filepath.Base(path), time.Now().UnixNano())
	return os.Rename(path, filepath.Join(m.config.Dir, trashDir, name))
}
