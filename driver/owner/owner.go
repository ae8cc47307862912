// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package owner sees to it that one process of the plugin at most has a state directory.
//
// A Nomad agent that ends while it starts its plugin leaves the process behind, and the
// next agent starts another. The one that was left knows of no task, and would remove
// every sandbox as nobody's a minute later.
package owner

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
)

const (
	// gentle is how long an earlier process may take to end by itself: Nomad has told
	// it to, as a rule. It is asked then, and killed after as long again.
	gentle = 2 * time.Second
	// patience is how long one is waited for that has been killed.
	patience = 10 * time.Second
	pause    = 10 * time.Millisecond
)

// lockFile is in the state directory. It is locked by who has that, and says who that is.
const lockFile = "plugin.lock"

// process is one of this machine's, now and not another with the same number later.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since boot
}

// holder is what lockFile says.
type holder struct {
	process
	// Agent is who started it.
	Agent process `json:"agent"`
}

// Own makes this process the one that has the directory, until the file that it returns
// is closed. One that had it is ended if the agent that started it is gone, or is the
// one that has started this process in its place; it is an error if another agent's has it.
func Own(ctx context.Context, dir string, log hclog.Logger) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock of state directory: %w", err)
	}
	if err := take(ctx, f, log); err != nil {
		return nil, errors.Join(fmt.Errorf("lock state directory %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// agent is who started this process, as long as that can be told: who has lost its agent
// has the machine's first process for a parent.
var agent = running(os.Getppid())

func take(ctx context.Context, f *os.File, log hclog.Logger) error {
	own := holder{running(os.Getpid()), agent}
	signals := []struct {
		after  time.Duration
		signal unix.Signal
	}{{gentle, unix.SIGTERM}, {2 * gentle, unix.SIGKILL}}
	for begin := time.Now(); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return note(f, own)
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		other, known := read(f)
		known = known && other.alive()
		if known && other.PID == own.PID {
			return errors.New("this process has it already")
		}
		if known && other.Agent != own.Agent && other.Agent.PID != 1 && other.Agent.alive() {
			return fmt.Errorf("process %d has it, which process %d has started: each Nomad agent needs a state_dir of its own", other.PID, other.Agent.PID)
		}
		waited := time.Since(begin)
		if known && len(signals) > 0 && waited > signals[0].after {
			log.Warn("an earlier process of the plugin is still there, and is ended", "process", other.PID, "signal", signals[0].signal)
			if err := other.signal(signals[0].signal); err != nil {
				return fmt.Errorf("end process %d, which has it: %w", other.PID, err)
			}
			signals = signals[1:]
		}
		if waited > 2*gentle+patience {
			return fmt.Errorf("process %d still has it after %s", other.PID, waited.Round(time.Second))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// note writes down who has the lock.
func note(f *os.File, h holder) error {
	b, err := json.Marshal(h)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	return err
}

// read is who has the lock, unless that has just changed.
func read(f *os.File) (h holder, ok bool) {
	b, err := io.ReadAll(io.NewSectionReader(f, 0, 4<<10))
	return h, err == nil && json.Unmarshal(b, &h) == nil
}

// running is the process that has a number now, and has not ended. There is none that
// began at 0.
func running(pid int) process {
	p := process{PID: pid}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p
	}
	// The name in brackets may have anything in it. Behind it are the state, the third
	// field, and as the 22nd the start.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) > 19 && fields[0] != "Z" && fields[0] != "X" {
		p.Start, _ = strconv.ParseUint(fields[19], 10, 64)
	}
	return p
}

func (p process) alive() bool { return p.PID > 0 && p.Start > 0 && running(p.PID) == p }

// signal does nothing to another process with the same number.
func (p process) signal(sig unix.Signal) error {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if err == nil {
		defer unix.Close(fd)
		if !p.alive() {
			return nil
		}
		err = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// AwaitAgent returns when the agent that started this process has ended, or with an error
// if that cannot be seen. It may have ended before this process could look who it was: what
// tells then is that nobody is at the other end of its standard error any more.
func AwaitAgent() error {
	parent, err := unix.PidfdOpen(agent.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at the process that started this one: %w", err)
	}
	defer unix.Close(parent)
	watched := []unix.PollFd{{Fd: int32(parent), Events: unix.POLLIN}, {Fd: int32(unix.Stderr)}}
	for {
		if _, err := unix.Poll(watched, -1); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return err
		}
		if watched[0].Revents != 0 || watched[1].Revents&unix.POLLERR != 0 {
			return nil
		}
		watched[1].Fd = -1 // it is closed, or no pipe
	}
}
