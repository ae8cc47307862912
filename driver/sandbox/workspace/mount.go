// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// options of the mounted file system.
//
// nobarrier: a session's files outlive a crash of the node by their snapshot
// only, so an fsync inside need not force the node's disk to flush: one session
// could otherwise hold up all the others with it.
//
// noinit_itable: the image is sparse, what was never written is zero.
//
// There is no `discard`: it makes deleting 6,000 small files take 1,160 ms where
// it took 115. Trim gives freed space back to the node in one go.
var options = []string{"nobarrier", "noinit_itable"}

// mount mounts the ext4 file system on dev and returns the mount, which is
// attached nowhere and goes with the last descriptor or namespace that has it.
// Called again for the same device, it gives another mount of the same file
// system.
func mount(dev string) (*os.File, error) {
	ctx, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open ext4: %w", err)
	}
	defer unix.Close(ctx)
	err = unix.FsconfigSetString(ctx, "source", dev)
	for _, o := range options {
		if err == nil {
			err = unix.FsconfigSetFlag(ctx, o)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w%s", dev, err, complaint(ctx))
	}
	attrs := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOATIME
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dev, err)
	}
	return os.NewFile(uintptr(fd), dev), nil
}

// complaint is what the kernel has to say about a mount that failed.
func complaint(ctx int) string {
	buf := make([]byte, 256)
	n, err := unix.Read(ctx, buf)
	if err != nil || n == 0 {
		return ""
	}
	return " (" + strings.TrimSpace(string(buf[:n])) + ")"
}

// mountIDMapped is mount, with owners shown as userns maps them.
func mountIDMapped(dev string, userns *os.File) (*os.File, error) {
	// A mount of its own rather than a clone: before Linux 6.15 a detached mount
	// cannot be cloned.
	m, err := mount(dev)
	if err != nil {
		return nil, err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(int(m.Fd()), "", unix.AT_EMPTY_PATH, &attr); err != nil {
		m.Close()
		return nil, fmt.Errorf("map owners of %s: %w", dev, err)
	}
	return m, nil
}
