// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
)

// inGVisor is IsolationGVisor. One runsc container is one sandbox, with init as
// its first process. On the host it is three kinds of processes, all in one
// cgroup below the session's limits, all with ids of the sandbox's own and
// behind seccomp filters of gVisor's: the sentry, which is the kernel; its stubs,
// in which programs run; and the gofer, which opens files for it. The sentry's
// end is that of all.
type inGVisor struct{}

const (
	// sentryUnit is the cgroup of runsc's processes.
	sentryUnit = "gvisor"
	// sentryMemory is what the sentry, the stubs and the gofer need beside what
	// they keep for the session: 60 MB are usual, and more for a moment when the
	// session grows faster than it is looked at.
	sentryMemory = 256 << 20
	// threadsPerTask: a thread in the sandbox is one of a stub's on the host and
	// may block one of the sentry's.
	threadsPerTask = 3
	sentryThreads  = 512

	// runscTimeout bounds a start, which takes 150 ms on a quiet machine.
	runscTimeout = 60 * time.Second
)

// The files of a slot that a gVisor sandbox has.
const (
	bundleDir = "bundle" // the OCI bundle
	runscDir  = "runsc"  // runsc's own state
	socketDir = "host"   // init's socket
	pidFile   = "pid"
	runscLog  = "runsc.log"
)

// guestSocketDir is where the sandbox has socketDir: the home of uid 0, which
// nobody in there is but init. The gofer wants a directory of the root's own.
const guestSocketDir = "/root"

// startLimits are the limits of a sandbox's cgroups until it has started.
func startLimits(spec Spec) cgroup.Limits {
	l := limitsFor(spec)
	if spec.Isolation == IsolationGVisor {
		l.CPUs = 0
	}
	return l
}

// limitsFor gives the processes that stand between a session and its limits
// room of their own.
func limitsFor(spec Spec) cgroup.Limits {
	l := spec.Limits
	if spec.Isolation != IsolationGVisor {
		return l
	}
	if l.Memory > 0 {
		l.Memory += sentryMemory
	}
	if l.Pids > 0 {
		l.Pids = threadsPerTask*l.Pids + sentryThreads
	}
	return l
}

func (inGVisor) boot(s *Sandbox, spec Spec) error {
	if spec.Netns != "" {
		return errors.New(`isolation "gvisor" has a network stack of its own, so that it cannot share one: use network mode "host"`)
	}
	if s.node.config.Runsc == "" {
		return errors.New(`isolation "gvisor" needs runsc, which this node does not have`)
	}
	unit, err := s.group.NewExecution(sentryUnit)
	if err != nil {
		return fmt.Errorf("create cgroup of gVisor: %w", err)
	}
	// One of the session's processes, not all with the sentry.
	if err := unit.EndTogether(false); err != nil {
		return err
	}
	stage, err := s.stageGVisor(spec)
	defer stage.close()
	if err != nil {
		return err
	}
	exit, stderr, err := s.lastFiles()
	if err != nil {
		return err
	}
	defer exit.Close()
	defer stderr.Close()
	p, err := s.runsc(stage, unit, exit, stderr)
	if err != nil {
		return err
	}
	if err := s.own(p.pid); err != nil {
		return err
	}
	if err := p.start(gvisorBoot(s, spec), nil, bootTimeout); err != nil {
		return err
	}
	// The start itself, 0.3 s of CPU time and nothing of the session's, has no
	// quota.
	return s.group.SetLimits(limitsFor(spec))
}

// gvisorBoot is what is left for init to do.
func gvisorBoot(s *Sandbox, spec Spec) wire.Boot {
	boot := wire.Boot{
		Hostname: spec.Hostname, UID: userID, GID: userID,
		Bun: s.node.config.Bun, MaxFiles: uint64(spec.Files), Env: maps.Clone(environment),
		Mounts: append(s.etc(spec), toldInGVisor(spec)...),
		Listen: guestSocketDir + "/" + initSocket, Units: true, Pids: spec.Limits.Pids,
	}
	s.confine(&boot, spec)
	maps.Copy(boot.Env, spec.Env)
	return boot
}

// toldInGVisor is what of told gVisor's kernel does not tell by itself: its
// memory is the session's anyway.
func toldInGVisor(spec Spec) []wire.Mount {
	return slices.DeleteFunc(told(spec), func(m wire.Mount) bool {
		return m.Type != "file" || strings.HasPrefix(m.Target, "/proc/")
	})
}

