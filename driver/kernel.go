// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/google/nftables"
	pstructs "github.com/hashicorp/nomad/plugins/shared/structs"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/cgroup"
)

// Cgroup layouts. Hybrid is v1 with an extra v2 hierarchy without controllers,
// which still can freeze and kill.
const (
	cgroupV1     = "v1"
	cgroupV2     = "v2"
	cgroupHybrid = "hybrid"
)

// kernel is what a sandbox needs of the kernel, or can use where it is there.
type kernel struct {
	cgroup      string   // layout; empty if there is none
	controllers []string // wanted controllers that are not there
	features    cgroup.Info
	unusable    error // why no cgroup of ours could be made
	userns      bool
	overlayfs   bool
	ext4        bool
	loop        bool
	seccomp     bool
	landlock    int // ABI version; 0 is none
	nftables    error
}

func lookAtKernel(ctx context.Context) *kernel {
	k := &kernel{
		userns:    readNumber("/proc/sys/user/max_user_namespaces") > 0,
		overlayfs: hasFilesystem("overlay"),
		ext4:      hasFilesystem("ext4"),
		loop:      exists("/dev/loop-control"),
		seccomp:   exists("/proc/sys/kernel/seccomp/actions_avail"),
		landlock:  landlockABI(),
		nftables:  tryNftables(),
	}
	k.cgroup, k.controllers = lookAtCgroups("/sys/fs/cgroup")
	if k.cgroup != "" && len(k.controllers) == 0 {
		k.features, k.unusable = probedCgroups.probe(ctx)
	}
	return k
}

// cgroupProbe makes a cgroup to see what it can do: its files are not in the
// root cgroup, where one could look otherwise. One success is enough for the
// life of the process.
type cgroupProbe struct {
	mu   sync.Mutex
	done bool
	info cgroup.Info
}

var probedCgroups cgroupProbe

func (p *cgroupProbe) probe(ctx context.Context) (cgroup.Info, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return p.info, nil
	}
	info, err := cgroup.Detect(ctx)
	p.done, p.info = err == nil, info
	return info, err
}

func (k *kernel) attributes() map[string]*pstructs.Attribute {
	attributes := map[string]*pstructs.Attribute{
		"cgroup":             pstructs.NewStringAttribute(k.cgroup),
		"cgroup_kill":        pstructs.NewBoolAttribute(k.features.Kill),
		"cgroup_burst":       pstructs.NewBoolAttribute(k.features.Burst),
		"cgroup_memory_peak": pstructs.NewBoolAttribute(k.features.MemoryPeak),
		"cgroup_swap":        pstructs.NewBoolAttribute(k.features.Swap),
		"userns":             pstructs.NewBoolAttribute(k.userns),
		"overlayfs":          pstructs.NewBoolAttribute(k.overlayfs),
		"ext4":               pstructs.NewBoolAttribute(k.ext4),
		"loop":               pstructs.NewBoolAttribute(k.loop),
		"seccomp":            pstructs.NewBoolAttribute(k.seccomp),
		"landlock":           pstructs.NewIntAttribute(int64(k.landlock), ""),
		"nftables":           pstructs.NewBoolAttribute(k.nftables == nil),
	}
	named := make(map[string]*pstructs.Attribute, len(attributes))
	for name, value := range attributes {
		named["driver."+Name+"."+name] = value
	}
	return named
}

// missing lists what no sandbox can do without, and what to do about it.
func (k *kernel) missing() []string {
	var missing []string
	need := func(there bool, what string) {
		if !there {
			missing = append(missing, what)
		}
	}
	need(k.cgroup != "", "cgroups: mount cgroup2 at /sys/fs/cgroup")
	if k.cgroup != "" && len(k.controllers) != 0 {
		need(false, fmt.Sprintf("cgroup controllers %s: enable them (kernel command line, cgroup.subtree_control)",
			strings.Join(k.controllers, ", ")))
	}
	if k.unusable != nil {
		need(false, fmt.Sprintf("cgroups that can be used (%v)", k.unusable))
	}
	need(k.userns, "user namespaces: set the sysctl user.max_user_namespaces above 0")
	need(k.ext4, "ext4: load the kernel module ext4")
	need(k.loop, "loop devices: load the kernel module loop")
	need(k.seccomp, "seccomp: use a kernel built with CONFIG_SECCOMP_FILTER")
	if k.nftables != nil {
		need(false, fmt.Sprintf("nftables: load the kernel module nf_tables (%v)", k.nftables))
	}
	return missing
}

// lookAtCgroups tells the layout below root, and which wanted controllers it
// lacks.
func lookAtCgroups(root string) (layout string, lacking []string) {
	if isCgroup2(root) {
		text, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
		if err != nil {
			return cgroupV2, []string{err.Error()}
		}
		has := strings.Fields(string(text))
		for _, name := range []string{"cpu", "memory", "pids"} {
			if !slices.Contains(has, name) {
				lacking = append(lacking, name)
			}
		}
		return cgroupV2, lacking
	}
	for _, name := range []string{"cpu", "cpuacct", "memory", "pids", "freezer"} {
		if !exists(filepath.Join(root, name, "cgroup.procs")) {
			lacking = append(lacking, name)
		}
	}
	switch {
	case len(lacking) == 5:
		return "", lacking
	case isCgroup2(filepath.Join(root, "unified")):
		return cgroupHybrid, lacking
	default:
		return cgroupV1, lacking
	}
}

func isCgroup2(path string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(path, &stat) == nil && stat.Type == unix.CGROUP2_SUPER_MAGIC
}

// hasFilesystem says whether the kernel knows a file system, or could load it.
func hasFilesystem(name string) bool {
	known, err := os.ReadFile("/proc/filesystems")
	if err == nil && slices.Contains(strings.Fields(string(known)), name) {
		return true
	}
	modules, err := os.ReadFile(filepath.Join("/lib/modules", kernelRelease(), "modules.dep"))
	return err == nil && strings.Contains(string(modules), "/"+name+".ko")
}

func landlockABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}

// tryNftables asks the kernel for its tables, which loads the module.
func tryNftables() error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	_, err = conn.ListTablesOfFamily(nftables.TableFamilyINet)
	return err
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	return unix.ByteSliceToString(name.Release[:])
}

func readNumber(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
