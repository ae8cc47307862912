// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// confinement is what the shim confines itself with. Init makes it once.
type confinement struct {
	filter  *os.File // seccomp filter; empty is none
	rules   *os.File // Landlock ruleset; nil is none
	without []string
}

func newConfinement(filter []byte, landlock *wire.Landlock, without []string) (c confinement, err error) {
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC)
	if err != nil {
		return c, fmt.Errorf("create file for the seccomp filter: %w", err)
	}
	c = confinement{filter: os.NewFile(uintptr(fd), "filter"), without: without}
	if _, err := c.filter.Write(filter); err != nil {
		c.close()
		return c, fmt.Errorf("write seccomp filter: %w", err)
	}
	if landlock == nil {
		return c, nil
	}
	if c.rules, err = newRuleset(landlock); err != nil {
		c.close()
		return c, fmt.Errorf("create Landlock ruleset: %w", err)
	}
	return c, nil
}

func (c confinement) close() {
	for _, f := range []*os.File{c.filter, c.rules} {
		if f != nil {
			f.Close()
		}
	}
}

// filterMax bounds a filter: BPF_MAXINSNS of 8 bytes.
const filterMax = 4096 * 8

// installFilter puts the filter in the file fd on the calling thread, for all
// that it becomes and starts.
func installFilter(fd int) error {
	program := make([]unix.SockFilter, filterMax/unix.SizeofSockFilter)
	n, err := unix.Pread(fd, unsafe.Slice((*byte)(unsafe.Pointer(&program[0])), filterMax), 0)
	if err != nil || n == 0 {
		return err
	}
	if n%unix.SizeofSockFilter != 0 {
		return unix.EINVAL
	}
	prog := unix.SockFprog{Len: uint16(n / unix.SizeofSockFilter), Filter: &program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Rights of Landlock, by what they mean here.
const (
	readRights = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_READ_DIR
	// deviceRights are over what exists. To truncate is what a shell does to
	// /dev/null; ioctls are how a terminal is used.
	deviceRights = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	allRights    = readRights | deviceRights | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER
)

// knownRights are those that a kernel with Landlock of version abi knows.
func knownRights(abi int) uint64 {
	rights := uint64(allRights)
	for _, since := range []struct {
		abi   int
		right uint64
	}{
		{2, unix.LANDLOCK_ACCESS_FS_REFER},
		{3, unix.LANDLOCK_ACCESS_FS_TRUNCATE},
		{5, unix.LANDLOCK_ACCESS_FS_IOCTL_DEV},
	} {
		if abi < since.abi {
			rights &^= since.right
		}
	}
	return rights
}

// landlockABI is the version of Landlock that the kernel has, 0 without.
func landlockABI() int {
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// newRuleset makes l a ruleset of the kernel's, nil where it has none. The paths
// have to exist.
func newRuleset(l *wire.Landlock) (*os.File, error) {
	abi := landlockABI()
	if abi == 0 {
		return nil, nil
	}
	known := knownRights(abi)
	attr := unix.LandlockRulesetAttr{Handled_access_fs: known}
	if l.Abstract && abi >= 6 {
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
	}
	// An older kernel takes a longer attribute if what it does not know is zero.
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		return nil, errno
	}
	rules := os.NewFile(fd, "ruleset")
	errs := []error{allow(rules, "/", readRights&known)}
	for _, p := range l.Devices {
		errs = append(errs, allow(rules, p, (readRights|deviceRights)&known))
	}
	for _, p := range l.Write {
		errs = append(errs, allow(rules, p, known))
	}
	if err := errors.Join(errs...); err != nil {
		rules.Close()
		return nil, err
	}
	return rules, nil
}

// allow adds a rule for what is below path.
func allow(rules *os.File, path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, rules.Fd(), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("allow %s: %w", path, errno)
	}
	return nil
}

// restrict puts the ruleset fd on the calling thread, for all that it becomes and
// starts.
func restrict(fd int) error {
	if _, _, errno := unix.RawSyscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(fd), 0, 0); errno != 0 {
		return errno
	}
	return nil
}
