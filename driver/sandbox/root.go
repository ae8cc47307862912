// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/rootfs"
)

// root is the sandboxes' root: a directory, or an image file that is opened when
// the first sandbox needs it. Running sandboxes need neither any more.
type root struct {
	path string

	mu    sync.Mutex
	image *rootfs.Image
}

// mount returns a mount of the root, attached nowhere, with owners as userns maps
// them. readOnly is the mount attribute, and what it ought to be; an image cannot
// be written to in any case.
func (r *root) mount(readOnly uint64, userns *os.File) (*os.File, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !rootfs.IsImage(r.path) {
		return detach(r.path, readOnly|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, userns)
	}
	if r.image != nil && !r.image.Current() { // another was put in its place
		_ = r.image.Close()
		r.image = nil
	}
	if r.image == nil {
		image, err := rootfs.Open(r.path)
		if err != nil {
			return nil, err
		}
		r.image = image
	}
	return r.image.Mount(userns)
}

func (r *root) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.image == nil {
		return nil
	}
	err := r.image.Close()
	r.image = nil
	return err
}
