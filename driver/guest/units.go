// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// unitsDir is where init has the cgroups of executions, in a directory that
// nobody else can enter.
const unitsDir = "/run/buntime/units"

// units are cgroups (v2) that init makes itself: where a kernel of its own, such
// as gVisor's, runs the sandbox, the host does not see the processes in it. That
// of gVisor kills, lists and accounts by cgroup and holds the number of
// processes, but no limit of memory.
type units struct {
	dir string // the parent of all

	mu    sync.Mutex
	peaks map[string]int64 // bytes, by id
}

// moveIn makes what is left to make of a sandbox that init was started in, and
// listens.
func moveIn(b wire.Boot, cfg *Config) (*net.UnixListener, error) {
	if err := os.Chdir("/"); err != nil {
		return nil, err
	}
	for i, m := range b.Mounts {
		if m.Type != "file" {
			return nil, fmt.Errorf("mount %s at %s: not for init to make here", m.Type, m.Target)
		}
		if err := mountFile("."+filepath.Clean("/"+m.Target), m, i); err != nil {
			return nil, fmt.Errorf("mount file at %s: %w", m.Target, err)
		}
	}
	if b.Units {
		var err error
		if cfg.units, err = newUnits(unitsDir, b.Pids); err != nil {
			return nil, fmt.Errorf("make cgroups: %w", err)
		}
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: b.Listen})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", b.Listen, err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// newUnits mounts the cgroups at mount. Init stays in the root of them, outside
// the limit of pids processes and threads.
func newUnits(mount string, pids int64) (*units, error) {
	if err := os.MkdirAll(mount, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("cgroup2", mount, "cgroup2", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return nil, &os.PathError{Op: "mount", Path: mount, Err: err}
	}
	if err := os.Chmod(mount, 0o700); err != nil {
		return nil, err
	}
	u := &units{dir: mount + "/session", peaks: make(map[string]int64)}
	if err := os.Mkdir(u.dir, 0o700); err != nil {
		return nil, err
	}
	type setting struct{ file, value string }
	settings := []setting{
		{mount + "/cgroup.subtree_control", "+memory +pids +cpu"},
		{u.dir + "/cgroup.subtree_control", "+memory +cpu"},
	}
	if pids > 0 {
		settings = append(settings, setting{u.dir + "/pids.max", strconv.FormatInt(pids, 10)})
	}
	for _, s := range settings {
		if err := os.WriteFile(s.file, []byte(s.value), 0); err != nil {
			return nil, err
		}
	}
	return u, nil
}

// joinUnit makes the unit of a process that req starts, and appends what gets
// it in there to fds.
func (s *server) joinUnit(req *wire.Request, fds []int) ([]int, error) {
	if s.cfg.units == nil {
		return fds, nil
	}
	switch req.Op {
	case wire.OpPrepare, wire.OpExec, wire.OpMain:
	case wire.OpRun:
		if req.Code != nil {
			return fds, nil // the runner is in its own
		}
	default:
		return fds, nil
	}
	fd, err := s.cfg.units.enter(req.ID)
	if err != nil {
		return fds, err
	}
	return append(fds, fd), nil
}

// path is the directory of the unit id.
func (u *units) path(id string) (string, error) {
	if id == "" || strings.ContainsAny(id, "/.") {
		return "", fmt.Errorf("%q cannot name a unit", id)
	}
	return u.dir + "/" + id, nil
}

// enter makes the unit id and opens it for a process to be born in.
func (u *units) enter(id string) (int, error) {
	dir, err := u.path(id)
	if err != nil {
		return -1, err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return -1, fmt.Errorf("make unit: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open unit %s: %w", id, err)
	}
	return fd, nil
}

// answer does what req asks of units.
func (u *units) answer(req *wire.Request) wire.Event {
	if u == nil {
		return failed(errors.New("this sandbox's units are the host's"))
	}
	var err error
	switch req.Op {
	case wire.OpKill:
		err = u.kill(req.ID)
	case wire.OpRemove:
		err = u.remove(req.ID)
	default:
		var list []wire.Unit
		if list, err = u.list(req.ID); err == nil {
			return wire.Event{Event: wire.EventUnits, Units: list}
		}
	}
	if err != nil {
		return failed(fmt.Errorf("%s unit %s: %w", req.Op, req.ID, err))
	}
	return wire.Event{Event: wire.EventExited}
}

// kill ends what is in a unit and waits until nothing is.
func (u *units) kill(id string) error {
	dir, err := u.path(id)
	if err != nil {
		return err
	}
	deadline := time.Now().Add(killPatience)
	for pause := 100 * time.Microsecond; ; pause = min(2*pause, 10*time.Millisecond) {
		// Each time anew: a fork may have been under way.
		if err := os.WriteFile(dir+"/cgroup.kill", []byte("1"), 0); errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		pids, err := pidsOf(dir)
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v outlived SIGKILL", pids)
		}
		time.Sleep(pause)
	}
}

