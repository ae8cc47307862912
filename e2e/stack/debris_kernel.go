// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/workspace"
)

// processes of the stack: those with its marker, with its directory in their
// command line, or in a cgroup of one of its allocations.
func (d *debris) processes() ([]item, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var items []item
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() || !d.owns(pid) {
			continue
		}
		cmdline, _ := os.ReadFile(procFile(pid, "cmdline")) // empty for one that has just ended
		if _, err := os.Readlink(procFile(pid, "exe")); err != nil {
			continue // it has ended and waits for its parent
		}
		command := string(bytes.TrimSpace(bytes.ReplaceAll(cmdline, []byte{0}, []byte{' '})))
		items = append(items, item{
			what:   fmt.Sprintf("process %d (%s), which process %s has started", pid, command, parent(pid)),
			remove: func() error { return d.killProcess(pid) },
		})
	}
	return items, nil
}

// owns says whether a process is the stack's. A file that cannot be read is
// one of a process that has just ended.
func (d *debris) owns(pid int) bool {
	cgroup, _ := os.ReadFile(procFile(pid, "cgroup"))
	for line := range strings.Lines(string(cgroup)) {
		if d.ofAlloc(strings.TrimSpace(line)) {
			return true
		}
	}
	if d.running {
		return false
	}
	environ, _ := os.ReadFile(procFile(pid, "environ"))
	if slices.Contains(strings.Split(string(environ), "\x00"), d.mark) {
		return true
	}
	cmdline, _ := os.ReadFile(procFile(pid, "cmdline"))
	return slices.ContainsFunc(d.dirs, func(dir string) bool { return bytes.Contains(cmdline, []byte(dir+"/")) })
}

// killProcess kills a process unless the pid is another's meanwhile.
func (d *debris) killProcess(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	if !d.owns(pid) {
		return nil
	}
	err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return os.NewSyscallError("pidfd_send_signal", err)
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// ofAlloc says whether a cgroup's path names one of the allocations, as in
// "/nomad/<id>.<task>".
func (d *debris) ofAlloc(path string) bool {
	return slices.ContainsFunc(uuidPattern.FindAllString(path, -1), func(id string) bool { return d.allocs[id] })
}

// below says whether path is in one of the directories.
func (d *debris) below(path string) bool {
	return slices.ContainsFunc(d.dirs, func(dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") })
}

// mounts at or from the directories, the last made first.
func (d *debris) mounts() ([]item, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var items []item
	for line := range strings.Lines(string(text)) {
		// 36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw
		fields := strings.Fields(line)
		dash := slices.Index(fields, "-")
		if len(fields) < 5 || dash < 0 || dash+2 >= len(fields) {
			return nil, fmt.Errorf("parse /proc/self/mountinfo: unexpected line %q", line)
		}
		root, point, source := unescape(fields[3]), unescape(fields[4]), unescape(fields[dash+2])
		if !d.below(root) && !d.below(point) && !d.below(source) {
			continue
		}
		items = append(items, item{
			what: fmt.Sprintf("mount of %s on %s", source, point),
			remove: func() error {
				return os.NewSyscallError("umount", unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW))
			},
		})
	}
	slices.Reverse(items)
	return items, nil
}

// unescape undoes mountinfo's octal escapes.
var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace

// readyWorkspaces is in the path of the workspaces that a running plugin keeps
// made in advance, for the sessions to come.
const readyWorkspaces = "/workspaces/ready/"

// loops are loop devices on files in the stack's directory.
func (d *debris) loops() ([]item, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var items []item
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // detached meanwhile
		}
		backing := strings.TrimSpace(string(text))
		if !d.below(backing) || d.running && strings.Contains(backing, readyWorkspaces) {
			continue
		}
		device := filepath.Join("/dev", strings.Split(file, "/")[3])
		items = append(items, item{
			what:   fmt.Sprintf("loop device %s of %s", device, backing),
			remove: func() error { return detach(device) },
		})
	}
	return items, nil
}

// incoming finds loop devices of workspaces that were not all there at first: those
// are bound to no file below d.dir.
func (d *debris) incoming() ([]item, error) {
	notes, err := filepath.Glob(filepath.Join(d.dir, "driver"+d.clients, "sandboxes/*", workspace.NoteFile))
	if err != nil {
		return nil, err
	}
	var found []item
	for _, note := range notes {
		dir := filepath.Dir(note)
		if device := workspace.Bound(dir); device != "" {
			found = append(found, item{what: fmt.Sprintf("%s of the workspace of %s", device, dir), remove: func() error { return workspace.Release(dir) }})
		}
	}
	return found, nil
}

func detach(device string) error {
	file, err := os.Open(device)
	if err != nil {
		return err
	}
	defer file.Close()
	return os.NewSyscallError("ioctl LOOP_CLR_FD", unix.IoctlSetInt(int(file.Fd()), unix.LOOP_CLR_FD, 0))
}

// cgroups of the allocations in all hierarchies, children first.
func (d *debris) cgroups() ([]item, error) {
	var items []item
	err := d.eachCgroup(func(path string) error {
		items = append(items, item{
			what:   "cgroup " + path,
			remove: func() error { return removeCgroup(path) },
		})
		return nil
	})
	slices.Reverse(items)
	return items, err
}

// eachCgroup visits the cgroups of the allocations, parents first.
func (d *debris) eachCgroup(visit func(path string) error) error {
	return filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // removed while we walk
		case err != nil:
			return err
		case entry.IsDir() && d.ofAlloc(path):
			return visit(path)
		}
		return nil
	})
}

// removeCgroup removes an empty cgroup. One with processes is thawed: in v1
// a frozen process takes no signal, not even a kill.
func removeCgroup(path string) error {
	err := os.Remove(path)
	if !errors.Is(err, unix.EBUSY) {
		return err
	}
	if freezer := filepath.Join(path, freezerState); exists(freezer) {
		return os.WriteFile(freezer, []byte("THAWED"), 0)
	}
	return err
}

const freezerState = "freezer.state"

// thaw lets the processes of all allocations go on, where one that stands still
// could not end.
func (d *debris) thaw() error {
	return d.eachCgroup(func(path string) error {
		freezer := filepath.Join(path, freezerState)
		if !exists(freezer) { // of another hierarchy
			return nil
		}
		if err := os.WriteFile(freezer, []byte("THAWED"), 0); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// parent is the number of a process's parent, as far as it can be told.
func parent(pid int) string {
	stat, _ := os.ReadFile(procFile(pid, "stat"))
	if fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])); len(fields) > 1 {
		return fields[1]
	}
	return "?"
}
