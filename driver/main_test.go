// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/plugins"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/guest/wire"
)

// init keeps the first thread for main: a warden's mount namespace is that
// thread's, and a plugin needs it as its own main says.
func init() { runtime.LockOSThread() }

// TestMain runs the tests, or is a process that one of them started.
func TestMain(m *testing.M) {
	text := os.Getenv(wardenEnv)
	if name := os.Getenv(runtimeEnv); name != "" {
		servePlugin(name)
		os.Exit(0)
	}
	if text == "" {
		os.Exit(runTests(m))
	}
	unix.CloseOnExec(3)
	answer := os.NewFile(3, "answer")
	if err := warden([]byte(text), answer); err != nil {
		fmt.Fprint(answer, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// servePlugin is the plugin's main with the Runtime of that name.
func servePlugin(name string) {
	i := slices.IndexFunc(runtimes, func(r runtimeUnderTest) bool { return r.name == name })
	var d *driver.Driver
	plugins.ServeCtx(func(ctx context.Context, logger hclog.Logger) any {
		d = driver.New(ctx, logger, runtimes[i].open)
		return d
	})
	if err := d.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// runTests runs the tests with a directory of their own for temporary files:
// Nomad's test harness leaves sockets behind.
func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "buntime-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // some tests act as nobody
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	os.Setenv("TMPDIR", dir)
	return m.Run()
}

// warden runs a task's process to its end.
func warden(text []byte, answer io.WriteCloser) error {
	var order wardenOrder
	if err := json.Unmarshal(text, &order); err != nil {
		return err
	}
	exit, err := os.Create(order.Exit)
	if err != nil {
		return err
	}
	stdout, err := os.OpenFile(order.Stdout, os.O_RDWR, 0) // named pipes: do not wait for a reader
	if err != nil {
		return err
	}
	stderr, err := os.OpenFile(order.Stderr, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(order.Cgroup, "cgroup.procs"), []byte("0"), 0o644); err != nil {
		return err
	}
	if err := privateTmp(order.Local); err != nil {
		return err
	}
	cmd := exec.Command(order.Argv[0], order.Argv[1:]...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for key, value := range order.Env {
		cmd.Env = append(cmd.Env, key+"="+value)
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Fprint(answer, cmd.Process.Pid)
	answer.Close()
	_ = cmd.Wait()
	end := wire.Exit{Code: exitCode(cmd.ProcessState), At: time.Now().UnixMilli()}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		end.Signal = int(status.Signal())
	}
	return json.NewEncoder(exit).Encode(end)
}

// privateTmp gives this process a /tmp of its own with the task's directory.
func privateTmp(local string) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mounts: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if local == "" {
		return unix.Mount("tmpfs", "/tmp", "tmpfs", 0, "")
	}
	fd, err := unix.Open(local, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", local, err)
	}
	if err := unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount /tmp: %w", err)
	}
	if err := os.Mkdir(fakeLocal, 0o755); err != nil {
		return err
	}
	return unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), fakeLocal, "", unix.MS_BIND, "")
}
