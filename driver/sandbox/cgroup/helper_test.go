// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cgroup

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// The test binary plays the processes of a sandbox: with roleEnv set it joins
// the cgroups whose files it was given and becomes what the role says.
const (
	roleEnv  = "CGROUP_TEST_ROLE"
	filesEnv = "CGROUP_TEST_FILES" // how many files, from descriptor 3 on
)

func TestMain(m *testing.M) {
	role, n := os.Getenv(roleEnv), os.Getenv(filesEnv)
	if role == "" {
		os.Exit(m.Run())
	}
	if role == "init" {
		playInit()
	}
	if n != "" {
		join(n)
	}
	play(role)
}

// join does what a shim does: it writes "0" to the files and execs from the same
// thread.
func join(n string) {
	runtime.LockOSThread()
	count, err := strconv.Atoi(n)
	check(err)
	for fd := 3; fd < 3+count; fd++ {
		_, err := unix.Write(fd, []byte("0"))
		check(err)
		check(unix.Close(fd))
	}
	check(os.Unsetenv(filesEnv))
	check(unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}

// playInit is a sandbox's init: root of a user namespace. It starts the process
// whose files it has, the directory among them as the cgroup to clone into.
func playInit() {
	n, err := strconv.Atoi(os.Getenv(filesEnv))
	check(err)
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	for fd := 3; fd < 3+n; fd++ {
		f := os.NewFile(uintptr(fd), "file")
		st, err := f.Stat()
		check(err)
		if st.IsDir() {
			cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, fd
			continue
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, f)
	}
	cmd.Env = append(os.Environ(), roleEnv+"=sleep", fmt.Sprintf("%s=%d", filesEnv, len(cmd.ExtraFiles)))
	cmd.Stdout = os.Stdout
	check(cmd.Start())
	rest()
}

func play(role string) {
	fmt.Println("ready")
	switch role {
	case "sleep":
		_, _ = io.Copy(io.Discard, os.Stdin)
		rest()
	case "bomb": // of memory
		for kept := [][]byte{}; ; {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			kept = append(kept, b)
		}
	case "fork":
		var err error
		for err == nil {
			err = exec.Command("/bin/sleep", "1000").Start()
		}
		fmt.Println(errors.Is(err, unix.EAGAIN))
		rest()
	case "forkbomb": // every child goes on forking; it needs nothing of the Go runtime for that
		for {
			_, _, _ = syscall.RawSyscall(unix.SYS_FORK, 0, 0, 0)
		}
	case "spin":
		go spin()
		spin()
	case "burst": // 50 ms of CPU time for each line of input
		runtime.LockOSThread()
		in := bufio.NewScanner(os.Stdin)
		for in.Scan() {
			for end := threadCPU() + 50*time.Millisecond; threadCPU() < end; {
			}
			fmt.Println("done")
		}
	case "server":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		check(err)
		fmt.Println(l.Addr())
		for {
			c, err := l.Accept()
			check(err)
			go func() { _, _ = io.Copy(c, c) }()
		}
	}
	os.Exit(0)
}

// rest waits for the end. Go would take an empty select for a deadlock where
// nothing else is going on.
func rest() {
	for {
		_ = unix.Pause()
	}
}

func spin() {
	for n := uint32(0); ; {
		n = n*1664525 + 1013904223
	}
}

func threadCPU() time.Duration {
	var ts unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts))
	return time.Duration(ts.Nano())
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// proc is a process that plays a role.
type proc struct {
	*exec.Cmd
	in  io.Writer
	out *bufio.Scanner
}

// line returns the next line that the process says.
func (p *proc) line(t testing.TB) string {
	t.Helper()
	if !p.out.Scan() {
		t.Fatalf("process ended: %v", p.Wait())
	}
	return p.out.Text()
}

// start starts a process in e and waits until it is what it plays.
func start(t testing.TB, e *Execution, role string) *proc {
	t.Helper()
	files, err := e.JoinFiles(0)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(files)
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if e.group.lay.hierarchies[0].v2 {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(files[0].Fd())
		cmd.ExtraFiles = files[1:]
	} else {
		cmd.ExtraFiles = files
	}
	return launch(t, cmd, role, len(cmd.ExtraFiles))
}

// launch starts cmd, which ends with the test.
func launch(t testing.TB, cmd *exec.Cmd, role string, files int) *proc {
	t.Helper()
	// Without it the race detector has a process sleep for 1 s when it exits.
	cmd.Env = append(os.Environ(), roleEnv+"="+role, fmt.Sprintf("%s=%d", filesEnv, files), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	p := &proc{Cmd: cmd, in: in, out: bufio.NewScanner(out)}
	if got := p.line(t); got != "ready" {
		t.Fatalf("process says %q", got)
	}
	return p
}

// layouts are those that this machine has: the hybrid one can be taken as plain
// v1 too.
func layouts(t testing.TB) map[string]*layout {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	lay, err := mounted()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*layout{string(lay.version): lay}
	if lay.version == Hybrid {
		mounts, err := cgroups.GetCgroupMounts(false)
		if err != nil {
			t.Fatal(err)
		}
		v1, err := layoutV1(mounts, "")
		if err == nil {
			err = v1.findOwn()
		}
		if err != nil {
			t.Fatal(err)
		}
		all[string(V1)] = v1
	}
	return all
}

// eachLayout runs f with a new group, on every layout there is.
func eachLayout(t *testing.T, limits Limits, f func(*testing.T, *Group)) {
	for name, lay := range layouts(t) {
		t.Run(name, func(t *testing.T) { f(t, newGroupOn(t, lay, limits)) })
	}
}

func newTestGroup(t testing.TB, limits Limits) *Group {
	t.Helper()
	layouts(t)
	lay, err := mounted()
	if err != nil {
		t.Fatal(err)
	}
	return newGroupOn(t, lay, limits)
}

func newGroupOn(t testing.TB, lay *layout, limits Limits) *Group {
	t.Helper()
	name := strings.NewReplacer("/", "-", "#", "-").Replace(t.Name())
	g, err := newGroup(lay, OwnScope(fmt.Sprintf("%s-%d", name, os.Getpid())), limits)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return g
}

func newExecution(t testing.TB, g *Group, id string) *Execution {
	t.Helper()
	e, err := g.NewExecution(id)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
