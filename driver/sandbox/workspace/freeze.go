// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of linux/fs.h, which x/sys does not have.
const (
	fifreeze = 0xc0045877
	fithaw   = 0xc0045878
	fitrim   = 0xc0185879
)

// trimRange is struct fstrim_range.
type trimRange struct{ start, length, least uint64 }

// Image is the path of the image file. What was written in the workspace is in it
// after Sync, and nothing else comes to it while the workspace is frozen. It may
// be read, best past the page cache, and must not be written to.
func (w *Workspace) Image() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.path
}

// Trim gives what is free in the workspace back to the node's disk and returns
// how many bytes that were, at most.
func (w *Workspace) Trim() (uint64, error) {
	r := trimRange{length: math.MaxUint64}
	if err := w.ioctl(fitrim, unsafe.Pointer(&r)); err != nil {
		return 0, fmt.Errorf("trim workspace %s: %w", w.id, err)
	}
	return r.length, nil
}

// Sync has what was written until now written to the image.
func (w *Workspace) Sync() error {
	dir, err := w.top()
	if err != nil {
		return fmt.Errorf("sync workspace %s: %w", w.id, err)
	}
	defer dir.Close()
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("sync workspace %s: %w", w.id, err)
	}
	return nil
}

// Freeze writes the file system to the image, complete and consistent, and has
// everyone who writes wait until Thaw. That it is frozen already is no error. A
// process that waits cannot be killed, or frozen in its cgroup, before Thaw.
func (w *Workspace) Freeze() error {
	if err := w.ioctl(fifreeze, nil); err != nil && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("freeze workspace %s: %w", w.id, err)
	}
	return nil
}

// Thaw ends what Freeze began, also in an earlier process. That it is not frozen
// is no error. Close, Destroy and Manager.Open thaw by themselves.
func (w *Workspace) Thaw() error {
	if err := w.ioctl(fithaw, nil); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("thaw workspace %s: %w", w.id, err)
	}
	return nil
}

// Written is how many bytes have come to the loop device since it was bound. As
// long as it is the same after another Sync, the image has not changed.
func (w *Workspace) Written() (uint64, error) {
	text, err := os.ReadFile(filepath.Join("/sys/block", filepath.Base(w.dev), "stat"))
	if err != nil {
		return 0, fmt.Errorf("read what workspace %s has written: %w", w.id, err)
	}
	const sectorsWritten, sectorsDiscarded = 6, 13 // fields, from 0
	fields := strings.Fields(string(text))
	var sum uint64
	for _, i := range []int{sectorsWritten, sectorsDiscarded} {
		if i >= len(fields) {
			break // discards: from Linux 4.18 on
		}
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read what workspace %s has written: %w", w.id, err)
		}
		sum += n * 512
	}
	return sum, nil
}

// top opens the top directory for what a mount's own descriptor is no good for.
func (w *Workspace) top() (*os.File, error) {
	fd := w.mount.Fd()
	if fd == ^uintptr(0) {
		return nil, os.ErrClosed
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
}

func (w *Workspace) ioctl(request uintptr, arg unsafe.Pointer) error {
	dir, err := w.top()
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, dir.Fd(), request, uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}
