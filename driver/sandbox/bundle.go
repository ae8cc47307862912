// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
)

// stage is what a gVisor container is put together from: mounts that are
// attached nowhere until there is a mount namespace for runsc alone, and files.
type stage struct {
	// mounts go to files or directories of these names in stageDir.
	mounts map[string]*os.File
	// meminfo is what runsc shall take for the machine's /proc/meminfo.
	meminfo string
}

func (st *stage) close() {
	for _, f := range st.mounts {
		f.Close()
	}
}

// stageDir is where the stage stands, in the mount namespace of runsc: a
// directory that anybody may pass through, for the gofer has no right to the
// plugin's, and that nothing lies in which runsc needs.
const stageDir = "/dev/shm"

// sentryCaps are the capabilities of init, which gVisor's kernel gives it, and
// of the sentry in the sandbox's user namespace.
var sentryCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID",
	"CAP_SYS_ADMIN", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE",
}

// stageGVisor writes the sandbox's bundle and gathers its mounts. What it returns
// has to be closed, also with an error.
func (s *Sandbox) stageGVisor(spec Spec) (*stage, error) {
	st := &stage{mounts: map[string]*os.File{}}
	if spec.Limits.Memory > 0 {
		st.meminfo = fmt.Sprintf("MemTotal: %d kB\n", spec.Limits.Memory>>10)
	}
	for _, name := range []string{bundleDir, runscDir, socketDir} {
		if err := os.Mkdir(filepath.Join(s.dir, name), 0o700); err != nil {
			return st, fmt.Errorf("create directory of gVisor's: %w", err)
		}
	}
	if err := os.Chown(filepath.Join(s.dir, socketDir), s.Owner(), s.Owner()); err != nil {
		return st, fmt.Errorf("give init its directory: %w", err)
	}
	userns, err := s.mapping()
	if err != nil {
		return st, err
	}
	defer userns.Close()
	oci := s.bundle(spec)
	if err := st.gather(s, spec, oci, userns); err != nil {
		return st, err
	}
	b, err := json.Marshal(oci)
	if err == nil {
		err = os.WriteFile(filepath.Join(s.dir, bundleDir, "config.json"), b, 0o600)
	}
	if err != nil {
		return st, fmt.Errorf("write OCI bundle: %w", err)
	}
	return st, nil
}

// bundle is the container without what is mounted from the host.
func (s *Sandbox) bundle(spec Spec) *specs.Spec {
	tmpfs := func(target string, size int64, more ...string) specs.Mount {
		return specs.Mount{
			Destination: target, Type: "tmpfs", Source: "tmpfs",
			Options: append([]string{"nosuid", "nodev", "size=" + strconv.FormatInt(size, 10)}, more...),
		}
	}
	ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: uint32(s.Owner()), Size: IDsPerSandbox}}
	files := uint64(max(spec.Files, 1<<16)) // init's own, who lowers it for all others
	return &specs.Spec{
		Version:  specs.Version,
		Hostname: spec.Hostname,
		Root:     &specs.Root{Path: filepath.Join(stageDir, "root"), Readonly: true},
		Process: &specs.Process{
			Args: []string{"/init"}, // a name: what runs is the descriptor
			Env:  []string{"GOMAXPROCS=2", "GOGC=40"}, Cwd: "/",
			NoNewPrivileges: true,
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: files, Soft: files}},
			Capabilities: &specs.LinuxCapabilities{
				Bounding: sentryCaps, Effective: sentryCaps, Permitted: sentryCaps,
			},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev/pts", Type: "devpts", Source: "devpts"},
			tmpfs("/dev/shm", shmSize, "noexec", "mode=1777"),
			tmpfs("/run", 1<<20, "mode=755"),
			tmpfs("/tmp", tmpSize, "mode=1777"),
			tmpfs("/home/bun", homeSize, "mode=755", fmt.Sprintf("uid=%d", userID), fmt.Sprintf("gid=%d", userID)),
		},
		Linux: &specs.Linux{
			UIDMappings: ids, GIDMappings: ids,
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.UserNamespace},
				{Type: specs.NetworkNamespace, Path: "/proc/self/ns/net"},
			},
		},
	}
}

