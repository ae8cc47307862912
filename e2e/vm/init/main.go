// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Command init is PID 1 of the virtual machine that package vm starts. It makes
// of the machine what an init of a distribution would, runs the tests of the
// plan, and turns the machine off.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/e2e/vm"
)

// testsArg is how PID 1 calls itself for a process of its own for the tests.
const testsArg = "tests"

func main() {
	if len(os.Args) > 1 && os.Args[1] == testsArg {
		if err := runTests(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	err := boot()
	if err == nil {
		err = superviseTests()
	}
	if out, oerr := openPort(); oerr == nil {
		fmt.Fprintf(out, "%s%s\n", vm.Down, message(err))
		_ = drain(out)
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	select {} // as PID 1 it must not return
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// boot mounts what belongs to a running system. /dev and the tests' disk are
// there: this program lies on it.
func boot() error {
	for _, m := range []struct{ fs, target, options string }{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""},
		{"devpts", "/dev/pts", "mode=620,gid=5,ptmxmode=666"},
		{"tmpfs", "/dev/shm", "mode=1777"},
		{"tmpfs", "/run", "mode=755"},
		{"cgroup2", "/sys/fs/cgroup", "nsdelegate,memory_recursiveprot"},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.fs, m.target, m.fs, 0, m.options); err != nil {
			return fmt.Errorf("mount %s at %s: %w", m.fs, m.target, err)
		}
	}
	if err := os.Symlink("/proc/self/fd", "/dev/fd"); err != nil {
		return err
	}
	// Distributions share mounts with new namespaces; so do we, that a mount
	// which ought to be private is missed if it is not.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	if err := unix.Sethostname([]byte("vm")); err != nil {
		return err
	}
	// The kernel asks for modules by itself, but for loop. The big ones take
	// seconds without KVM, more than the driver gives its firewall.
	if out, err := exec.Command("/sbin/modprobe", "-a", "loop", "overlay", "veth", "nf_conntrack_netlink",
		"nft_chain_nat", "nft_connlimit", "nft_ct", "nft_fib_inet", "nft_limit", "nft_masq", "nft_reject_inet").CombinedOutput(); err != nil {
		return fmt.Errorf("load modules: %w: %s", err, out)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	return netlink.LinkSetUp(lo)
}

// superviseTests starts the process that runs the tests, in a cgroup as of
// a system's service, and reaps whatever ends until it does.
func superviseTests() error {
	const service = "/sys/fs/cgroup/system.slice/nomad.service"
	if err := os.MkdirAll(service, 0o755); err != nil {
		return err
	}
	dir, err := os.Open(service)
	if err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", testsArg)
	cmd.SysProcAttr = &unix.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = []string{
		"PATH=" + vm.Tree + "/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"BUNTIME_CACHE=" + vm.Tree + "/cache", vm.Inside + "=1",
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start tests: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("wait for the tests: %w", err)
		}
		if pid == cmd.Process.Pid {
			if status != 0 {
				return fmt.Errorf("run tests: status %#x", status)
			}
			return nil
		}
	}
}

func runTests() error {
	out, err := openPort()
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := fmt.Fprintf(out, "%s\n", vm.Up); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(vm.Tree, vm.PlanFile))
	if err != nil {
		return err
	}
	var plan vm.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("parse plan: %w", err)
	}
	for _, run := range plan.Runs {
		fmt.Fprintf(out, "%s%s\n", vm.Begin, run.Package)
		dir := filepath.Join(vm.Tree, run.Package)
		cmd := exec.Command(filepath.Join(dir, vm.Binary), run.Args...)
		cmd.Dir, cmd.Stdout, cmd.Stderr = dir, out, out
		code := 0
		if err := cmd.Run(); err != nil {
			code = 1
			fmt.Fprintln(out, err)
		}
		fmt.Fprintf(out, "\n%s%d\n", vm.End, code)
	}
	return drain(out)
}

// openPort opens the way out, as a line that changes no byte.
func openPort() (*os.File, error) {
	// Not through the poller: what runs writes to it as well and blocks.
	fd, err := unix.Open(vm.Port, unix.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", vm.Port, err)
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err == nil {
		t.Oflag &^= unix.OPOST
		err = unix.IoctlSetTermios(fd, unix.TCSETS, t)
	}
	if err != nil {
		return nil, fmt.Errorf("set %s raw: %w", vm.Port, err)
	}
	return os.NewFile(uintptr(fd), vm.Port), nil
}

// drain waits until all that was written has left.
func drain(f *os.File) error {
	return unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1)
}
