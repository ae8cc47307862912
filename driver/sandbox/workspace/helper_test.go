// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package workspace

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/sandbox/loop"
)

const (
	roleEnv  = "WORKSPACE_TEST_ROLE"  // has the test binary play a process beside the test
	mountEnv = "WORKSPACE_TEST_MOUNT" // not empty: descriptor 3 is a mount
	dirEnv   = "WORKSPACE_TEST_DIR"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleEnv) {
	case "":
		os.Exit(m.Run())
	case "sandbox":
		playSandbox()
	case "bare /dev":
		playBareDev()
	}
	os.Exit(0)
}

// playSandbox attaches the mount that it was given in its own mount namespace,
// and then, as user 1000, runs the shell scripts that its input names, one a
// line.
func playSandbox() {
	check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	if os.Getenv(mountEnv) != "" {
		check(unix.MoveMount(3, "", unix.AT_FDCWD, "/mnt", unix.MOVE_MOUNT_F_EMPTY_PATH))
		check(unix.Close(3))
		check(os.Chdir("/mnt"))
	}
	check(syscall.Setgroups(nil))
	check(syscall.Setresgid(owner, owner, owner))
	check(syscall.Setresuid(owner, owner, owner))
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		out, err := exec.Command("/bin/sh", "-c", in.Text()).CombinedOutput()
		fmt.Println(strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", " "), err)
	}
}

// playBareDev makes a workspace where /dev has no nodes of loop devices.
func playBareDev() {
	dir := os.Getenv(dirEnv)
	check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	check(unix.Mount("tmpfs", "/dev", "tmpfs", 0, ""))
	check(unix.Mknod(loop.Control, unix.S_IFCHR|0o600, int(unix.Mkdev(10, 237))))
	check(unix.Mknod(os.DevNull, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	m, err := New(Config{Dir: dir}, hclog.NewNullLogger())
	check(err)
	w, err := m.Create(contextOfProcess, "a", testSize)
	check(err)
	check(w.Destroy(contextOfProcess))
	check(m.Close())
	fmt.Println("ready")
}

func check(err error) {
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// sandbox is a process that plays one.
type sandbox struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

const idBase = 0x1000_0000

// startSandbox starts a process in user and mount namespaces of its own. It
// ends with the test at the latest.
func startSandbox(t *testing.T, mnt *os.File) *sandbox {
	t.Helper()
	ids := []syscall.SysProcIDMap{{HostID: idBase, Size: 65536}}
	cmd := exec.Command("/proc/self/exe")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		Credential: &syscall.Credential{},
	}
	if mnt != nil {
		cmd.ExtraFiles = []*os.File{mnt}
		cmd.Env = append(os.Environ(), mountEnv+"=3")
	}
	return launch(t, cmd, "sandbox")
}

func launch(t *testing.T, cmd *exec.Cmd, role string) *sandbox {
	t.Helper()
	// Without it the race detector has the process sleep for 1 s when it exits.
	cmd.Env = append(cmd.Environ(), roleEnv+"="+role, "GORACE=atexit_sleep_ms=0")
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
	s := &sandbox{cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(s.end)
	if got := s.line(t); got != "ready" {
		t.Fatalf("sandbox says %q", got)
	}
	return s
}

func (s *sandbox) end() {
	s.in.Close()
	_ = s.cmd.Wait()
}

func (s *sandbox) line(t *testing.T) string {
	t.Helper()
	if !s.out.Scan() {
		t.Fatal("sandbox ended")
	}
	return s.out.Text()
}

// run runs a script and returns its output and then how it ended.
func (s *sandbox) run(t *testing.T, script string) string {
	t.Helper()
	fmt.Fprintln(s.in, script)
	return s.line(t)
}

// mountFor returns a mount of w for a sandbox.
func mountFor(t *testing.T, w *Workspace) *os.File {
	t.Helper()
	// Any namespace with the same map will do.
	s := startSandbox(t, nil)
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer userns.Close()
	mnt, err := w.IDMapped(userns)
	if err != nil {
		t.Fatal(err)
	}
	s.end()
	return mnt
}

const testSize = 64 << 20

// newManager makes a manager, at whose end no loop device and no image may be
// left.
func newManager(t testing.TB, config Config) *Manager {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if config.Dir == "" {
		config.Dir = t.TempDir()
	}
	m, err := New(config, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		eventually(t, "loop devices to go", func() bool { return len(loops(t, config.Dir)) == 0 })
	})
	return m
}

// loops lists the images of dir that are bound to loop devices.
func loops(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		t.Fatal(err)
	}
	var images []string
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.HasPrefix(string(b), dir) {
			images = append(images, string(b))
		}
	}
	return images
}

// eventually waits for what the kernel tells nobody about.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

// create makes a workspace that is destroyed with the test.
func create(t testing.TB, m *Manager, id string, size int64) *Workspace {
	t.Helper()
	w, err := m.Create(t.Context(), id, size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Destroy(contextOfProcess); err != nil {
			t.Error(err)
		}
	})
	return w
}

func openRoot(t testing.TB, w *Workspace) *os.Root {
	t.Helper()
	root, err := w.Root()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

func usage(t testing.TB, w *Workspace) Usage {
	t.Helper()
	u, err := w.Usage()
	if err != nil {
		t.Fatal(err)
	}
	return u
}
