// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// mkfsArgs make a file system that holds nothing but a workspace: no journal,
// because a snapshot and not the image is what survives a crash of the node; no
// space set aside for root; one inode for every 8 KiB, since node_modules is
// many small files (131,072 in 1 GB); inode tables left to be zeroes, as
// a sparse file reads.
var mkfsArgs = []string{
	"-q", "-F", "-t", "ext4", "-b", "4096", "-i", "8192", "-m", "0",
	"-O", "^has_journal,^resize_inode", "-E", "lazy_itable_init=1,nodiscard,root_owner=1000:1000",
}

// template returns the path of an empty file system of the size, made on first
// need.
func (m *Manager) template(ctx context.Context, size int64) (string, error) {
	m.making.Lock()
	defer m.making.Unlock()
	name := filepath.Join(m.config.Dir, "template-"+strconv.FormatInt(size, 10))
	if _, err := os.Stat(name); err == nil {
		return name, nil
	}
	temp := name + ".new"
	if err := sparse(temp, size); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "mkfs.ext4", append(mkfsArgs[:len(mkfsArgs):len(mkfsArgs)], temp)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run mkfs.ext4: %w: %s", err, out)
	}
	// lost+found is fsck's; nobody will ever check this file system.
	mnt, err := mountImage(temp)
	if err != nil {
		return "", err
	}
	err = unix.Unlinkat(int(mnt.Fd()), "lost+found", unix.AT_REMOVEDIR)
	if cerr := mnt.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", fmt.Errorf("remove lost+found: %w", err)
	}
	return name, os.Rename(temp, name)
}

func sparse(name string, size int64) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Truncate(size)
}

// clone copies the data of a sparse file, some hundred KB of an empty file
// system, and leaves its holes.
func clone(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer dst.Close()
	if err := dst.Truncate(st.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		data, err := unix.Seek(int(src.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return dst.Close()
		}
		if err != nil {
			return fmt.Errorf("find data of %s: %w", from, err)
		}
		hole, err := unix.Seek(int(src.Fd()), data, unix.SEEK_HOLE)
		if err != nil {
			return fmt.Errorf("find hole of %s: %w", from, err)
		}
		if _, err := io.Copy(io.NewOffsetWriter(dst, data), io.NewSectionReader(src, data, hole-data)); err != nil {
			return err
		}
		at = hole
	}
}

// attachLoop puts an image on a free loop device. The device frees itself when
// nothing has it open or mounted any more.
func attachLoop(image string) (*os.File, error) {
	img, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer img.Close()
	ctl, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open loop control: %w", err)
	}
	defer ctl.Close()
	config := unix.LoopConfig{Fd: uint32(img.Fd()), Size: 4096, Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
	copy(config.Info.File_name[:unix.LO_NAME_SIZE-1], image)
	for range 100 { // others may take the device that we were told is free
		n, err := unix.IoctlRetInt(int(ctl.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("find a free loop device: %w", err)
		}
		dev, err := openLoop(n)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(dev.Fd()), &config)
		if err == nil {
			return dev, nil
		}
		dev.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("configure %s: %w", dev.Name(), err)
		}
	}
	return nil, errors.New("configure a loop device: others took each one that was free")
}

// openLoop opens /dev/loopN, which it makes where no udev does.
func openLoop(n int) (*os.File, error) {
	name := "/dev/loop" + strconv.Itoa(n)
	f, err := os.OpenFile(name, os.O_RDWR|unix.O_CLOEXEC, 0)
	if !errors.Is(err, fs.ErrNotExist) {
		return f, err
	}
	const loopMajor = 7 // admin-guide/devices.txt
	if err := unix.Mknod(name, unix.S_IFBLK|0o660, int(unix.Mkdev(loopMajor, uint32(n)))); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("make %s: %w", name, err)
	}
	return os.OpenFile(name, os.O_RDWR|unix.O_CLOEXEC, 0)
}

// mountImage mounts an image that no loop device has yet, attached nowhere.
func mountImage(image string) (*os.File, error) {
	dev, err := attachLoop(image)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	return mountDevice(dev.Name())
}

// mountDevice mounts a loop device, attached nowhere; the file has its name. Of one that is mounted
// already the kernel gives the same file system again.
func mountDevice(dev string) (*os.File, error) {
	fd, err := unix.Fsopen("ext4", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("open ext4: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.FsconfigSetString(fd, "source", dev); err != nil {
		return nil, fmt.Errorf("set source %s: %w", dev, err)
	}
	// noinit_itable: zeroing the inode tables in the background would fill the
	// sparse image. discard: what the session deletes is the host's again.
	for _, flag := range []string{"noinit_itable", "discard"} {
		if err := unix.FsconfigSetFlag(fd, flag); err != nil {
			return nil, fmt.Errorf("set mount option %s: %w", flag, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dev, err)
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOATIME)
	if err != nil {
		return nil, fmt.Errorf("mount %s: %w", dev, err)
	}
	return os.NewFile(uintptr(mnt), dev), nil
}
