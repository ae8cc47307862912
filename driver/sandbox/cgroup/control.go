// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fscommon"
	"golang.org/x/sys/unix"
)

// Freeze stops every process of the session, and returns once all stand still.
// Should that not come to pass in time, it lets them go again.
func (g *Group) Freeze(ctx context.Context) error {
	dir := g.session(g.lay.kill)
	if err := freeze(ctx, dir); err != nil {
		_ = setFrozen(dir, false)
		return fmt.Errorf("freeze %s: %w", g.scope.Path, err)
	}
	return nil
}

// Thaw lets the session's processes go on.
func (g *Group) Thaw() error {
	if err := setFrozen(g.session(g.lay.kill), false); err != nil {
		return fmt.Errorf("thaw %s: %w", g.scope.Path, err)
	}
	return nil
}

// Frozen tells whether the session stands still.
func (g *Group) Frozen() (bool, error) {
	frozen, err := isFrozen(g.session(g.lay.kill), false)
	if err != nil {
		return false, fmt.Errorf("read freezer of %s: %w", g.scope.Path, err)
	}
	return frozen, nil
}

// Kill ends every process of the session, but not init, and returns once there
// is none. A frozen session is thawed by it.
func (g *Group) Kill(ctx context.Context) error {
	dir := g.session(g.lay.kill)
	if err := killAll(ctx, dir); err != nil {
		return fmt.Errorf("kill session of %s: %w", g.scope.Path, err)
	}
	return ignore(setFrozen(dir, false), unix.ENOENT)
}

// Destroy ends every process, init too, and removes all directories in all
// hierarchies. It may be called again, and of a group that is gone.
func (g *Group) Destroy(ctx context.Context) error {
	// Of the session first: in v1 its processes can only die thawed, and init,
	// which may be frozen by nobody, goes after those it looks after.
	for _, kill := range []func() error{
		func() error { return g.Kill(ctx) },
		func() error { return killAll(ctx, g.init(g.lay.kill)) },
	} {
		if err := kill(); err != nil {
			return fmt.Errorf("destroy cgroups of %s: %w", g.scope.Path, err)
		}
	}
	err := until(ctx, "the last process to leave", func() (bool, error) {
		err := g.remove()
		return err == nil, ignore(err, unix.EBUSY)
	})
	if err != nil {
		return fmt.Errorf("destroy cgroups of %s: %w", g.scope.Path, err)
	}
	return nil
}

// remove removes what can be removed now, and returns why not all could.
func (g *Group) remove() error {
	var errs []error
	for i, h := range g.lay.hierarchies {
		if err := removeTree(g.dirs[i]); err != nil {
			errs = append(errs, err)
			continue
		}
		if !h.removable(g.scope) {
			continue
		}
		// Parents go as well unless another sandbox lives there.
		for dir := filepath.Dir(g.dirs[i]); dir != h.mount; dir = filepath.Dir(dir) {
			if unix.Rmdir(dir) != nil {
				break
			}
		}
	}
	return errors.Join(errs...)
}

// removeTree removes the cgroup dir with those below it.
func removeTree(dir string) error {
	names, err := children(dir)
	if err != nil {
		return ignore(err, unix.ENOENT)
	}
	for _, name := range names {
		if err := removeTree(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return &os.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}

// killAll ends what is in dir and below it. It is no error if there is no dir.
func killAll(ctx context.Context, dir string) error {
	err := cgroups.WriteFile(dir, "cgroup.kill", "1")
	if err == nil {
		return until(ctx, "processes to die", func() (bool, error) { return isEmpty(dir) })
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	// v1, or Linux before 5.14: one signal at a time. What stands still cannot
	// fork away from them.
	return until(ctx, "processes to die", func() (bool, error) {
		if empty, err := isEmpty(dir); empty || err != nil {
			return empty, err
		}
		defer func() { _ = setFrozen(dir, false) }()
		if err := freeze(ctx, dir); err != nil {
			return false, ignore(err, unix.ENOENT)
		}
		pids, err := cgroups.GetAllPids(dir)
		if err != nil {
			return false, ignore(err, unix.ENOENT)
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return false, nil
	})
}

// isEmpty tells whether no process lives in dir or below it, or dir is gone.
func isEmpty(dir string) (bool, error) {
	n, err := fscommon.GetValueByKey(dir, "cgroup.events", "populated")
	if !errors.Is(err, fs.ErrNotExist) {
		return err == nil && n == 0, ignore(err, unix.ENODEV)
	}
	pids, err := cgroups.GetAllPids(dir) // v1
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return true, nil
	}
	return err == nil && len(pids) == 0, err
}

func freeze(ctx context.Context, dir string) error {
	if err := setFrozen(dir, true); err != nil {
		return err
	}
	return until(ctx, "processes to stand still", func() (bool, error) { return isFrozen(dir, true) })
}

// setFrozen asks for it; isFrozen tells when it has come to pass.
func setFrozen(dir string, frozen bool) error {
	v1, v2 := cgroups.Thawed, "0"
	if frozen {
		v1, v2 = cgroups.Frozen, "1"
	}
	err := cgroups.WriteFile(dir, "cgroup.freeze", v2)
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return cgroups.WriteFile(dir, "freezer.state", string(v1))
}

// isFrozen reads the state. With again, on v1, it repeats a demand that is not
// met yet: processes that keep appearing can otherwise leave it at FREEZING for
// ever (opencontainers/cgroups, fs/freezer.go).
func isFrozen(dir string, again bool) (bool, error) {
	n, err := fscommon.GetValueByKey(dir, "cgroup.events", "frozen")
	if !errors.Is(err, fs.ErrNotExist) {
		return n == 1, err
	}
	state, err := cgroups.ReadFile(dir, "freezer.state")
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(state) == string(cgroups.Frozen) {
		return true, nil
	}
	if again {
		err = setFrozen(dir, true)
	}
	return false, err
}

// longestWait bounds a wait whose context has no deadline of its own.
const longestWait = 30 * time.Second

// until calls done, at first every 50 µs and then less and less often, to every
// 5 ms, until it is true. There is an event file for some of what is waited for,
// but the kernel holds its events back to one in 10 ms, and all of this is over
// within fractions of a millisecond as a rule (frozen: 0.1; killed: 0.6).
func until(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, longestWait)
	defer cancel()
	for pause := 50 * time.Microsecond; ; pause = min(2*pause, 5*time.Millisecond) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if pause < time.Millisecond { // a Go timer would take one at least
			ts := unix.NsecToTimespec(pause.Nanoseconds())
			_ = unix.Nanosleep(&ts, nil)
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, context.Cause(ctx))
		case <-time.After(pause):
		}
	}
}

func ignore(err, what error) error {
	if errors.Is(err, what) {
		return nil
	}
	return err
}
