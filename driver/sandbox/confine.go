// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"maps"
	"slices"

	"github.com/buntime/buntime/driver/guest/wire"
)

// Layer is one of the defences around the code in a sandbox. They overlap: what
// one lets through, another mostly stops.
type Layer string

// The layers that a test can leave out, to see that its attack then gets through.
const (
	// LayerSeccomp is the filter of system calls.
	LayerSeccomp Layer = "seccomp"
	// LayerLandlock closes paths, whatever mounts and permissions say.
	LayerLandlock Layer = "landlock"
	// LayerProc covers entries of /proc and makes others read-only.
	LayerProc Layer = "proc"
	// LayerReadOnlyRoot makes the root file system read-only.
	LayerReadOnlyRoot Layer = "read-only root"
	// LayerPrivileges takes init's ids and capabilities from code, and
	// no_new_privs keeps it from gaining others.
	LayerPrivileges Layer = wire.WithoutPrivileges
	// LayerDescriptors closes the descriptors that a process was started with.
	LayerDescriptors Layer = wire.WithoutDescriptors
)

func (n *Node) without(l Layer) bool { return slices.Contains(n.config.Without, l) }

// maskedProc are the entries of /proc that tell of the host or act on it: those
// that the container engines mask, and what else any process can read of the
// machine, its devices and what others do on it. Entries that are only the host's
// root's need no mount: in here nobody is that.
var maskedProc = []string{
	"acpi", "asound", "bootconfig", "cmdline", "config.gz", "diskstats", "driver", "interrupts", "kallsyms", "kcore",
	"key-users", "keys", "latency_stats", "locks", "mdstat", "modules", "partitions", "pressure", "sched_debug",
	"schedstat", "scsi", "softirqs", "swaps", "timer_list", "timer_stats", "zoneinfo",
}

// fixedProc are the entries that a process of uid 0 could write to.
var fixedProc = []string{"bus", "fs", "irq", "sys", "sysrq-trigger"}

func (s *Sandbox) procMount() wire.Mount {
	m := wire.Mount{Type: "proc", Target: "/proc"}
	if !s.node.without(LayerProc) {
		m.Masked, m.Fixed = maskedProc, fixedProc
	}
	return m
}

// writable are the places that code may change, which are also those that mounts
// let it.
var writable = []string{"/workspace", "/tmp", "/home/bun", "/dev/shm", "/dev/mqueue"}

// confine says what init confines the processes of the sandbox with.
func (s *Sandbox) confine(boot *wire.Boot, spec Spec) {
	if !s.node.without(LayerSeccomp) {
		boot.Seccomp = s.node.filter
	}
	if !s.node.without(LayerLandlock) {
		boot.Landlock = &wire.Landlock{
			Write:    append(slices.Sorted(maps.Keys(spec.Dirs)), writable...),
			Devices:  []string{"/dev"},
			Abstract: spec.Netns != "",
		}
	}
	for _, l := range []Layer{LayerPrivileges, LayerDescriptors} {
		if s.node.without(l) {
			boot.Without = append(boot.Without, string(l))
		}
	}
}
