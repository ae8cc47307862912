// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// ownSize bounds what Boot writes, in bytes.
const ownSize = 1 << 20

// stage is where the new root is attached before it becomes "/". Any directory
// of the host will do: the mount lies in init's own mount namespace, which
// forgets the host's tree a moment later.
const stage = "/tmp"

// filesDir holds the files and directories that Boot makes, on the sandbox's /run.
const filesDir = "/run/buntime"

// mountOwn mounts an empty directory at target that only init writes to. All of these,
// /dev and /sys too, are on the file system that is /run: for each more the kernel
// takes room in every memory cgroup of the machine (struct shrinker_info), so that a
// thousand sandboxes with five more each cost each other 0.7 MB.
func mountOwn(name, target string, flags uintptr) error {
	source := "." + filesDir + "/" + name
	if err := os.MkdirAll(source, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return remount(target, flags)
}

// Boot turns the mount namespace that init was cloned into, still a copy of the
// host's, into the sandbox's: root, mounts, host name. fds are the descriptors
// that came with cfg; Boot closes them.
func Boot(cfg wire.Boot, fds []int) error {
	defer closeAll(fds)
	if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
		return fmt.Errorf("set host name %q: %w", cfg.Hostname, err)
	}
	// Without this, our mounts would propagate to the host where it shares "/".
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := attach(fds, cfg.Root, stage); err != nil {
		return fmt.Errorf("attach root: %w", err)
	}
	if err := os.Chdir(stage); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := mountTmpfs("run", wire.Mount{Size: ownSize, Mode: 0o755}); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	for i, m := range cfg.Mounts {
		if err := mount(m, i, fds); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.Type, m.Target, err)
		}
	}
	if err := setReadOnly("run"); err != nil {
		return fmt.Errorf("make /run read-only: %w", err)
	}
	// On devices and covers too: no mount honours setuid.
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(unix.AT_FDCWD, ".", unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("make all mounts nosuid: %w", err)
	}
	return pivot()
}

// mount makes one mount below the working directory, the new root.
func mount(m wire.Mount, index int, fds []int) error {
	target := "." + path.Clean("/"+m.Target)
	switch m.Type {
	case "fd":
		if err := makeTarget(target); err != nil {
			return err
		}
		return attach(fds, m.FD, target)
	case "tmpfs":
		return mountTmpfs(target, m)
	case "dir":
		return mountOwn(path.Base(target), target, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	case "proc":
		return mountProc(target, m)
	case "dev":
		return mountDev(target, m)
	case "file":
		return mountFile(target, m, index)
	case "fixed":
		return setReadOnly(target)
	}
	return fmt.Errorf("unknown type %q", m.Type)
}

// makeTarget makes a directory to mount on, unless there is something: that takes
// an earlier mount that can be written to.
func makeTarget(target string) error {
	var st unix.Stat_t
	if unix.Stat(target, &st) == nil {
		return nil
	}
	return os.MkdirAll(target, 0o755)
}

// pivot makes the working directory "/" and lets go of the host's tree. With
// both arguments ".", the old root is stacked on the new one and needs no
// directory to put it in (pivot_root(2)).
func pivot() error {
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the host's root: %w", err)
	}
	return os.Chdir("/")
}

// attach moves the detached mount fds[i] to target.
func attach(fds []int, i int, target string) error {
	if i < 0 || i >= len(fds) {
		return fmt.Errorf("no descriptor %d among %d", i, len(fds))
	}
	return unix.MoveMount(fds[i], "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func mountTmpfs(target string, m wire.Mount) error {
	mode := m.Mode
	if mode == 0 {
		mode = 0o1777
	}
	opts := fmt.Sprintf("mode=%o", mode)
	if m.Size > 0 {
		opts += fmt.Sprintf(",size=%d", m.Size)
	}
	if m.UID != 0 {
		opts += fmt.Sprintf(",uid=%d,gid=%d", m.UID, m.UID)
	}
	return unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, opts)
}