// remove forgets a unit without processes.
func (u *units) remove(id string) error {
	dir, err := u.path(id)
	if err != nil {
		return err
	}
	u.mu.Lock()
	delete(u.peaks, id)
	u.mu.Unlock()
	deadline := time.Now().Add(killPatience)
	for {
		// A process that is just ending may be in it yet.
		err := unix.Rmdir(dir)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY || time.Now().After(deadline) {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// list tells of all units, or of that with the id.
func (u *units) list(id string) ([]wire.Unit, error) {
	ids := []string{id}
	if id == "" {
		entries, err := os.ReadDir(u.dir)
		if err != nil {
			return nil, err
		}
		ids = nil
		for _, e := range entries {
			if e.IsDir() {
				ids = append(ids, e.Name())
			}
		}
	}
	var out []wire.Unit
	for _, id := range ids {
		unit, err := u.read(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, unit)
	}
	return out, nil
}

func (u *units) read(id string) (unit wire.Unit, err error) {
	dir, err := u.path(id)
	if err != nil {
		return unit, err
	}
	unit.ID = id
	if unit.Pids, err = pidsOf(dir); err != nil {
		return unit, err
	}
	memory, err := os.ReadFile(dir + "/memory.current")
	if err != nil {
		return unit, err
	}
	if unit.Memory, err = strconv.ParseInt(strings.TrimSpace(string(memory)), 10, 64); err != nil {
		return unit, err
	}
	stat, err := os.ReadFile(dir + "/cpu.stat")
	if err != nil {
		return unit, err
	}
	for line := range strings.Lines(string(stat)) {
		if n, ok := strings.CutPrefix(line, "usage_usec "); ok {
			usec, _ := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			unit.CPU = usec * int64(time.Microsecond)
		}
	}
	unit.MemoryPeak = u.peak(id, unit.Memory)
	return unit, nil
}

// peak takes a look at what a unit holds into account and returns the most that
// was seen.
func (u *units) peak(id string, memory int64) int64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.peaks[id] = max(u.peaks[id], memory)
	return u.peaks[id]
}

// note takes into account what x's first process and those it waited for held
// at their most. It does nothing where the host keeps the units.
func (u *units) note(x *execution) {
	if u != nil {
		u.peak(x.id, x.proc.usage.Maxrss<<10)
	}
}

func pidsOf(dir string) ([]int, error) {
	b, err := os.ReadFile(dir + "/cgroup.procs")
	if err != nil {
		return nil, err
	}
	var pids []int
	for f := range strings.FieldsSeq(string(b)) {
		pid, err := strconv.Atoi(f)
		if err != nil {
			return nil, fmt.Errorf("parse %s/cgroup.procs: %w", dir, err)
		}
		pids = append(pids, pid)
	}
	slices.Sort(pids)
	return pids, nil
}
