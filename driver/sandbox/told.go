// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"crypto/sha256"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// told makes what programs go by when they ask how large the machine is agree
// with the sandbox's limits, and what names the machine differ from the host's.
//
// Bun takes the number of processors from /sys/devices/system/cpu/online and the
// CPU quota, the memory it may use from the cgroup, and what the machine has from
// sysinfo(2), which the root file system's libbuntime.so answers from the cgroup
// as well. Garbage collection goes by the last. Tools read /proc/meminfo.
func told(spec Spec) []wire.Mount {
	ids := machineIDs(spec.Task)
	mounts := []wire.Mount{
		{Type: "file", Target: "/etc/machine-id", Content: fmt.Sprintf("%x\n", ids[:16])},
		{Type: "file", Target: "/proc/sys/kernel/random/boot_id", Content: uuid(ids[16:])},
	}
	if spec.Limits.Memory > 0 {
		mounts = append(mounts, wire.Mount{Type: "file", Target: "/proc/meminfo", Content: meminfo(spec.Limits.Memory)})
	}
	mounts = append(mounts, wire.Mount{Type: "dir", Target: "/sys"})
	online := processors(spec.Limits.CPUs)
	for _, name := range []string{"online", "possible", "present"} {
		mounts = append(mounts, wire.Mount{Type: "file", Target: "/sys/devices/system/cpu/" + name, Content: online})
	}
	return mounts
}

// showCgroups mounts the session's cgroups where programs look for them, for
// reading: limits, use, pressure.
func (s *Sandbox) showCgroups(give func(target string, f *os.File)) error {
	const quiet = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	for name, dir := range s.group.Views() {
		f, err := detach(dir, quiet, nil)
		if err != nil {
			return fmt.Errorf("show the sandbox its cgroups: %w", err)
		}
		give(filepath.Join("/sys/fs/cgroup", name), f)
	}
	return nil
}

// processors is a list of processors as the kernel writes it: as many as a quota
// of so many cores can use at a time, the host's without one.
func processors(cores float64) string {
	n := runtime.NumCPU()
	if cores > 0 {
		n = min(n, int(math.Ceil(cores)))
	}
	if n == 1 {
		return "0\n"
	}
	return fmt.Sprintf("0-%d\n", n-1)
}

// meminfo is what a machine with so many bytes of memory would say after its
// start. What is in use now stands in the cgroup's files.
func meminfo(limit int64) string {
	kb := limit >> 10
	line := func(name string, kb int64) string { return fmt.Sprintf("%-16s%8d kB\n", name+":", kb) }
	return line("MemTotal", kb) + line("MemFree", kb) + line("MemAvailable", kb) +
		line("Buffers", 0) + line("Cached", 0) + line("SwapCached", 0) + line("Active", 0) + line("Inactive", 0) +
		line("SwapTotal", 0) + line("SwapFree", 0) + line("Shmem", 0) + line("SReclaimable", 0)
}

// machineIDs are 32 bytes that tell sandboxes apart, and nothing else: they are
// the same in each start of a task and say nothing of the host.
func machineIDs(task string) [32]byte { return sha256.Sum256([]byte("buntime machine-id " + task)) }

// uuid writes 16 bytes as /proc/sys/kernel/random/boot_id has them: version 4,
// variant 1 (RFC 9562).
func uuid(b []byte) string {
	u := [16]byte(b)
	u[6], u[8] = u[6]&0x0f|0x40, u[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x\n", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}
