// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

const (
	// tmpSize bounds /tmp, homeSize the home directory, shmSize /dev/shm. All
	// are memory and count against the sandbox's limit as well.
	tmpSize  = 512 << 20
	homeSize = 64 << 20
	shmSize  = 64 << 20

	// certFile is where programs built for Debian look for certificates.
	certFile = "/etc/ssl/certs/ca-certificates.crt"
)

// environment is what every process in a sandbox has beside the task's own.
var environment = map[string]string{
	"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/workspace/node_modules/.bin",
	"HOME": "/home/bun",
	"USER": "bun",
	"LANG": "C.UTF-8",
	// Auto-installed packages lie in the workspace, so that they count against
	// its size and survive sleep.
	"BUN_INSTALL_CACHE_DIR": "/workspace/.buntime/install",
	// Bun's cache of transpiled sources would fill the home directory.
	"BUN_RUNTIME_TRANSPILER_CACHE_PATH": "0",
	// Bun brings its own certificates; these are the operator's.
	"NODE_EXTRA_CA_CERTS": certFile,
	"DO_NOT_TRACK":        "1",
}

// layout says what the sandbox looks like from inside and returns the mounts to
// hand over, also with an error. pid is init's: file owners are mapped as its
// user namespace maps them.
func (s *Sandbox) layout(spec Spec, pid int) (wire.Boot, []*os.File, error) {
	var files []*os.File
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", pid))
	if err != nil {
		return wire.Boot{}, files, fmt.Errorf("open init's user namespace: %w", err)
	}
	defer userns.Close()

	var readOnly uint64 = unix.MOUNT_ATTR_RDONLY
	if s.node.without(LayerReadOnlyRoot) {
		readOnly = 0
	}
	root, err := s.node.root.mount(readOnly, userns)
	if err != nil {
		return wire.Boot{}, files, err
	}
	files = append(files, root)
	boot := wire.Boot{
		Hostname: spec.Hostname, UID: userID, GID: userID,
		Bun: s.node.config.Bun, MaxFiles: uint64(spec.Files), Env: maps.Clone(environment),
		Mounts: []wire.Mount{
			s.procMount(),
			{Type: "dev", Target: "/dev", Size: shmSize},
			{Type: "tmpfs", Target: "/tmp", Size: tmpSize},
			{Type: "tmpfs", Target: "/home/bun", Size: homeSize, Mode: 0o755, UID: userID},
		},
	}
	boot.Mounts = append(boot.Mounts, s.etc(spec)...)
	s.confine(&boot, spec)
	maps.Copy(boot.Env, spec.Env)
	give := func(target string, f *os.File) {
		files = append(files, f)
		boot.Mounts = append(boot.Mounts, wire.Mount{Type: "fd", Target: target, FD: len(files) - 1})
	}

	ws, err := s.workspace.IDMapped(userns)
	if err != nil {
		return boot, files, fmt.Errorf("mount workspace: %w", err)
	}
	give("/workspace", ws)
	if cert := s.node.config.CertFile; cert != "" {
		f, err := detach(cert, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC, nil)
		if err != nil {
			return boot, files, err
		}
		give(certFile, f)
	}
	boot.Mounts = append(boot.Mounts, told(spec)...)
	if err := s.showCgroups(give); err != nil {
		return boot, files, err
	}
	boot.Mounts = append(boot.Mounts, wire.Mount{Type: "fixed", Target: "/sys"})
	for _, target := range slices.Sorted(maps.Keys(spec.Dirs)) {
		f, err := detach(spec.Dirs[target], unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, userns)
		if errors.Is(err, unix.EINVAL) { // a file system that maps no ids, such as tmpfs before Linux 6.3
			f, err = detach(spec.Dirs[target], unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, nil)
		}
		if err != nil {
			return boot, files, err
		}
		give(target, f)
	}
	return boot, files, nil
}

// etc are the files by which a sandbox knows itself and others.
func (s *Sandbox) etc(spec Spec) []wire.Mount {
	return []wire.Mount{
		{Type: "file", Target: "/etc/hostname", Content: spec.Hostname + "\n"},
		{Type: "file", Target: "/etc/hosts", Content: "127.0.0.1 localhost " + spec.Hostname + "\n::1 localhost ip6-localhost\n"},
		{Type: "file", Target: "/etc/resolv.conf", Content: s.resolvConf(spec)},
	}
}

// resolvConf names the node's resolver, which answers the addresses of our own
// networks only; in a network of somebody else's names are looked up as on the
// host.
func (s *Sandbox) resolvConf(spec Spec) string {
	if spec.Netns != "" {
		if b, err := os.ReadFile("/etc/resolv.conf"); err == nil {
			return string(b)
		}
	}
	return fmt.Sprintf("nameserver %s\noptions edns0\n", s.node.network.Resolver())
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
