// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package rootfs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// imageEnv makes of the test a process that opens the image of that path and
// waits to be killed.
const imageEnv = "ROOTFS_TEST_IMAGE"

func TestMain(m *testing.M) {
	path := os.Getenv(imageEnv)
	if path == "" {
		os.Exit(m.Run())
	}
	i, err := Open(path)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(i.Device())
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// makers make an image of a directory, each of a format.
var makers = map[string]func(t *testing.T, image, dir string){
	"erofs": func(t *testing.T, image, dir string) { run(t, nil, "mkfs.erofs", "-x-1", image, dir) },
	"squashfs": func(t *testing.T, image, dir string) {
		run(t, nil, "mksquashfs", dir, image, "-noappend", "-quiet", "-no-progress")
	},
	"ext4": func(t *testing.T, image, dir string) {
		run(t, nil, "truncate", "-s", "8M", image)
		run(t, []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"}, "/usr/sbin/mkfs.ext4", "-q", "-F", "-d", dir, image)
	},
}

func makeImage(t *testing.T, format string) string {
	t.Helper()
	needRoot(t)
	dir := filepath.Join(t.TempDir(), "tree")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(t.TempDir(), "image")
	makers[format](t, image, dir)
	return image
}

func TestImage(t *testing.T) {
	for format := range makers {
		t.Run(format, func(t *testing.T) {
			path := makeImage(t, format)
			userns := userNamespace(t, 0x1234_0000)
			first, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer first.Close()
			second, err := Open(path) // as another process would
			if err != nil {
				t.Fatal(err)
			}
			defer second.Close()
			if first.Device() != second.Device() {
				t.Errorf("bound to %s and %s", first.Device(), second.Device())
			}
			var devices []uint64
			for _, i := range []*Image{first, second} {
				if text, err := os.ReadFile(i.Dir() + "/file"); err != nil || string(text) != "content" {
					t.Errorf("read: %q, %v", text, err)
				}
				m, err := i.Mount(userns)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				devices = append(devices, checkMount(t, m, 0x1234_0000))
			}
			if devices[0] != devices[1] {
				t.Errorf("two file systems: devices %v", devices)
			}
		})
	}
}

// checkMount wants a mount as sandboxes are to have it, with files of owner, and
// returns its device number.
func checkMount(t *testing.T, m *os.File, owner uint32) uint64 {
	t.Helper()
	var fsinfo unix.Statfs_t
	if err := unix.Fstatfs(int(m.Fd()), &fsinfo); err != nil {
		t.Fatal(err)
	}
	const want = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV
	if fsinfo.Flags&want != want {
		t.Errorf("mount flags %#x", fsinfo.Flags)
	}
	if fd, err := unix.Openat(int(m.Fd()), "new", unix.O_CREAT|unix.O_WRONLY, 0o644); !errors.Is(err, unix.EROFS) {
		unix.Close(fd)
		t.Errorf("create a file: %v", err)
	}
	var st unix.Stat_t
	if err := unix.Fstatat(int(m.Fd()), "file", &st, 0); err != nil {
		t.Fatal(err)
	}
	if st.Uid != owner || st.Gid != owner {
		t.Errorf("file of %d:%d, want %d", st.Uid, st.Gid, owner)
	}
	return st.Dev
}

// userNamespace is one whose root is base on the host.
func userNamespace(t testing.TB, base int) *os.File {
	t.Helper()
	ids := []syscall.SysProcIDMap{{HostID: base, Size: 65536}}
	cmd := exec.Command("/bin/cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	in.Close()
	_ = cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// TestNothingIsLeft kills a process that has an image open.
func TestNothingIsLeft(t *testing.T) {
	path := makeImage(t, "erofs")
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), imageEnv+"="+path)
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	device := strings.TrimSpace(line)
	if err != nil || !strings.HasPrefix(device, "/dev/loop") {
		t.Fatalf("process says %q, %v", line, err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	backing := "/sys/block/" + filepath.Base(device) + "/loop/backing_file"
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		text, err := os.ReadFile(backing)
		if err != nil || strings.TrimSpace(string(text)) != path {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s is still bound", device)
		}
	}
}

func TestReplacedImage(t *testing.T) {
	path := makeImage(t, "erofs")
	i, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer i.Close()
	if !i.Current() {
		t.Error("not current at once")
	}
	if err := os.Rename(makeImage(t, "ext4"), path); err != nil {
		t.Fatal(err)
	}
	if i.Current() {
		t.Error("current after another has its place")
	}
	if text, err := os.ReadFile(i.Dir() + "/file"); err != nil || string(text) != "content" {
		t.Errorf("read what was open: %q, %v", text, err)
	}
}

func TestNoImage(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); err == nil || !strings.Contains(err.Error(), "neither erofs nor squashfs nor ext4") {
		t.Errorf("got %v", err)
	}
}

// BenchmarkMount is what an image adds to the start of a sandbox.
func BenchmarkMount(b *testing.B) {
	needRoot(b)
	image, err := Open(run(b, nil, "./build", "--image", bun(b)))
	if err != nil {
		b.Fatal(err)
	}
	defer image.Close()
	userns := userNamespace(b, 0x1234_0000)
	for b.Loop() {
		m, err := image.Mount(userns)
		if err != nil {
			b.Fatal(err)
		}
		m.Close()
	}
}
