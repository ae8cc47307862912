// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// startTimeout bounds the time until a new process has become its program. It
// takes 2 ms; a process whose cgroup is frozen or out of quota waits.
const startTimeout = 20 * time.Second

// command is a process to start.
type command struct {
	argv []string
	env  []string
	dir  string
	// stdin, stdout and stderr stay the caller's; nil is /dev/null.
	stdin, stdout, stderr *os.File
	// joins are the descriptors that get it into its cgroups: on cgroup v2 a
	// directory to be cloned into, first; on v1 files to write "0" to. They stay
	// the caller's.
	joins []int
	// gate becomes descriptor gateFD. It stays the caller's.
	gate *os.File
	// tty makes stdin the controlling terminal.
	tty bool
}

// startError says at which step a process failed to become its program.
type startError struct {
	step  string
	errno syscall.Errno
}

func (e *startError) Error() string { return e.step + ": " + e.errno.Error() }
func (e *startError) Unwrap() error { return e.errno }

// start starts c and returns once it has become its program.
func (s *server) start(c command) (*process, error) {
	spec, err := s.specFile(c)
	if err != nil {
		return nil, err
	}
	defer unix.Close(spec)
	statusR, statusW, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create status pipe: %w", err)
	}
	defer statusR.Close()
	p, err := s.fork(c, spec, statusW)
	statusW.Close()
	if err != nil {
		return nil, fmt.Errorf("fork: %w", err)
	}
	if err := readStatus(statusR); err != nil {
		s.reaper.signalGroup(p, unix.SIGKILL)
		return nil, err
	}
	return p, nil
}

// fork starts the shim, with the descriptors where it expects them.
func (s *server) fork(c command, spec int, status *os.File) (*process, error) {
	sys := &syscall.SysProcAttr{Setsid: true}
	joins := c.joins
	if len(joins) > 0 && isDir(joins[0]) {
		sys.UseCgroupFD, sys.CgroupFD = true, joins[0]
		joins = joins[1:]
	}
	files := make([]uintptr, 0, shimJoins+len(joins)+1)
	for _, f := range []*os.File{c.stdin, c.stdout, c.stderr} {
		if f == nil {
			f = s.null
		}
		files = append(files, rawFD(f))
	}
	rules := s.confined.rules
	if rules == nil {
		rules = s.null
	}
	files = append(files, uintptr(spec), rawFD(status), rawFD(s.confined.filter), rawFD(rules))
	for _, fd := range joins {
		files = append(files, uintptr(fd))
	}
	if c.gate != nil {
		files = append(files, rawFD(c.gate))
	}
	return s.reaper.start(func() (int, error) {
		return syscall.ForkExec("/proc/self/exe", []string{ShimName}, &syscall.ProcAttr{
			Env: []string{"GOGC=off", "GOMAXPROCS=1"}, Files: files, Sys: sys,
		})
	})
}

// specFile writes what the shim has to know to a file in memory, which takes
// any length without a reader.
func (s *server) specFile(c command) (fd int, err error) {
	joins := len(c.joins)
	if joins > 0 && isDir(c.joins[0]) {
		joins--
	}
	flags := ""
	if c.tty {
		flags += "t"
	}
	if c.gate != nil {
		flags += "g"
	}
	if s.confined.rules != nil {
		flags += "l"
	}
	var without strings.Builder
	for _, w := range s.confined.without {
		without.WriteString(strings.ToUpper(w[:1]))
	}
	flags += without.String()
	fields := append([]string{
		strconv.Itoa(s.cfg.UID), strconv.Itoa(s.cfg.GID), strconv.FormatUint(s.cfg.MaxFiles, 10),
		flags, strconv.Itoa(joins), c.dir, strconv.Itoa(len(c.argv)),
	}, append(append([]string(nil), c.argv...), c.env...)...)
	for _, f := range fields {
		if strings.IndexByte(f, 0) >= 0 {
			return -1, errors.New("a NUL in arguments, environment or directory")
		}
	}
	if fd, err = unix.MemfdCreate("spec", unix.MFD_CLOEXEC); err != nil {
		return -1, fmt.Errorf("create file in memory: %w", err)
	}
	rest := []byte(strings.Join(fields, "\x00"))
	for at := int64(0); len(rest) > 0; {
		n, err := unix.Pwrite(fd, rest, at)
		if err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("write file in memory: %w", err)
		}
		rest, at = rest[n:], at+int64(n)
	}
	return fd, nil
}

// readStatus reads what the shim says: nothing when it became its program.
func readStatus(r *os.File) error {
	if err := r.SetReadDeadline(time.Now().Add(startTimeout)); err != nil {
		return err
	}
	b, err := io.ReadAll(r)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the process did not start within %s", startTimeout)
	}
	if err != nil {
		return fmt.Errorf("read status of the new process: %w", err)
	}
	if len(b) == 0 {
		return nil
	}
	step, errno, _ := strings.Cut(string(b), "\x00")
	n, err := strconv.Atoi(errno)
	if err != nil {
		return fmt.Errorf("parse status of the new process: %q", b)
	}
	return &startError{step, syscall.Errno(n)}
}

func isDir(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// rawFD returns f's descriptor and leaves it non-blocking, which Fd does not.
func rawFD(f *os.File) uintptr {
	out := ^uintptr(0)
	if raw, err := f.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { out = fd })
	}
	return out
}
