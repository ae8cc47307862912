// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

//go:build ignore

// sysinfo(2) tells of the whole machine's memory, in a sandbox too, and Bun goes
// by it: os.totalmem() is its answer, and the garbage collector lets the heap
// grow as if all of that could be had, until the kernel kills it. This library,
// which the loader puts before the C library in every program of a sandbox, lowers
// the answer to what the session's cgroup allows.
//
// It uses no library itself, so that it costs a start nothing but its mapping.

#include <sys/syscall.h>
#include <sys/sysinfo.h>

static long call3(long nr, long a, long b, long c) {
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return result;
}

// number reads a file that holds one, or returns the most there is: none, or the
// word "max", is no limit.
static unsigned long number(const char *path) {
	char text[24];
	long fd = call3(SYS_open, (long)path, 02000000 /* O_CLOEXEC */, 0);
	if (fd < 0)
		return -1UL;
	long length = call3(SYS_read, fd, (long)text, sizeof text);
	call3(SYS_close, fd, 0, 0);
	unsigned long n = 0;
	long i = 0;
	for (; i < length && text[i] >= '0' && text[i] <= '9'; i++)
		n = 10 * n + (unsigned long)(text[i] - '0');
	return i > 0 ? n : -1UL;
}

// either reads the file of cgroup v2 or that of v1.
static unsigned long either(const char *v2, const char *v1) {
	unsigned long n = number(v2);
	return n != -1UL ? n : number(v1);
}

extern int *__errno_location(void);

int sysinfo(struct sysinfo *info) {
	long result = call3(SYS_sysinfo, (long)info, 0, 0);
	if (result < 0) {
		*__errno_location() = (int)-result;
		return -1;
	}
	unsigned long limit = either("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes");
	unsigned long unit = info->mem_unit ? info->mem_unit : 1;
	if (limit / unit >= info->totalram)
		return 0;
	unsigned long used = either("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes");
	unsigned long left = used < limit ? (limit - used) / unit : 0;
	info->totalram = limit / unit;
	if (info->freeram > left)
		info->freeram = left;
	info->totalswap = info->freeswap = info->totalhigh = info->freehigh = 0;
	info->sharedram = info->bufferram = 0;
	return 0;
}
