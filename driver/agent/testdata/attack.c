// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// attack NAME tries one way out of a sandbox and says what came of it: "through"
// or the kernel's reason. It is linked statically, so that the sandbox has no say
// in what it calls.

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/netlink.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static long mask_of(const char *field) {
	char line[256], *end;
	long value = -1;
	FILE *f = fopen("/proc/self/status", "r");
	size_t n = strlen(field);
	while (f && fgets(line, sizeof line, f))
		if (!strncmp(line, field, n)) value = strtol(line + n + 1, &end, 16);
	if (f) fclose(f);
	return value;
}

// got says whether a file has anything to read.
static long got(const char *path) {
	char b[64];
	int fd = open(path, O_RDONLY);
	if (fd < 0) return -1;
	long n = read(fd, b, sizeof b);
	if (n == 0) errno = ENODATA;
	return n > 0 ? 0 : -1;
}

static long put(const char *path, const char *text) {
	int fd = open(path, O_WRONLY);
	if (fd < 0) return -1;
	return write(fd, text, strlen(text)) < 0 ? -1 : 0;
}

static long child(int (*f)(void *), int flags) {
	static char stack[65536];
	int status;
	pid_t pid = clone(f, stack + sizeof stack, flags | SIGCHLD, NULL);
	if (pid < 0) return -1;
	waitpid(pid, &status, 0);
	errno = WEXITSTATUS(status);
	return errno ? -1 : 0;
}

static int nothing(void *unused) { return 0; }

static int mounting(void *unused) { return mount("none", "/tmp", "tmpfs", 0, NULL) ? errno : 0; }

static long abstract(const char *name) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	size_t n = strlen(name);
	memcpy(a.sun_path + 1, name, n);
	return connect(fd, (struct sockaddr *)&a, offsetof(struct sockaddr_un, sun_path) + 1 + n);
}

static long descriptors(void) {
	for (int fd = 3; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0) return 0;
	errno = EBADF;
	return -1;
}

static long attack(const char *name, const char *argument) {
#define IS(s) (!strcmp(name, s))
	if (IS("user namespace")) return child(nothing, CLONE_NEWUSER);
	if (IS("user namespace by unshare")) return unshare(CLONE_NEWUSER);
	if (IS("user namespace by clone3")) {
		struct { uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls; } a = {.flags = CLONE_NEWUSER, .exit_signal = SIGCHLD};
		long pid = syscall(SYS_clone3, &a, sizeof a);
		if (pid == 0) _exit(0);
		return pid;
	}
	if (IS("mount in a namespace")) return child(mounting, CLONE_NEWUSER | CLONE_NEWNS);
	if (IS("mount")) return mount("none", "/tmp", "tmpfs", 0, NULL);
	if (IS("chroot")) return chroot("/tmp");
	if (IS("host name")) return sethostname("x", 1);
	if (IS("io_uring")) {
		char params[120] = {0};
		return syscall(SYS_io_uring_setup, 1, params);
	}
	if (IS("userfaultfd")) return syscall(SYS_userfaultfd, 1 /* UFFD_USER_MODE_ONLY */);
	if (IS("keyring")) return syscall(SYS_add_key, "user", "attack", "x", 1, KEY_SPEC_PROCESS_KEYRING);
	if (IS("bpf")) {
		union bpf_attr a = {.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1};
		return syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof a);
	}
	if (IS("perf")) {
		struct perf_event_attr a = {.type = PERF_TYPE_SOFTWARE, .size = sizeof a, .config = PERF_COUNT_SW_TASK_CLOCK, .exclude_kernel = 1, .exclude_hv = 1};
		return syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
	}
	if (IS("ptrace")) return ptrace(PTRACE_TRACEME, 0, 0, 0);
	if (IS("memory of another process")) {
		static char secret = 'x';
		char b;
		pid_t pid = fork();
		if (pid == 0) { pause(); _exit(0); }
		struct iovec ours = {&b, 1}, theirs = {&secret, 1};
		long n = process_vm_readv(pid, &ours, 1, &theirs, 1, 0);
		int e = errno;
		kill(pid, SIGKILL);
		errno = e;
		return n;
	}
	if (IS("netfilter socket")) return socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
	if (IS("packet socket")) return socket(AF_PACKET, SOCK_RAW, 0);
	if (IS("raw socket")) return socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	if (IS("i386 call")) {
		long pid;
		__asm__ volatile("int $0x80" : "=a"(pid) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
		if (pid < 0) { errno = -pid; return -1; }
		return 0;
	}
	if (IS("fixed addresses")) return personality(ADDR_NO_RANDOMIZE);
	if (IS("core limit")) return setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
	if (IS("file handle")) {
		struct { struct file_handle h; char rest[128]; } h = {.h.handle_bytes = 128};
		int mount_id;
		return name_to_handle_at(AT_FDCWD, "/", &h.h, &mount_id, 0);
	}
	if (IS("fanotify")) return syscall(SYS_fanotify_init, 0x200 /* FAN_REPORT_FID */, O_RDONLY);
	if (IS("filter by seccomp") || IS("filter by prctl")) {
		struct sock_filter allow[] = {{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
		struct sock_fprog prog = {1, allow};
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); // as it is inside
		if (IS("filter by prctl")) return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0);
		return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &prog);
	}
	if (IS("filter of a socket")) {
		struct sock_filter allow[] = {{BPF_RET | BPF_K, 0, 0, -1U}};
		struct sock_fprog prog = {1, allow};
		return setsockopt(socket(AF_INET, SOCK_DGRAM, 0), SOL_SOCKET, SO_ATTACH_FILTER, &prog, sizeof prog);
	}
	if (IS("kcmp")) return syscall(SYS_kcmp, getpid(), getpid(), 1, 0, 0);
	if (IS("vmsplice")) {
		int p[2];
		if (pipe(p)) return -1;
		return vmsplice(p[1], &(struct iovec){"x", 1}, 1, 0);
	}
	if (IS("foreign descriptors")) return descriptors();
	if (IS("privileges")) return mask_of("CapEff:") != 0 || mask_of("CapBnd:") != 0 ? 0 : (errno = EPERM, -1);
	if (IS("root inside")) return setuid(0);
	if (IS("privileged exec")) return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0 ? 0 : (errno = EPERM, -1);
	if (IS("environment of init")) return got("/proc/1/environ");
	if (IS("memory of init")) return open("/proc/1/mem", O_RDWR);
	if (IS("binary of init")) return open("/proc/1/exe", O_RDONLY);
	if (IS("descriptors of init")) return open("/proc/1/fd", O_RDONLY | O_DIRECTORY);
	if (IS("root of init")) return open("/proc/1/root/", O_RDONLY);
	if (IS("read")) return got(argument);
	if (IS("write to a process's settings")) return put("/proc/self/coredump_filter", "0x33");
	if (IS("write to the kernel's settings")) return put(argument, "1000");
	if (IS("write to the root")) {
		int fd = open("/attack", O_CREAT | O_WRONLY, 0600);
		if (fd >= 0) unlink("/attack");
		return fd;
	}
	if (IS("write to the cgroup")) return put(argument, "-1");
	if (IS("device node")) return mknod("/tmp/mem", S_IFCHR | 0666, makedev(1, 1));
	if (IS("abstract socket")) return abstract(argument);
	errno = ENOENT;
	return -1;
}

int main(int argc, char **argv) {
	errno = 0;
	if (attack(argv[1], argc > 2 ? argv[2] : "") >= 0)
		puts("through");
	else
		printf("%s\n", strerrorname_np(errno) ? strerrorname_np(errno) : "?");
	return 0;
}
