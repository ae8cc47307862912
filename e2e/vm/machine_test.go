// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a virtual machine that runs the tests on a disk.
type machine struct {
	base  string // directory that build made
	tests string // image of the tests' disk
	dir   string // for what it writes
}

// kvmPatience is how long the machine may take to boot under KVM, which needs
// a second. Where KVM is there but does not work, as in some virtual machines,
// the processor stands still without a word.
const kvmPatience = 15 * time.Second

// boot runs the machine to its end and passes each line of the tests' output
// on. KVM is used where it works.
func (m *machine) boot(ctx context.Context, t *testing.T, line func(string)) error {
	if kvm, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		kvm.Close()
		up, err := m.run(ctx, t, "kvm", kvmPatience, line)
		if up {
			return err
		}
		t.Logf("KVM is there and does not work: %v", err)
	}
	_, err := m.run(ctx, t, "tcg,thread=multi", bootPatience, line)
	return err
}

// run runs the machine and tells whether it came up in time.
func (m *machine) run(ctx context.Context, t *testing.T, accelerator string, patience time.Duration, line func(string)) (up bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Should the test be killed, the machine goes with the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	console := filepath.Join(m.dir, "console")
	disk := func(i int, image string) []string {
		return []string{
			// What the machine writes is forgotten with it.
			"-drive", fmt.Sprintf("if=none,id=d%d,format=raw,snapshot=on,cache=unsafe,file=%s", i, image),
			"-device", fmt.Sprintf("nvme,serial=d%d,drive=d%d", i, i),
		}
	}
	args := []string{
		"-accel", accelerator, "-cpu", "max", "-smp", "2", "-m", "3072",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", filepath.Join(m.base, "vmlinuz"),
		"-append", "console=ttyS0 root=/dev/nvme0n1 rw init=/init panic=-1 mitigations=off loglevel=5",
		"-serial", "file:" + console, "-serial", "stdio",
	}
	args = append(args, disk(0, filepath.Join(m.base, "root.ext4"))...)
	args = append(args, disk(1, m.tests)...)
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+m.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return false, err
	}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		return false, fmt.Errorf("start virtual machine: %w", err)
	}
	late := time.AfterFunc(patience, func() { cancel(fmt.Errorf("the machine has not booted after %s", patience)) })
	defer late.Stop()
	var down *string
	for s := range lines(out) {
		switch rest, last := strings.CutPrefix(s, Down); {
		case last:
			down = &rest
		case s == Up:
			up = true
			late.Stop()
			t.Logf("booted under %s in %s", accelerator, time.Since(begin).Round(time.Millisecond))
		default:
			line(s)
		}
	}
	err = cmd.Wait()
	switch {
	case context.Cause(ctx) != nil:
		err = context.Cause(ctx)
	case err == nil && down == nil:
		err = errors.New("the machine went down before its time")
	case err == nil && *down != "":
		err = errors.New(*down)
	}
	if err != nil {
		text, _ := os.ReadFile(console)
		err = fmt.Errorf("run virtual machine: %w\n%s\nconsole:\n%s", err, stderr.String(), text)
	}
	return up, err
}

// lines yields the lines of r, of any length, without their ends.
func lines(r io.Reader) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		in := bufio.NewReader(r)
		for {
			s, err := in.ReadString('\n')
			if s != "" && !yield(strings.TrimRight(s, "\r\n")) || err != nil {
				return
			}
		}
	}
}
