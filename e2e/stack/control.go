// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// alive says whether the process runs.
func (p *process) alive() bool {
	if p == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Pids of the parts that run: "consul", "nomad-server", "nomad-client",
// "front-end" and "plugin".
func (s *Stack) Pids() (map[string]int, error) {
	pids := map[string]int{}
	for _, p := range []*process{s.consul, s.server, s.client, s.frontend} {
		if p.alive() {
			pids[p.name] = p.pid()
		}
	}
	plugin, err := s.plugin()
	if err != nil {
		return nil, err
	}
	if plugin != 0 {
		pids["plugin"] = plugin
	}
	return pids, nil
}

// plugin is the pid of the driver plugin that Nomad has started, or 0. Nomad
// starts a second one for a moment when it reads plugins' configuration
// schemas; the first that is found counts.
func (s *Stack) plugin() (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	owner := &debris{dir: s.Dir}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		exe, _ := os.Readlink(procFile(pid, "exe")) // absent for one that has just ended
		if filepath.Base(strings.TrimSuffix(exe, " (deleted)")) == pluginName && owner.owns(pid) {
			return pid, nil
		}
	}
	return 0, nil
}

// KillFrontend sends the front-end a signal and waits for its end.
func (s *Stack) KillFrontend(ctx context.Context, signal os.Signal) error {
	return s.frontend.kill(ctx, signal)
}

// KillNomad sends the Nomad client a signal and waits for its end. Tasks go on.
func (s *Stack) KillNomad(ctx context.Context, signal os.Signal) error {
	return s.client.kill(ctx, signal)
}

// KillPlugin sends the driver plugin a signal and waits for its end. Nomad
// starts another one as soon as it notices.
func (s *Stack) KillPlugin(ctx context.Context, signal syscall.Signal) error {
	pid, err := s.plugin()
	if err != nil {
		return fmt.Errorf("find plugin: %w", err)
	}
	if pid == 0 {
		return errors.New("signal plugin: it does not run")
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("open plugin's process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil {
		return fmt.Errorf("signal plugin: %w", err)
	}
	return waitExit(ctx, fd)
}

// waitExit waits until the process of a pidfd has ended.
func waitExit(ctx context.Context, pidfd int) error {
	const slice = 100 // ms between looks at ctx
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, slice)
		switch {
		case n > 0:
			return nil
		case err != nil && !errors.Is(err, unix.EINTR):
			return os.NewSyscallError("poll", err)
		case ctx.Err() != nil:
			return fmt.Errorf("wait for the end of the plugin: %w", context.Cause(ctx))
		}
	}
}

// RestartFrontend ends the front-end, if it still runs, and starts it again
// with the same configuration.
func (s *Stack) RestartFrontend(ctx context.Context) error {
	if err := s.frontend.stop(ctx, syscall.SIGTERM); err != nil {
		return err
	}
	return s.runFrontend(ctx)
}

// RestartNomad ends the Nomad client, if it still runs, and starts it again
// with the same configuration and state.
func (s *Stack) RestartNomad(ctx context.Context) error {
	if err := s.client.stop(ctx, syscall.SIGINT); err != nil {
		return err
	}
	return s.runClient(ctx)
}

// HideGVisor restarts the Nomad client as one whose plugin finds no runsc where
// it is configured to be, or, with hide false, as it was before.
func (s *Stack) HideGVisor(ctx context.Context, hide bool) error {
	runsc := s.tools.runsc
	if hide {
		runsc = filepath.Join(s.Dir, "none", "runsc")
	}
	if err := s.writeClient(runsc); err != nil {
		return err
	}
	return s.RestartNomad(ctx)
}

// Stop ends all jobs and waits until they are gone, then ends the servers and
// removes the directory. It removes what was left over all the same, but says
// in the error what that was.
func (s *Stack) Stop(ctx context.Context) error {
	var errs []error
	// First, so that it makes no new sessions.
	errs = append(errs, s.frontend.stop(ctx, syscall.SIGTERM))
	if s.client.alive() {
		errs = append(errs, s.purge(ctx))
	}
	errs = append(errs,
		s.client.stop(ctx, syscall.SIGINT),
		s.server.stop(ctx, syscall.SIGINT),
		s.consul.stop(ctx, syscall.SIGINT))

	found := s.debris()
	items, err := found.find()
	errs = append(errs, err)
	if left := texts(items); len(left) > 0 {
		errs = append(errs, fmt.Errorf("left over:\n\t%s", strings.Join(left, "\n\t")))
	}
	if err := found.remove(ctx); err != nil {
		errs = append(errs, err)
	} else {
		errs = append(errs, s.block.forget())
	}
	s.block.release()
	return errors.Join(errs...)
}

// Wait returns when ctx is done, or with an error as soon as a part ends that
// nobody has stopped.
func (s *Stack) Wait(ctx context.Context) error {
	var dead *process
	select {
	case <-ctx.Done():
		return nil
	case <-s.consul.exited:
		dead = s.consul
	case <-s.server.exited:
		dead = s.server
	case <-s.client.exited:
		dead = s.client
	case <-s.frontend.exited:
		dead = s.frontend
	}
	return fmt.Errorf("%w; end of its log:\n%s", dead.err, dead.tail())
}
