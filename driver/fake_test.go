// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/guest/wire"
)

// fakeRuntime runs tasks as processes of the host in a mount namespace with
// a /tmp of its own and in the task's cgroup: just what the driver's tests
// need of a sandbox. A task's process has a parent, the warden, that outlives
// fakeRuntime and writes down how it ended, as a sandbox's init does.
type fakeRuntime struct {
	dir string
}

func openFake(_ context.Context, config *driver.Config, _ hclog.Logger) (driver.Runtime, error) {
	if err := os.MkdirAll(config.StateDir, 0o755); err != nil {
		return nil, err
	}
	return &fakeRuntime{dir: config.StateDir}, nil
}

func (r *fakeRuntime) Close() error { return nil }

// fakeState is the state of a fakeInstance.
type fakeState struct {
	Warden, Main int
	Born         string // start time of the warden, which tells a reused pid
	Exit         string // file
	Cgroup       string // directory with cgroup.procs
}

type fakeInstance struct {
	fakeState
	done chan struct{} // closed when the warden has ended
}

const wardenEnv = "BUNTIME_TEST_WARDEN"

// wardenOrder is what the warden is told.
type wardenOrder struct {
	Argv           []string
	Env            map[string]string
	Local, Cgroup  string
	Stdout, Stderr string
	Exit           string
}

// fakeLocal is where a fake task finds its /local.
const fakeLocal = "/tmp/local"

func (r *fakeRuntime) Start(ctx context.Context, task *driver.Task) (driver.Instance, error) {
	if task.Claim != nil {
		if err := task.Claim(ctx); err != nil {
			return nil, err
		}
	}
	order := wardenOrder{
		Env: task.Env, Local: task.LocalDir, Stdout: task.Stdout, Stderr: task.Stderr,
		Cgroup: filepath.Join(cgroupRoot(), task.Cgroup),
		Exit:   filepath.Join(r.dir, strings.ReplaceAll(task.ID, "/", "-")),
	}
	if task.Session != nil {
		order.Argv = []string{"/bin/sleep", "1000"}
	}
	for _, arg := range task.Argv {
		if rest, ok := strings.CutPrefix(arg, "/local/"); ok {
			arg = filepath.Join(fakeLocal, rest)
		}
		if arg != "run" || len(order.Argv) != 1 || filepath.Base(order.Argv[0]) == "bun" {
			order.Argv = append(order.Argv, arg) // a shell has no "run"
		}
	}
	text, err := json.Marshal(order)
	if err != nil {
		return nil, err
	}
	pidR, pidW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer pidR.Close()
	cmd := exec.Command("/proc/self/exe")
	// The race detector's runtime would sleep for a second when it exits.
	cmd.Env = []string{wardenEnv + "=" + string(text), "GORACE=atexit_sleep_ms=0"}
	cmd.ExtraFiles = []*os.File{pidW}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	pidW.Close()
	if err != nil {
		return nil, err
	}
	go func() { _ = cmd.Wait() }() // reaps it; how it ended is in the file
	answer, err := io.ReadAll(pidR)
	if err != nil {
		return nil, err
	}
	main, err := strconv.Atoi(string(answer))
	if err != nil {
		return nil, fmt.Errorf("start warden: %s", answer)
	}
	state := fakeState{Warden: cmd.Process.Pid, Main: main, Born: startTime(cmd.Process.Pid), Exit: order.Exit, Cgroup: order.Cgroup}
	return watch(state), ctx.Err()
}

func (r *fakeRuntime) Recover(_ context.Context, _ *driver.Task, state []byte) (driver.Instance, error) {
	var decoded fakeState
	if err := json.Unmarshal(state, &decoded); err != nil {
		return nil, fmt.Errorf("decode state: %w", err)
	}
	return watch(decoded), nil
}

// watch follows a warden, whoever started it.
func watch(state fakeState) *fakeInstance {
	i := &fakeInstance{fakeState: state, done: make(chan struct{})}
	fd, err := unix.PidfdOpen(state.Warden, 0)
	if err != nil || startTime(state.Warden) != state.Born {
		close(i.done)
		return i
	}
	go func() {
		defer unix.Close(fd)
		defer close(i.done)
		for {
			_, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	return i
}

func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	return strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))[19]
}

func (i *fakeInstance) State() []byte {
	text, err := json.Marshal(i.fakeState)
	if err != nil {
		panic(err)
	}
	return text
}

func (i *fakeInstance) Wait(ctx context.Context) (driver.Exit, error) {
	select {
	case <-i.done:
	case <-ctx.Done():
		return driver.Exit{}, ctx.Err()
	}
	text, err := os.ReadFile(i.Exit)
	if err != nil {
		return driver.Exit{}, fmt.Errorf("sandbox ended without a word: %w", err)
	}
	var exit wire.Exit
	if err := json.Unmarshal(text, &exit); err != nil {
		return driver.Exit{}, fmt.Errorf("sandbox ended without a word: %w", err)
	}
	return driver.Exit{Code: exit.Code, Signal: exit.Signal, At: time.UnixMilli(exit.At)}, nil
}

func (i *fakeInstance) Signal(sig unix.Signal) error { return unix.Kill(i.Main, sig) }

