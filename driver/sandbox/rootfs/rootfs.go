// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package rootfs is the root file system of sandboxes where it is an image file:
// erofs, squashfs or ext4. The script build makes it, as a directory or an image.
//
// An image is mounted by this process and attached nowhere: the mounts exist as
// descriptors, in this process and in the sandboxes. All of them are the same
// file system, so that what one sandbox has read of it is in memory for all. The
// loop device below goes with the last of them, whoever ends how.
package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/loop"
)

// Image is an open image.
type Image struct {
	path   string
	info   os.FileInfo
	format *format
	dev    string
	mount  *os.File
}

// format is a kind of file system that an image can be.
type format struct {
	name   string
	offset int64 // of magic in the image
	magic  []byte
	flags  []string // mount options
	// since is the first Linux that maps the owners of its files.
	since string
}

// formats. noload: an ext4 that was not unmounted would have its journal
// replayed, on a device that cannot be written to.
var formats = []format{
	{"erofs", 1024, binary.LittleEndian.AppendUint32(nil, unix.EROFS_SUPER_MAGIC_V1), []string{"ro"}, "5.19"},
	{"squashfs", 0, []byte("hsqs"), []string{"ro"}, "6.2"},
	{"ext4", 1024 + 56, binary.LittleEndian.AppendUint16(nil, unix.EXT4_SUPER_MAGIC), []string{"ro", "noload"}, "5.12"},
}

// blockSize of the loop device. A squashfs asks for no more than 1024, which
// a device of larger blocks cannot do.
const blockSize = 512

// IsImage tells whether path is to be opened as an image. It is not a directory
// then, and it need not be there.
func IsImage(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Open mounts an image. One that is mounted already, by an earlier process whose
// sandboxes live, is found and shared.
func Open(path string) (*Image, error) {
	i, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("open root image %s: %w", path, err)
	}
	return i, nil
}

func open(path string) (*Image, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	i := &Image{path: path}
	if i.info, err = f.Stat(); err != nil {
		return nil, err
	}
	if i.format, err = recognize(f); err != nil {
		return nil, err
	}
	dev, err := loop.Find(f, loop.Mode{ReadOnly: true, BlockSize: blockSize})
	if err != nil {
		return nil, err
	}
	defer dev.Close() // the mount keeps it bound from now on
	i.dev = dev.Name()
	i.mount, err = i.newMount()
	return i, err
}

func recognize(f *os.File) (*format, error) {
	for i := range formats {
		magic := make([]byte, len(formats[i].magic))
		if _, err := f.ReadAt(magic, formats[i].offset); err == nil && bytes.Equal(magic, formats[i].magic) {
			return &formats[i], nil
		}
	}
	return nil, errors.New("it is neither erofs nor squashfs nor ext4")
}

// Current tells whether the image is still the one at its path.
func (i *Image) Current() bool {
	info, err := os.Stat(i.path)
	return err == nil && os.SameFile(info, i.info) && info.ModTime().Equal(i.info.ModTime())
}

// Dir is a path of the mounted image, good until Close, in this process and for
// a child that changes its root to it.
func (i *Image) Dir() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), i.mount.Fd())
}

// Device is the path of the loop device.
func (i *Image) Device() string { return i.dev }

// Mount returns another mount of the image, with owners shown as userns maps
// them, and attached nowhere.
func (i *Image) Mount(userns *os.File) (*os.File, error) {
	m, err := i.newMount()
	if err != nil {
		return nil, fmt.Errorf("mount root image %s: %w", i.path, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	err = unix.MountSetattr(int(m.Fd()), "", unix.AT_EMPTY_PATH, &attr)
	if err != nil {
		m.Close()
		if errors.Is(err, unix.EINVAL) {
			err = fmt.Errorf("%w (Linux maps owners of %s from %s on)", err, i.format.name, i.format.since)
		}
		return nil, fmt.Errorf("map owners of root image %s: %w", i.path, err)
	}
	return m, nil
}

// Close lets go of the image. Mounts that were made of it live on.
func (i *Image) Close() error { return i.mount.Close() }

// newMount mounts the device. It makes a mount of its own rather than a clone:
// before Linux 6.15 a detached mount cannot be cloned. Of a device that is
// mounted already the kernel gives the same file system again.
func (i *Image) newMount() (*os.File, error) {
	ctx, err := unix.Fsopen(i.format.name, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", i.format.name, err)
	}
	defer unix.Close(ctx)
	err = unix.FsconfigSetString(ctx, "source", i.dev)
	for _, flag := range i.format.flags {
		if err == nil {
			err = unix.FsconfigSetFlag(ctx, flag)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w%s", i.dev, err, complaint(ctx))
	}
	attrs := unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOATIME
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", i.dev, err)
	}
	return os.NewFile(uintptr(fd), i.path), nil
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
