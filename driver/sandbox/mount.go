// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// detach clones the mount at path, with everything below it, into a mount that
// is attached nowhere, and gives it attributes (unix.MOUNT_ATTR_*). With userns,
// a user namespace, file owners appear as that namespace maps them.
func detach(path string, attr uint64, userns *os.File) (*os.File, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_RECURSIVE)
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, flags)
	if err != nil {
		return nil, fmt.Errorf("clone mount %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	set := unix.MountAttr{Attr_set: attr, Propagation: unix.MS_PRIVATE}
	if userns != nil {
		set.Attr_set |= unix.MOUNT_ATTR_IDMAP
		set.Userns_fd = uint64(userns.Fd())
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &set); err != nil {
		f.Close()
		return nil, fmt.Errorf("set attributes of mount %s: %w", path, err)
	}
	return f, nil
}
