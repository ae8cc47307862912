// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// ShimName is the argv[0] of init's binary as a shim: what a new process of the
// sandbox is until it has given up init's privileges and becomes its program.
const ShimName = "shim"

// The shim's descriptors beside the standard ones.
const (
	shimSpec   = 3 + iota // what to become (server.specFile)
	shimStatus            // where a failure is told; closed by the exec
	shimFilter            // the seccomp filter, a file; empty is none
	shimRules             // the Landlock ruleset, if the spec says so
	shimJoins             // the first of the files of cgroups to join, then the gate
)

// Shim becomes the program that its spec names. It does not return.
func Shim() {
	// Privileges belong to threads, and the one that execs is what counts: raw
	// system calls on it alone spare waking the others.
	runtime.LockOSThread()
	step, err := become()
	errno := unix.EINVAL
	_ = errors.As(err, &errno)
	_, _ = unix.Write(shimStatus, []byte(step+"\x00"+strconv.Itoa(int(errno))))
	os.Exit(127)
}

// spec is what the shim is to become.
type spec struct {
	uid, gid  int
	maxFiles  uint64
	tty, gate bool
	rules     bool // there is a Landlock ruleset
	without   []string
	joins     int
	dir       string
	argv, env []string
}

func readSpec() (sp spec, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(shimSpec, &st); err != nil {
		return sp, err
	}
	b := make([]byte, st.Size)
	if _, err := unix.Pread(shimSpec, b, 0); err != nil {
		return sp, err
	}
	f := strings.Split(string(b), "\x00")
	if len(f) < 7 {
		return sp, unix.EINVAL
	}
	number := func(s string) int {
		n, aerr := strconv.Atoi(s)
		err = errors.Join(err, aerr)
		return n
	}
	sp = spec{uid: number(f[0]), gid: number(f[1]), maxFiles: uint64(number(f[2])), joins: number(f[4]), dir: f[5]}
	sp.tty, sp.gate, sp.rules = strings.Contains(f[3], "t"), strings.Contains(f[3], "g"), strings.Contains(f[3], "l")
	if strings.Contains(f[3], "P") {
		sp.without = append(sp.without, wire.WithoutPrivileges)
	}
	if strings.Contains(f[3], "D") {
		sp.without = append(sp.without, wire.WithoutDescriptors)
	}
	n := number(f[6])
	if err != nil || n < 1 || 7+n > len(f) {
		return sp, unix.EINVAL
	}
	sp.argv, sp.env = f[7:7+n], f[7+n:]
	return sp, nil
}

// become returns only with the step that failed.
func become() (step string, err error) {
	sp, err := readSpec()
	if err != nil {
		return "read spec", err
	}
	if sp.tty {
		if err := unix.IoctlSetInt(0, unix.TIOCSCTTY, 0); err != nil {
			return "set controlling terminal", err
		}
	}
	for i := range sp.joins {
		// It is the thread that joins, where the file is one of v1.
		if _, err := unix.Write(shimJoins+i, []byte("0")); err != nil {
			return "join cgroup", err
		}
	}
	// What Bun reads of its cgroup is then the execution's, as the root.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return "enter cgroup namespace", err
	}
	if err := setLimits(sp.maxFiles); err != nil {
		return "set limits", err
	}
	if !slices.Contains(sp.without, wire.WithoutPrivileges) {
		if step, err := dropPrivileges(sp.uid, sp.gid); err != nil {
			return step, err
		}
	}
	if err := unix.Chdir(sp.dir); err != nil {
		return "enter directory " + sp.dir, err
	}
	if err := resetSignals(); err != nil {
		return "reset signals", err
	}
	if !slices.Contains(sp.without, wire.WithoutDescriptors) {
		if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
			return "close descriptors", err
		}
	}
	if sp.gate {
		if err := unix.Dup3(shimJoins+sp.joins, gateFD, 0); err != nil {
			return "place gate", err
		}
	}
	if sp.rules {
		if err := restrict(shimRules); err != nil {
			return "restrict with Landlock", err
		}
	}
	// Last: of what comes before, the filter refuses some.
	if err := installFilter(shimFilter); err != nil {
		return "install seccomp filter", err
	}
	return "run " + sp.argv[0], execute(sp.argv, sp.env)
}

func setLimits(maxFiles uint64) error {
	var lim syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	// To raise the limit would take a privilege over the host. It is set through
	// package syscall, which otherwise restores at exec what Go found at start.
	lim.Max = min(lim.Max, maxFiles)
	lim.Cur = lim.Max
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	return syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: wire.CoreLimit, Max: wire.CoreLimit})
}

// dropPrivileges takes everything from the calling thread that sets init apart.
// From the change of the uid until the exec the process is not dumpable: others
// of its uid can neither trace it nor look at its descriptors.
func dropPrivileges(uid, gid int) (step string, err error) {
	for c := range uintptr(64) {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err == unix.EINVAL {
			break // past the last one that this kernel knows
		}
		if err != nil {
			return "drop capability", err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return "drop ambient capabilities", err
	}
	for _, call := range []struct {
		step        string
		nr, a, b, c uintptr
	}{
		{"drop groups", unix.SYS_SETGROUPS, 0, 0, 0},
		{"set gid", unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)},
		{"set uid", unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
	} {
		if _, _, errno := unix.RawSyscall(call.nr, call.a, call.b, call.c); errno != 0 {
			return call.step, errno
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return "drop capabilities", err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return "set no_new_privs", err
	}
	return "", nil
}

// resetSignals gives the program the signals as the kernel has them: an exec
// resets handlers, but neither the mask nor what is ignored.
func resetSignals() error {
	const sigsetSize = 8
	var act struct {
		handler, flags, restorer uintptr
		mask                     uint64
	}
	for sig := uintptr(1); sig <= 64; sig++ {
		if sig == uintptr(unix.SIGKILL) || sig == uintptr(unix.SIGSTOP) {
			continue
		}
		_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&act)), 0, sigsetSize, 0, 0)
		if errno != 0 {
			return errno
		}
	}
	return unix.PthreadSigmask(unix.SIG_SETMASK, &unix.Sigset_t{}, nil)
}

// execute runs argv, its first word looked up in the PATH of env.
func execute(argv, env []string) error {
	if strings.Contains(argv[0], "/") {
		return syscall.Exec(argv[0], argv, env)
	}
	path := ""
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			path = v
		}
	}
	found := error(unix.ENOENT)
	for dir := range strings.SplitSeq(path, ":") {
		if dir == "" {
			dir = "."
		}
		err := syscall.Exec(dir+"/"+argv[0], argv, env)
		switch {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		case errors.Is(err, unix.EACCES):
			found = err // another directory may have one to execute
		default:
			return err
		}
	}
	return found
}
