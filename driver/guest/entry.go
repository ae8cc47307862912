// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"fmt"
	"os"
	"path"
	"sync"

	"golang.org/x/sys/unix"
)

// entry is the file that code is run from. Bun wants it in the directory that
// the code belongs to, for relative imports, node_modules and the compiler's
// settings, and wants a name at its start. Later it reads it again whenever it
// prints an error, for the lines of code around it, and when a worker is made of
// it. So the file is there, empty, while Bun starts, is not while the runner
// waits, and is again from the release to the end of the process.
type entry struct {
	names    *entryNames
	path     string
	uid, gid int

	mu  sync.Mutex
	dir int // descriptor: what the directory's name leads to may change; -1 once closed
}

// entryNames hands out the names of entries: the first of .buntime.ts,
// .buntime-2.ts, … that no runner in the same directory has, so that the names
// in stack traces stay few.
type entryNames struct {
	mu    sync.Mutex
	taken map[string]bool
}

func (n *entryNames) take(dir string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := 1; ; i++ {
		name := ".buntime.ts"
		if i > 1 {
			name = fmt.Sprintf(".buntime-%d.ts", i)
		}
		if full := path.Join(dir, name); !n.taken[full] {
			n.taken[full] = true
			return full
		}
	}
}

func (n *entryNames) give(full string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.taken, full)
}

// newEntry takes a name in dir. Nothing is written yet.
func (s *server) newEntry(dir string) (*entry, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory %s: %w", dir, err)
	}
	full := s.entries.take(dir)
	return &entry{names: s.entries, path: full, uid: s.cfg.UID, gid: s.cfg.GID, dir: fd}, nil
}

// in tells whether the file's directory is the one that dir names now.
func (e *entry) in(dir string) bool {
	var here, there unix.Stat_t
	e.mu.Lock()
	defer e.mu.Unlock()
	return path.Dir(e.path) == dir && unix.Fstat(e.dir, &here) == nil && unix.Stat(dir, &there) == nil &&
		here.Dev == there.Dev && here.Ino == there.Ino
}

// write makes the file anew. Whatever has its name, and be it a link that code
// of the session put there, is removed and not followed.
func (e *entry) write(code string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dir < 0 {
		return fmt.Errorf("write %s: %w", e.path, os.ErrClosed)
	}
	e.unlink()
	fd, err := unix.Openat(e.dir, path.Base(e.path), unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("create %s: %w", e.path, err)
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, e.uid, e.gid); err != nil {
		return fmt.Errorf("give %s to the session: %w", e.path, err)
	}
	if _, err := writeAll(fd, []byte(code)); err != nil {
		e.unlink()
		return fmt.Errorf("write %s: %w", e.path, err)
	}
	return nil
}

// remove takes the file away, if it is there.
func (e *entry) remove() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unlink()
}

func (e *entry) unlink() {
	if e.dir >= 0 {
		_ = unix.Unlinkat(e.dir, path.Base(e.path), 0)
	}
}

// close removes the file for good.
func (e *entry) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.dir < 0 {
		return
	}
	e.unlink()
	unix.Close(e.dir)
	e.dir = -1
	e.names.give(e.path)
}
