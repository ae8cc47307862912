// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package seccomp

import (
	"slices"

	"golang.org/x/sys/unix"
)

// allowed are the calls that pass whatever their arguments. Those that need
// a privilege pass too where they are of use without it (setuid to oneself,
// mknod of a pipe): the capabilities that they need are gone.
var allowed = []string{
	// Files.
	"access", "chdir", "chmod", "chown", "close", "close_range", "copy_file_range", "creat", "dup", "dup2", "dup3",
	"faccessat", "faccessat2", "fadvise64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat",
	"fcntl", "fdatasync", "fgetxattr", "flistxattr", "flock", "fremovexattr", "fsetxattr", "fstat", "fstatfs", "fsync",
	"ftruncate", "futimesat", "getcwd", "getdents", "getdents64", "getxattr", "inotify_add_watch", "inotify_init",
	"inotify_init1", "inotify_rm_watch", "lchown", "lgetxattr", "link", "linkat", "listxattr", "llistxattr", "lremovexattr",
	"lseek", "lsetxattr", "lstat", "mkdir", "mkdirat", "mknod", "mknodat", "newfstatat", "open", "openat", "openat2",
	"pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink", "readlinkat",
	"readv", "removexattr", "rename", "renameat", "renameat2", "rmdir", "sendfile", "setxattr", "splice", "stat", "statfs",
	"statx", "symlink", "symlinkat", "sync_file_range", "syncfs", "truncate", "umask", "unlink", "unlinkat",
	"utime", "utimensat", "utimes", "write", "writev",

	// Memory.
	"brk", "madvise", "membarrier", "memfd_create", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mprotect", "mremap",
	"mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free", "pkey_mprotect",

	// Processes and threads.
	"alarm", "arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "futex", "futex_requeue",
	"futex_wait", "futex_waitv", "futex_wake", "get_robust_list", "getcpu", "getegid", "geteuid", "getgid", "getgroups",
	"getitimer", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresuid", "getrlimit",
	"getrusage", "getsid", "gettid", "getuid", "ioprio_get", "ioprio_set", "kill", "pause", "pidfd_open",
	"pidfd_send_signal", "restart_syscall", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
	"rt_sigqueueinfo", "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_tgsigqueueinfo", "sched_get_priority_max",
	"sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_getscheduler",
	"sched_rr_get_interval", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield",
	"set_robust_list", "set_tid_address", "setfsgid", "setfsuid", "setgid", "setgroups", "setitimer", "setpgid",
	"setpriority", "setregid", "setresgid", "setresuid", "setreuid", "setsid", "setuid", "sigaltstack", "tgkill", "tkill",
	"vfork", "wait4", "waitid",

	// To give up more.
	"landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self",

	// Waiting, time, and what passes between processes.
	"clock_getres", "clock_gettime", "clock_nanosleep", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_pwait",
	"epoll_pwait2", "epoll_wait", "eventfd", "eventfd2", "getrandom", "gettimeofday", "mq_getsetattr", "mq_notify",
	"mq_open", "mq_timedreceive", "mq_timedsend", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "nanosleep", "pipe",
	"pipe2", "poll", "ppoll", "pselect6", "select", "semctl", "semget", "semop", "semtimedop", "shmat", "shmctl", "shmdt",
	"shmget", "signalfd", "signalfd4", "sysinfo", "time", "timer_create", "timer_delete", "timer_getoverrun",
	"timer_gettime", "timer_settime", "timerfd_create", "timerfd_gettime", "timerfd_settime", "times", "uname",

	// Sockets, once there is one.
	"accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg",
	"recvmsg", "sendmmsg", "sendmsg", "sendto", "shutdown",
}

// refused are calls that exist and that code in a sandbox shall not reach, so
// that a program that tries says what a user understands.
var refused = []string{
	// Namespaces, mounts and roots.
	"chroot", "fsconfig", "fsmount", "fsopen", "fspick", "mount", "mount_setattr", "move_mount", "open_tree",
	"pivot_root", "setns", "umount2", "unshare",

	// Other processes' memory and descriptors.
	"kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace",

	// Engines in the kernel that most of its flaws of late were found in.
	"bpf", "io_uring_enter", "io_uring_register", "io_uring_setup", "perf_event_open", "userfaultfd",

	// Keys are not told apart by namespace.
	"add_key", "keyctl", "request_key",

	// Files by number, past every look-up of a path.
	"fanotify_init", "fanotify_mark", "lookup_dcookie", "name_to_handle_at", "open_by_handle_at",

	// Filters: the kernel keeps them translated, in memory that all of the machine
	// shares, and nobody can start anything once it is used up.
	"seccomp",

	// The machine.
	"acct", "adjtimex", "clock_adjtime", "clock_settime", "delete_module", "finit_module", "init_module", "ioperm", "iopl",
	"kexec_file_load", "kexec_load", "quotactl", "reboot", "setdomainname", "sethostname", "settimeofday", "swapoff",
	"swapon", "syslog", "vhangup",

	// Memory in ways that a program in user space does not need.
	"get_mempolicy", "mbind", "migrate_pages", "modify_ldt", "move_pages", "remap_file_pages", "set_mempolicy", "vmsplice",
}