// runsc starts the container and returns once runsc itself is gone again.
func (s *Sandbox) runsc(stage *stage, unit *cgroup.Execution, exit, stderr *os.File) (_ *process, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create boot socket: %w", err)
	}
	p := &process{boot: os.NewFile(uintptr(pair[0]), "boot")}
	theirs := os.NewFile(uintptr(pair[1]), "boot")
	defer theirs.Close()
	defer func() {
		if err != nil {
			p.boot.Close()
			if p.status != nil {
				p.status.Close()
			}
		}
	}()
	var statusW *os.File
	if p.status, statusW, err = os.Pipe(); err != nil {
		return nil, fmt.Errorf("create status pipe: %w", err)
	}
	defer statusW.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	// runsc takes no descriptor that could be written to.
	init, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", s.node.init.Fd()))
	if err != nil {
		return nil, fmt.Errorf("open init: %w", err)
	}
	defer init.Close()

	path := func(name string) string { return filepath.Join(s.dir, name) }
	args := []string{
		"runsc", "--root", path(runscDir), "--log", path(runscLog), "--platform", "systrap",
		"--network", "sandbox", "--gofer-network-namespace", "new",
		"--overlay2", "none", "--host-uds", "create", "--host-settings", "ignore",
		"--ignore-cgroups", "--in-sandbox-cgroup", "v2",
		"run", "--detach", "--bundle", path(bundleDir), "--pid-file", path(pidFile),
	}
	// Init's descriptors beside the standard ones (package wire); it listens by
	// itself and finds nothing at that place.
	files := []uintptr{null.Fd(), null.Fd(), stderr.Fd(), theirs.Fd(), null.Fd(), exit.Fd(), statusW.Fd(), init.Fd()}
	for fd := 3; fd <= 6; fd++ {
		args = append(args, "--pass-fd", fmt.Sprintf("%d:%d", fd, fd))
	}
	args = append(args, "--exec-fd", "7", "s"+strconv.Itoa(s.state.Slot))
	pid, err := stage.fork(s.node.config.Runsc, args, files, s.network.NS(), s.group, unit)
	if err != nil {
		return nil, fmt.Errorf("run runsc: %w", err)
	}
	// Out of memory, the kernel is to end a stub, which is one process of the
	// session's, rather than the sentry, which is all of them. To raise what they
	// inherit and lower the sentry's again takes no privilege. Should it come too
	// late, the kernel has no preference.
	_ = setScore(pid, stubScore)
	if err := waitRunsc(pid); err != nil {
		return nil, fmt.Errorf("start gVisor: %w%s", err, complaints(stderr.Name(), path(runscLog)))
	}
	b, err := os.ReadFile(path(pidFile))
	if err == nil {
		p.pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if err != nil {
		return nil, fmt.Errorf("find gVisor's process: %w", err)
	}
	if err := setScore(p.pid, 0); err != nil {
		return nil, err
	}
	return p, nil
}

// stubScore is the oom_score_adj of stubs and gofer; the sentry has 0.
const stubScore = 500

func setScore(pid, score int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0)
}

// waitRunsc waits until runsc has started the container.
func waitRunsc(pid int) error {
	timer := time.AfterFunc(runscTimeout, func() { _ = unix.Kill(pid, unix.SIGKILL) })
	defer timer.Stop()
	status, err := wait(pid)
	switch {
	case err != nil:
		return fmt.Errorf("wait for runsc: %w", err)
	case status.Signaled():
		return fmt.Errorf("runsc died of signal %d", status.Signal())
	case status.ExitStatus() != 0:
		return fmt.Errorf("runsc exited with %d", status.ExitStatus())
	}
	return nil
}

// complaints are the last lines of the files that say why runsc gave up.
func complaints(names ...string) string {
	const enough = 1024
	var out []string
	for _, name := range names {
		b, _ := os.ReadFile(name)
		if text := strings.TrimSpace(string(b[max(0, len(b)-enough):])); text != "" {
			out = append(out, text)
		}
	}
	if len(out) == 0 {
		return ""
	}
	return ": " + strings.Join(out, "; ")
}

func (inGVisor) dial(ctx context.Context, s *Sandbox, port int) (net.Conn, error) {
	c, err := s.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ev, err := ask(c, wire.Request{Op: wire.OpDial, Port: port})
	switch {
	case err != nil && ctx.Err() != nil:
		err = context.Cause(ctx)
	case err == nil && ev.Event != wire.EventConnected && ev.Code != 0:
		err = &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.Errno(ev.Code))}
	case err == nil && ev.Event != wire.EventConnected:
		err = errors.New(ev.Error)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	conn, early := c.Detach()
	if !stop() {
		conn.Close()
		return nil, context.Cause(ctx)
	}
	_ = conn.SetDeadline(time.Time{})
	return &guestConn{UnixConn: conn, early: slices.Clone(early)}, nil
}

// guestConn is a connection that init passes on.
type guestConn struct {
	*net.UnixConn
	early []byte // received already
}

func (c *guestConn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	return c.UnixConn.Read(p)
}

// WriteTo hides that of UnixConn, which does not know of early.
func (c *guestConn) WriteTo(w io.Writer) (int64, error) {
	var n int64
	if len(c.early) > 0 {
		m, err := w.Write(c.early)
		c.early, n = c.early[m:], int64(m)
		if err != nil {
			return n, err
		}
	}
	m, err := io.Copy(w, c.UnixConn)
	return n + m, err
}

func (inGVisor) socket(s *Sandbox) (string, func(), error) {
	// The directory is the sandbox's to write to, so that a broken sentry might
	// put a link there to another socket of the host's.
	name := filepath.Join(s.dir, socketDir, initSocket)
	fd, err := unix.Open(name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		unix.Close(fd)
		return "", nil, fmt.Errorf("%s is no socket", name)
	}
	return "/proc/self/fd/" + strconv.Itoa(fd), func() { unix.Close(fd) }, nil
}
