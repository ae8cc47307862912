// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
)

// keptFD is the descriptor that init only keeps (workspace.Keep), if there is one.
const keptFD = 7

// loadInit copies the init binary into sealed memory. Every sandbox runs this
// one copy: what a sandbox reaches through /proc/1/exe is no file of the host
// and cannot be written (the class of CVE-2019-5736).
func loadInit(path string) (*os.File, error) {
	src, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open init: %w", err)
	}
	defer src.Close()
	flags := unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate("buntime-init", flags|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // before Linux 6.3
		fd, err = unix.MemfdCreate("buntime-init", flags)
	}
	if err != nil {
		return nil, fmt.Errorf("create memory file for init: %w", err)
	}
	mem := os.NewFile(uintptr(fd), "buntime-init")
	if _, err := io.Copy(mem, src); err != nil {
		mem.Close()
		return nil, fmt.Errorf("copy init %s: %w", path, err)
	}
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(mem.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		mem.Close()
		return nil, fmt.Errorf("seal init: %w", err)
	}
	return mem, nil
}

// forkInit runs the binary of loadInit. The child has it as the last of its files: in
// the moment before the exec only those are sure to be where they should. ForkExec puts
// descriptors of its own past the highest number in attr.Files, on whatever is there.
func forkInit(init *os.File, argv []string, attr *syscall.ProcAttr) (pid int, err error) {
	exe := fmt.Sprintf("/proc/self/fd/%d", len(attr.Files))
	attr.Files = append(attr.Files, init.Fd())
	pid, err = syscall.ForkExec(exe, argv, attr)
	runtime.KeepAlive(init)
	return pid, err
}

// process is a freshly cloned init that waits for its Boot.
type process struct {
	pid    int
	boot   *os.File // our end of its descriptor 3
	status *os.File // where it reports
}

// spawn has a launcher clone init into namespaces of its own, into netns and into
// group. uidBase is the first of the 65,536 host ids that the sandbox's ids are mapped
// to. What init has to say when it comes to a bad end goes to stderr. keep, unless it
// is negative, is a descriptor for init to keep.
func spawn(init, netns, listener, exit, stderr *os.File, keep int, group *cgroup.Group, uidBase int) (*process, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create boot socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "boot"), os.NewFile(uintptr(pair[1]), "boot")
	defer theirs.Close()
	statusR, statusW, err := os.Pipe()
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("create status pipe: %w", err)
	}
	defer statusW.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		ours.Close()
		statusR.Close()
		return nil, err
	}
	defer null.Close()

	answerR, answerW, err := os.Pipe()
	if err != nil {
		ours.Close()
		statusR.Close()
		return nil, fmt.Errorf("create pipe for the launcher's answer: %w", err)
	}
	defer answerR.Close()
	defer answerW.Close()

	kept := ^uintptr(0) // closed
	if keep >= 0 {
		kept = uintptr(keep)
	}
	attr := &syscall.ProcAttr{
		Dir: "/",
		Env: []string{"GOMAXPROCS=1", "GOGC=off"},
		Files: []uintptr{
			null.Fd(), null.Fd(), stderr.Fd(),
			theirs.Fd(), listener.Fd(), exit.Fd(), statusW.Fd(), kept,
			wire.LaunchFD: answerW.Fd(),
		},
		Sys: &syscall.SysProcAttr{},
	}
	launcher, err := inNetNS(netns, func() (int, error) {
		end, err := group.BeginInit(attr.Sys)
		if err != nil {
			return 0, err
		}
		// Should this fail, the thread's own end does the same a moment later.
		defer func() { _ = end() }()
		return forkInit(init, []string{wire.LaunchName, strconv.Itoa(uidBase), strconv.Itoa(IDsPerSandbox)}, attr)
	})
	pid := 0
	if err == nil {
		answerW.Close()
		pid, err = launched(launcher, answerR)
	}
	if err != nil {
		ours.Close()
		statusR.Close()
		return nil, fmt.Errorf("clone init: %w", err)
	}
	return &process{pid: pid, boot: ours, status: statusR}, nil
}

// launched waits for a launcher and returns the pid of the init that it has cloned,
// which is our child.
func launched(launcher int, answer *os.File) (pid int, err error) {
	var text []byte
	if err = answer.SetReadDeadline(time.Now().Add(bootTimeout)); err == nil {
		text, err = io.ReadAll(answer)
	}
	if err != nil {
		_ = unix.Kill(launcher, unix.SIGKILL)
	}
	if _, werr := wait(launcher); err == nil {
		err = werr
	}
	if err != nil {
		return 0, fmt.Errorf("wait for the launcher: %w", err)
	}
	if pid, err = strconv.Atoi(string(text)); err != nil {
		return 0, errors.New(cmp.Or(string(text), "the launcher died"))
	}
	return pid, nil
}

// wait reaps a child.
func wait(pid int) (status unix.WaitStatus, err error) {
	for {
		_, err := unix.Wait4(pid, &status, 0, nil)
		if !errors.Is(err, unix.EINTR) {
			return status, os.NewSyscallError("wait4", err)
		}
	}
}

// inNetNS runs f on a thread that is in netns. The thread is given up
// afterwards: leaving it locked makes the Go runtime end it, which is cheaper to
// be sure of than a way back.
func inNetNS(netns *os.File, f func() (int, error)) (int, error) {
	type result struct {
		pid int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- result{err: fmt.Errorf("enter network namespace: %w", err)}
			return
		}
		pid, err := f()
		done <- result{pid, err}
	}()
	r := <-done
	return r.pid, r.err
}

// start hands init its Boot and waits until it serves.
func (p *process) start(boot wire.Boot, mounts []*os.File, timeout time.Duration) error {
	defer p.boot.Close()
	defer p.status.Close()
	body, err := json.Marshal(boot)
	if err != nil {
		return fmt.Errorf("encode boot: %w", err)
	}
	frame := make([]byte, 5, 5+len(body))
	frame[0] = byte(wire.KindBoot)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(body)))
	frame = append(frame, body...)
	fds := make([]int, len(mounts))
	for i, m := range mounts {
		fds[i] = int(m.Fd())
	}
	n, err := unix.SendmsgN(int(p.boot.Fd()), frame, unix.UnixRights(fds...), nil, 0)
	runtime.KeepAlive(mounts)
	if err == nil && n < len(frame) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return fmt.Errorf("send boot to init: %w", err)
	}
	if err := p.status.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	answer, err := io.ReadAll(p.status)
	if err != nil {
		return fmt.Errorf("wait %s for init to serve: %w", timeout, err)
	}
	switch s := strings.TrimSpace(string(answer)); s {
	case "ok":
		return nil
	case "":
		return errors.New("init died before it served")
	default:
		return fmt.Errorf("init: %s", s)
	}
}
