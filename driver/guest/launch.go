// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// Launch is init's binary as a launcher: the process, still the host's, that clones
// init into its namespaces. Its arguments are the first uid and how many there are. It
// does not return. The parent of init is the launcher's.
//
// The plugin could do that by itself. But who clones into a user namespace copies
// its page tables, and both sides then copy what they write to: 2 ms of CPU time
// for a plugin of 30 MB, 20 for one of 300 MB, as it can be with a thousand sessions,
// and none of its threads gets memory meanwhile. A launcher is started without any of
// that. Nor is there ever a copy of the plugin's memory in a sandbox's namespaces.
func Launch() {
	// Its own: init has none of them.
	err := unix.CloseRange(wire.LaunchFD, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	pid := 0
	if err == nil {
		pid, err = launch(os.Args[1:])
	}
	answer := strconv.Itoa(pid)
	if err != nil {
		answer = err.Error()
	}
	_, _ = unix.Write(wire.LaunchFD, []byte(answer)) // where nobody listens, init gets no Boot and ends
	os.Exit(0)
}

func launch(args []string) (int, error) {
	if len(args) != 2 {
		return 0, fmt.Errorf("launch init: want 2 arguments, not %d", len(args))
	}
	first, err := strconv.Atoi(args[0])
	if err != nil {
		return 0, fmt.Errorf("launch init: %w", err)
	}
	count, err := strconv.Atoi(args[1])
	if err != nil {
		return 0, fmt.Errorf("launch init: %w", err)
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: first, Size: count}}
	attr := &syscall.ProcAttr{
		Dir: "/",
		Env: []string{"GOMAXPROCS=2", "GOGC=40"},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_PARENT | unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
				unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
			UidMappings:                ids,
			GidMappings:                ids,
			GidMappingsEnableSetgroups: true,
			Credential:                 &syscall.Credential{},
			Setsid:                     true,
		},
	}
	for fd := range keptFD + 1 {
		// The last may be missing. Go's runtime opens files, too, to be closed on exec.
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			attr.Files = append(attr.Files, uintptr(fd))
		}
	}
	runtime.LockOSThread() // whose ids count
	if err := chargeTo(first); err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec("/proc/self/exe", []string{wire.InitName}, attr)
	if err != nil {
		return 0, fmt.Errorf("clone init: %w", err)
	}
	return pid, nil
}

// noSetuidFixup is SECBIT_NO_SETUID_FIXUP of linux/securebits.h.
const noSetuidFixup = 1 << 2

// chargeTo has the kernel take uid, a host id, for the owner of the user
// namespace that the calling thread clones next. A namespace's owner is whose
// account everything in it goes to a second time: inotify instances, namespaces,
// message queues, pending signals and timers. With root's, which all sandboxes
// would share, one of them could use up what is allowed to root, and so to all
// others and the node's own services.
//
// Only the effective id changes, and the thread keeps its capabilities.
func chargeTo(uid int) error {
	bits, _, errno := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_SECUREBITS, 0, 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, bits|noSetuidFixup, 0)
	}
	if errno != 0 {
		return fmt.Errorf("keep capabilities of the thread: %w", errno)
	}
	keep := ^uintptr(0)
	if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
		return fmt.Errorf("become owner %d of the sandbox: %w", uid, errno)
	}
	return nil
}
