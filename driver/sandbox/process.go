// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// initProcess is a sandbox's init, watched through a pidfd: it may be our own
// child or that of an earlier process of the plugin.
type initProcess struct {
	pid   int
	start uint64
	done  chan struct{}
	exit  wire.Exit // valid once done is closed

	mu    sync.Mutex // of what follows
	pidfd *os.File   // nil once it has ended, or is let go of
}

// release lets go of the pidfd, which ends a wait.
func (p *initProcess) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd != nil {
		p.pidfd.Close()
		p.pidfd = nil
	}
}

// kept returns a descriptor of what init keeps, for the caller to close.
func (p *initProcess) kept() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return 0, errors.New("take what init has kept: it has ended")
	}
	fd, err := unix.PidfdGetfd(int(p.pidfd.Fd()), keptFD, 0)
	if err != nil {
		return 0, fmt.Errorf("take what init has kept: %w", err)
	}
	return fd, nil
}

// watch begins to watch pid, a fresh child that waits to be booted.
func watch(pid int, exitFile string) (*initProcess, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open pidfd of init: %w", err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	p := &initProcess{pid: pid, pidfd: file, done: make(chan struct{})}
	if p.start, err = startTime(pid); err != nil {
		p.release()
		return nil, err
	}
	go p.await(file, exitFile)
	return p, nil
}

// find begins to watch the init that was process pid, started at start. If that
// is gone, the returned one has ended.
func find(pid int, start uint64, exitFile string) (*initProcess, error) {
	p, err := watch(pid, exitFile)
	if err == nil && p.start == start {
		return p, nil
	}
	if err == nil {
		// Another process has the number by now. It is none of ours: let go of
		// its pidfd, which ends the wait.
		p.release()
	} else if !errors.Is(err, unix.ESRCH) && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EINVAL) {
		return nil, err
	}
	dead := &initProcess{pid: pid, start: start, done: make(chan struct{}), exit: readExit(exitFile)}
	close(dead.done)
	return dead, nil
}

// await returns when init has ended, of which pidfd tells.
func (p *initProcess) await(pidfd *os.File, exitFile string) {
	defer p.release()
	raw, err := pidfd.SyscallConn()
	if err == nil {
		// A pidfd is readable once its process is gone.
		err = raw.Read(func(fd uintptr) bool {
			polled := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, perr := unix.Poll(polled, 0)
			return n > 0 && perr == nil
		})
	}
	if err != nil {
		return // let go of
	}
	// Ours to reap, unless an earlier process of the plugin was its parent.
	_, _ = wait(p.pid)
	p.exit = readExit(exitFile)
	close(p.done)
}

// kill ends init, which ends its whole pid namespace.
func (p *initProcess) kill() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return nil // had ended when it was found
	}
	err := unix.PidfdSendSignal(int(p.pidfd.Fd()), unix.SIGKILL, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// readExit reads what init wrote about the end of its main process. An init
// that wrote nothing was killed.
func readExit(name string) wire.Exit {
	killed := wire.Exit{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL)}
	b, err := os.ReadFile(name)
	if err != nil || len(b) == 0 {
		killed.Error = lastWords(filepath.Join(filepath.Dir(name), stderrFile))
		return killed
	}
	var e wire.Exit
	if err := json.Unmarshal(b, &e); err != nil {
		killed.Error = "parse exit file: " + err.Error()
		return killed
	}
	return e
}

// stderrFile, in a slot's directory, is where init writes why it gave up.
const stderrFile = "stderr"

// lastWords returns the begin of what init wrote there: a panic names its cause
// first. Mostly nothing: it was killed.
func lastWords(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2048))
	if err != nil || len(b) == 0 {
		return ""
	}
	return "init: " + strings.TrimSpace(string(b))
}

// startTime is when a process started, in clock ticks since boot: with the pid
// it names a process for good.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("read start time of process %d: %w", pid, err)
	}
	// The name in parentheses may hold anything; fields count from behind it,
	// the state being the third (proc(5)).
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 20 {
		return 0, fmt.Errorf("parse /proc/%d/stat", pid)
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