func (i *fakeInstance) Stop(ctx context.Context, sig unix.Signal, timeout time.Duration) error {
	_ = i.Signal(sig)
	grace := time.NewTimer(timeout)
	defer grace.Stop()
	select {
	case <-i.done:
	case <-grace.C:
		_ = i.Signal(unix.SIGKILL)
	}
	select {
	case <-i.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (i *fakeInstance) Destroy(ctx context.Context) error {
	if err := i.Stop(ctx, unix.SIGKILL, 0); err != nil {
		return err
	}
	procs, err := os.ReadFile(filepath.Join(i.Cgroup, "cgroup.procs"))
	if err != nil {
		return err
	}
	for line := range strings.FieldsSeq(string(procs)) {
		if pid, err := strconv.Atoi(line); err == nil {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return nil
}

func (i *fakeInstance) Exec(ctx context.Context, opts driver.ExecOptions) (int, error) {
	// Into the cgroup, then into the mount namespace.
	const join = `echo $$ > "$0/cgroup.procs" && ns=$1 && shift && exec nsenter --mount="$ns" -- "$@"`
	args := append([]string{"-c", join, i.Cgroup, fmt.Sprintf("/proc/%d/ns/mnt", i.Main)}, opts.Command...)
	cmd := exec.CommandContext(ctx, "/bin/sh", args...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	var err error
	if opts.TTY {
		err = execTTY(cmd, opts)
	} else {
		err = execPipes(cmd, opts)
	}
	var exited *exec.ExitError
	if ctx.Err() == nil && errors.As(err, &exited) {
		return exitCode(exited.ProcessState), nil
	}
	return 0, err
}

func execPipes(cmd *exec.Cmd, opts driver.ExecOptions) error {
	cmd.Stdout, cmd.Stderr = opts.Stdout, opts.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(stdin, opts.Stdin)
		stdin.Close()
	}()
	return cmd.Wait()
}

func execTTY(cmd *exec.Cmd, opts driver.ExecOptions) error {
	terminal, err := pty.Start(cmd)
	if err != nil {
		return err
	}
	defer terminal.Close()
	ended := make(chan struct{})
	var resizing sync.WaitGroup
	defer resizing.Wait()
	defer close(ended)
	resizing.Go(func() {
		for {
			select {
			case size := <-opts.Resize:
				_ = pty.Setsize(terminal, &pty.Winsize{Rows: size.Rows, Cols: size.Cols})
			case <-ended:
				return
			}
		}
	})
	go func() { _, _ = io.Copy(terminal, opts.Stdin) }()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(opts.Stdout, terminal)
	}()
	err = cmd.Wait()
	select { // what is left, unless children of the command hold the terminal
	case <-copied:
	case <-time.After(200 * time.Millisecond):
	}
	return err
}

func (i *fakeInstance) Stats(context.Context) (driver.Usage, error) {
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", i.Main))
	if err != nil {
		return driver.Usage{}, err
	}
	var size, resident uint64
	if _, err := fmt.Sscan(string(statm), &size, &resident); err != nil {
		return driver.Usage{}, err
	}
	bytes := resident * uint64(os.Getpagesize())
	return driver.Usage{RSS: bytes, Memory: bytes, MemoryMax: bytes, CPUUser: time.Millisecond}, nil
}

func exitCode(state *os.ProcessState) int {
	status := state.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal())
	}
	return status.ExitStatus()
}

// brokenRuntime opens, and then does nothing right.
type brokenRuntime struct{ err error }

func openBroken(err error) driver.OpenRuntime {
	return func(context.Context, *driver.Config, hclog.Logger) (driver.Runtime, error) {
		return &brokenRuntime{err}, nil
	}
}

func (r *brokenRuntime) Start(context.Context, *driver.Task) (driver.Instance, error) {
	return nil, r.err
}

func (r *brokenRuntime) Recover(context.Context, *driver.Task, []byte) (driver.Instance, error) {
	return nil, r.err
}

func (r *brokenRuntime) Close() error { return nil }

// recorded keeps the tasks that a Runtime was asked to start or recover.
type recorded struct {
	driver.Runtime
	mu    sync.Mutex
	tasks []*driver.Task
}

func (r *recorded) record(task *driver.Task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	told := *task
	told.Claim, told.Rests = nil, nil // a function compares with nothing
	r.tasks = append(r.tasks, &told)
}

func (r *recorded) Start(ctx context.Context, task *driver.Task) (driver.Instance, error) {
	r.record(task)
	return r.Runtime.Start(ctx, task)
}

func (r *recorded) Recover(ctx context.Context, task *driver.Task, state []byte) (driver.Instance, error) {
	r.record(task)
	return r.Runtime.Recover(ctx, task, state)
}

// record makes a Runtime one that records, and returns all it will ever open.
func record(r *runtimeUnderTest) *recorded {
	all := new(recorded)
	open := r.open
	r.open = func(ctx context.Context, config *driver.Config, logger hclog.Logger) (driver.Runtime, error) {
		inner, err := open(ctx, config, logger)
		all.Runtime = inner
		return all, err
	}
	return all
}