// gather takes the mounts of the host that the sandbox sees, with owners as
// userns maps them, and enters them in oci.
func (st *stage) gather(s *Sandbox, spec Spec, oci *specs.Spec, userns *os.File) (err error) {
	const quiet = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV
	if st.mounts["root"], err = detach(s.node.config.Rootfs, unix.MOUNT_ATTR_RDONLY|quiet, userns); err != nil {
		return err
	}
	bind := func(name, target string, f *os.File, options ...string) {
		st.mounts[name] = f
		oci.Mounts = append(oci.Mounts, specs.Mount{
			Destination: target, Type: "bind", Source: filepath.Join(stageDir, name),
			Options: append([]string{"bind", "nosuid", "nodev"}, options...),
		})
	}
	sock, err := detach(filepath.Join(s.dir, socketDir), unix.MOUNT_ATTR_NOEXEC|quiet, nil)
	if err != nil {
		return err
	}
	bind("host", guestSocketDir, sock, "rw", "noexec")
	ws, err := s.workspace.IDMapped(userns)
	if err != nil {
		return fmt.Errorf("mount workspace: %w", err)
	}
	bind("workspace", "/workspace", ws, "rw")
	if cert := s.node.config.CertFile; cert != "" {
		f, err := detach(cert, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOEXEC|quiet, nil)
		if err != nil {
			return err
		}
		bind("certs", certFile, f, "ro", "noexec")
	}
	for i, target := range slices.Sorted(maps.Keys(spec.Dirs)) {
		f, err := detach(spec.Dirs[target], quiet, userns)
		if errors.Is(err, unix.EINVAL) { // see layout
			f, err = detach(spec.Dirs[target], quiet, nil)
		}
		if err != nil {
			return err
		}
		bind("dir"+strconv.Itoa(i), target, f, "rw")
	}
	return nil
}

// mapping makes a user namespace with the sandbox's ids, for mounts to show
// owners by. It is not the one that the sandbox will run in, which runsc makes,
// but maps the same.
func (s *Sandbox) mapping() (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("create boot socket: %w", err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: s.Owner(), Size: IDsPerSandbox}}
	// An init that waits for its Boot as long as we have the socket.
	pid, err := forkInit(s.node.init, []string{wire.InitName}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOMAXPROCS=1"}, Files: []uintptr{^uintptr(0), ^uintptr(0), ^uintptr(0), uintptr(pair[1])},
		Sys: &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids},
	})
	if err != nil {
		return nil, fmt.Errorf("make user namespace: %w", err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	_ = unix.Kill(pid, unix.SIGKILL) // it is our child: neither gone nor another
	_, _ = wait(pid)
	if err != nil {
		return nil, fmt.Errorf("open user namespace: %w", err)
	}
	return f, nil
}

// fork starts runsc in netns, in unit, and in a mount namespace of its own in
// which everything is in its place: no mount ever shows on the host, and none
// outlives the container.
func (st *stage) fork(runsc string, args []string, files []uintptr, netns *os.File, group *cgroup.Group, unit *cgroup.Execution) (int, error) {
	joins, err := unit.JoinFiles(0)
	if err != nil {
		return 0, err
	}
	defer closeFiles(joins)
	attr := &syscall.ProcAttr{
		Dir: "/", Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true},
	}
	return onLostThread(func() (int, error) {
		if err := unix.Setns(int(netns.Fd()), unix.CLONE_NEWNET); err != nil {
			return 0, fmt.Errorf("enter network namespace: %w", err)
		}
		if err := st.attach(); err != nil {
			return 0, err
		}
		// For the cpuset that init would be in; from there into the unit.
		end, err := group.BeginInit(attr.Sys)
		if err != nil {
			return 0, err
		}
		defer func() { _ = end() }()
		for _, f := range joins {
			info, err := f.Stat()
			if err == nil && info.IsDir() {
				attr.Sys.UseCgroupFD, attr.Sys.CgroupFD = true, int(f.Fd())
				continue
			}
			if err == nil {
				_, err = f.WriteString("0")
			}
			if err != nil {
				return 0, fmt.Errorf("join cgroup of gVisor: %w", err)
			}
		}
		return syscall.ForkExec(runsc, args, attr)
	})
}

// attach gives the calling thread a mount namespace of its own and puts the
// stage up in it.
func (st *stage) attach() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make mount namespace: %w", err)
	}
	// What the host unmounts meanwhile shall not live on here.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("detach mount namespace: %w", err)
	}
	if err := unix.Mount("tmpfs", stageDir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=64k"); err != nil {
		return fmt.Errorf("mount stage: %w", err)
	}
	for name, f := range st.mounts {
		target := filepath.Join(stageDir, name)
		if err := mountPoint(target, f); err != nil {
			return fmt.Errorf("make mount point %s: %w", name, err)
		}
		if err := unix.MoveMount(int(f.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("mount %s: %w", name, err)
		}
	}
	if st.meminfo == "" {
		return nil
	}
	// runsc takes the machine's memory from here for what the sandbox shall see.
	file := filepath.Join(stageDir, "meminfo")
	if err := os.WriteFile(file, []byte(st.meminfo), 0o444); err != nil {
		return err
	}
	if err := unix.Mount(file, "/proc/meminfo", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount meminfo: %w", err)
	}
	return nil
}

// mountPoint makes what the mount f can be attached to.
func mountPoint(target string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.Mkdir(target, 0o755)
	}
	return os.WriteFile(target, nil, 0o444)
}

// onLostThread runs f on a thread that ends afterwards, whatever f did to it. A
// program's first thread cannot end, so it is not taken.
func onLostThread(f func() (int, error)) (int, error) {
	type result struct {
		pid int
		err error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			pid, err := onLostThread(f) // elsewhere, since this one is held
			runtime.UnlockOSThread()
			done <- result{pid, err}
			return
		}
		pid, err := f()
		done <- result{pid, err}
	}()
	r := <-done
	return r.pid, r.err
}