func mountProc(target string, m wire.Mount) error {
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	// The kernel allows this to a user namespace only while the host's own
	// /proc is still visible in it: so before pivot.
	if err := unix.Mount("proc", target, "proc", flags, ""); err != nil {
		return err
	}
	for _, name := range m.Masked {
		if err := maskPath(target + "/" + name); err != nil {
			return fmt.Errorf("mask %s: %w", name, err)
		}
	}
	for _, name := range m.Fixed {
		p := target + "/" + name
		if err := unix.Mount(p, p, "", unix.MS_BIND, ""); err == unix.ENOENT {
			continue
		} else if err != nil {
			return fmt.Errorf("bind %s: %w", name, err)
		}
		if err := remount(p, flags|unix.MS_RDONLY); err != nil {
			return fmt.Errorf("make %s read-only: %w", name, err)
		}
	}
	return nil
}

// maskPath covers a file with /dev/null and a directory with an empty one.
func maskPath(p string) error {
	var st unix.Stat_t
	switch err := unix.Stat(p, &st); {
	case err == unix.ENOENT:
		return nil
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return mountOwn("empty", p, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
	}
	return unix.Mount("/dev/null", p, "", unix.MS_BIND, "")
}

// maxTerminals bounds the pseudo-terminals of a sandbox. Without it they would
// be what the whole machine has, 4,096 less a reserve for the host's own.
const maxTerminals = 256

// devices are bound from the host: a user namespace cannot make device nodes.
var devices = []string{"null", "zero", "full", "random", "urandom", "tty"}

func mountDev(target string, m wire.Mount) error {
	if err := mountOwn("dev", target, unix.MS_NOSUID|unix.MS_NOEXEC); err != nil {
		return err
	}
	for _, name := range devices {
		p := target + "/" + name
		if err := touch(p, nil, 0o666); err != nil {
			return err
		}
		if err := unix.Mount("/dev/"+name, p, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", name, err)
		}
	}
	for _, link := range [][2]string{
		{"/proc/self/fd", "fd"},
		{"/proc/self/fd/0", "stdin"},
		{"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"},
		{"pts/ptmx", "ptmx"},
	} {
		if err := os.Symlink(link[0], target+"/"+link[1]); err != nil {
			return err
		}
	}
	const quiet = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	for _, sub := range []struct {
		name, fs, opts string
		flags          uintptr
	}{
		{"pts", "devpts", fmt.Sprintf("newinstance,ptmxmode=0666,mode=0620,max=%d", maxTerminals), unix.MS_NOSUID | unix.MS_NOEXEC},
		{"shm", "tmpfs", fmt.Sprintf("mode=1777,size=%d", m.Size), quiet},
		{"mqueue", "mqueue", "", quiet},
	} {
		p := target + "/" + sub.name
		if err := os.Mkdir(p, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(sub.fs, p, sub.fs, sub.flags, sub.opts); err != nil {
			return fmt.Errorf("mount %s: %w", sub.name, err)
		}
	}
	return setReadOnly(target)
}

// mountFile writes m.Content to a file on /run and, unless the target lies
// there anyway, binds it over the target, which exists in the root.
func mountFile(target string, m wire.Mount, index int) error {
	mode := m.Mode
	if mode == 0 {
		mode = 0o444
	}
	if rest, ok := strings.CutPrefix(target, "./run/"); ok {
		if err := os.MkdirAll("run/"+path.Dir(rest), 0o755); err != nil {
			return err
		}
		return touch(target, []byte(m.Content), mode)
	}
	if err := os.MkdirAll("."+filesDir, 0o755); err != nil {
		return err
	}
	source := fmt.Sprintf(".%s/%d", filesDir, index)
	if err := touch(source, []byte(m.Content), mode); err != nil {
		return err
	}
	if err := makeFile(target); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	return remount(target, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC)
}

// makeFile is makeTarget for a file.
func makeFile(target string) error {
	var st unix.Stat_t
	if unix.Stat(target, &st) == nil {
		return nil
	}
	if err := os.MkdirAll(path.Dir(target), 0o755); err != nil {
		return err
	}
	return touch(target, nil, 0o444)
}

func touch(name string, content []byte, mode uint32) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, os.FileMode(mode))
	if err != nil {
		return err
	}
	if _, err := f.Write(content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func setReadOnly(target string) error {
	return remount(target, unix.MS_RDONLY|unix.MS_NOSUID|unix.MS_NOEXEC)
}

func remount(target string, flags uintptr) error {
	return unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|flags, "")
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