// conditional are the calls that depend on their arguments.
var conditional = []conditions{
	// Processes and threads, but no namespaces, in which code would have
	// privileges over parts of the kernel that are closed to it otherwise.
	{"clone", [][]check{{without(0, newNamespaces)}}, noPermission},

	// Sockets of the families and protocols that a program has a use for. Others
	// load modules of the kernel that few have ever looked at.
	{"socketpair", [][]check{{is(0, unix.AF_UNIX)}}, noSuchFamily},
	{"socket", [][]check{
		{is(0, unix.AF_UNIX)},
		{is(0, unix.AF_INET), plain, is(2, unix.IPPROTO_IP)},
		{is(0, unix.AF_INET), plain, is(2, unix.IPPROTO_TCP)},
		{is(0, unix.AF_INET), plain, is(2, unix.IPPROTO_UDP)},
		{is(0, unix.AF_INET), plain, is(2, unix.IPPROTO_ICMP)}, // ping
		{is(0, unix.AF_INET6), plain, is(2, unix.IPPROTO_IP)},
		{is(0, unix.AF_INET6), plain, is(2, unix.IPPROTO_TCP)},
		{is(0, unix.AF_INET6), plain, is(2, unix.IPPROTO_UDP)},
		{is(0, unix.AF_INET6), plain, is(2, unix.IPPROTO_ICMPV6)},
		// How programs list interfaces and addresses; all else of netlink is
		// administration.
		{is(0, unix.AF_NETLINK), is(2, unix.NETLINK_ROUTE)},
	}, noSuchFamily},

	// No filters by these ways either.
	{"prctl", [][]check{
		{between(0, 0, unix.PR_SET_SECCOMP-1)},
		{between(0, unix.PR_SET_SECCOMP+1, unix.PR_SCHED_CORE-1)}, // which lets threads keep others from a core
		{between(0, unix.PR_SCHED_CORE+1, 1<<32-1)},
	}, noPermission},
	{"setsockopt", slices.Concat(
		[][]check{{between(1, 0, unix.SOL_SOCKET-1)}, {between(1, unix.SOL_SOCKET+1, 1<<32-1)}},
		others(2, unix.SO_ATTACH_FILTER, unix.SO_ATTACH_BPF, unix.SO_ATTACH_REUSEPORT_CBPF, unix.SO_ATTACH_REUSEPORT_EBPF),
	), noPermission},

	// Limits may be read and lowered, but for that of core files: 1 is what keeps
	// the kernel from running the host's core handler, and 0 would not (core(5)).
	{"prlimit64", append(limits(1), []check{is(2, 0)}), noPermission}, // without a new limit: it reads
	{"setrlimit", limits(0), noPermission},

	// All but the two that type into a terminal. Some C libraries hand the number
	// on as an int, so that those with bit 31 come with all bits above it set.
	{"ioctl", [][]check{
		{between(1, 0, unix.TIOCSTI-1)},
		{between(1, unix.TIOCSTI+1, unix.TIOCLINUX-1)},
		{between(1, unix.TIOCLINUX+1, 1<<32-1)},
		{between(1, 0xffffffff_80000000, 1<<64-1)},
	}, noPermission},

	// Linux, the same that tells 32 bits of addresses, and which it is now. None
	// that takes randomness out of addresses.
	{"personality", [][]check{{is(0, 0)}, {is(0, 0x0008)}, {is(0, 0xffffffff)}}, noPermission},
}

// plain are the socket types, a socket's second argument, that have a use: the lowest
// four bits, beside which are flags, are SOCK_STREAM, SOCK_DGRAM or SOCK_RAW, which takes
// a privilege. Others choose a protocol by themselves, such as SCTP or DCCP.
var plain = without(1, 0xc)

// others are the cases of an int that is none of some values, in their order.
func others(argument uint32, values ...uint64) (cases [][]check) {
	from := uint64(0)
	for _, v := range values {
		cases = append(cases, []check{between(argument, from, v-1)})
		from = v + 1
	}
	return append(cases, []check{between(argument, from, 1<<32-1)})
}

const newNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// limits are the cases of an argument that names any limit but that of core
// files.
func limits(argument uint32) (cases [][]check) {
	for limit := uint64(0); limit <= unix.RLIMIT_RTTIME; limit++ {
		if limit != unix.RLIMIT_CORE {
			cases = append(cases, []check{is(argument, limit)})
		}
	}
	return cases
}
