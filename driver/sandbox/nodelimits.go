// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// Some of what a sandbox can use up is counted neither by a cgroup nor by a
// namespace but by the machine or by a user. This file sees to it that what one
// sandbox takes is missed by nobody else.

const procSys = "/proc/sys"

// nodeLimits are bounds of the whole machine from a time in which nobody counted
// the memory behind what they bound. Cgroups do count it today, so that a
// sandbox comes to its own limit first; at their defaults one of 1 GB could take
// all open files, and eight with a fork bomb each all process numbers of a node.
// systemd raises the first two in the same way on machines that it runs.
var nodeLimits = []struct {
	key   string
	least int64
}{
	{"fs/file-max", math.MaxInt64},
	{"kernel/pid_max", 4 << 20}, // the kernel's own maximum
	{"kernel/threads-max", 1 << 20},
	// For root, who watches each workspace with a group of its own: else the
	// 129th session of a node would be refused.
	{"fs/fanotify/max_user_groups", 1 << 16},
	{"fs/fanotify/max_user_marks", 1 << 18},
}

// raiseNodeLimits raises what is too low below dir, procSys, and lowers nothing.
func raiseNodeLimits(dir string) error {
	var errs []error
	for _, l := range nodeLimits {
		path := filepath.Join(dir, l.key)
		text, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue // a kernel without it
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("read limit of the node: %w", err))
			continue
		}
		now, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
		if err == nil && now < l.least {
			err = os.WriteFile(path, []byte(strconv.FormatInt(l.least, 10)), 0o644)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("raise limit of the node: %w", err))
		}
	}
	return errors.Join(errs...)
}

// limitCore gives this process, and with it all that it will start, the limit of core
// files that sandboxes are to have (wire.CoreLimit says why): also gVisor's
// processes, which have other ids by the time that they could be told.
func limitCore() error {
	limit := unix.Rlimit{Cur: wire.CoreLimit, Max: wire.CoreLimit}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return fmt.Errorf("limit core files to %d: %w (the hard limit is 0 and may not be raised: set LimitCORE=infinity for Nomad)", wire.CoreLimit, err)
	}
	return nil
}

// oomScore puts everything in sandboxes before everything else when the machine
// itself is out of memory: as if it used half of the machine's more than it does.
// Without it the kernel could take Nomad or Consul, which are bigger than most of
// what runs in a session.
const oomScore = 500

// sacrifice sets oomScore for init and what it will start. Set from outside, it
// is also the least that anything in the sandbox can give itself.
func sacrifice(pid int) error {
	path := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	if err := os.WriteFile(path, []byte(strconv.Itoa(oomScore)), 0o644); err != nil {
		return fmt.Errorf("set score for lack of memory: %w", err)
	}
	return nil
}
