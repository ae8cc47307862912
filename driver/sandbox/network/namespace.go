// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// kernelTimeout bounds every wait for the kernel's answer to a netlink
// request. A set-up takes some milliseconds; what takes longer waits for the
// kernel's network lock, which deletions of hundreds of interfaces can hold
// for a second or two.
const kernelTimeout = 10 * time.Second

// namespace is a network namespace and the sockets that were opened in it, by
// which it is configured and watched without entering it again.
type namespace struct {
	file *os.File
	diag *nl.SocketHandle // sock_diag
}

func (n *namespace) close() {
	n.diag.Close()
	n.file.Close()
}

// openNamespace takes hold of an existing namespace.
func (m *Manager) openNamespace(path string) (*namespace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	ns := &namespace{file: file}
	if err := m.check(file); err != nil {
		file.Close()
		return nil, err
	}
	err = m.within(file, func() error {
		ns.diag, err = openDiag()
		return err
	})
	if err != nil {
		file.Close()
		return nil, err
	}
	return ns, nil
}

// check refuses what is not a network namespace, and the host's own.
func (m *Manager) check(file *os.File) error {
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return fmt.Errorf("%s is not a network namespace", file.Name())
	}
	theirs, err := file.Stat()
	if err != nil {
		return err
	}
	ours, err := m.host.Stat()
	if err != nil {
		return err
	}
	if os.SameFile(theirs, ours) {
		return fmt.Errorf("%s is the host's network namespace", file.Name())
	}
	return nil
}

// newNamespace makes a namespace with its loopback up and nothing else.
func (m *Manager) newNamespace() (*namespace, error) {
	ns := &namespace{}
	err := m.onThread(func() error { return os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWNET)) }, func() (err error) {
		if ns.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		if err := setSysctls(guestSysctls); err != nil {
			return err
		}
		if err := loopbackUp(); err != nil {
			return err
		}
		ns.diag, err = openDiag()
		return err
	})
	if err != nil {
		if ns.file != nil {
			ns.file.Close()
		}
		return nil, fmt.Errorf("make network namespace: %w", err)
	}
	return ns, nil
}

// guestSysctls are set in a new namespace, where /proc/sys/net shows the
// namespace of the thread that opens it.
var guestSysctls = []sysctl{
	// Interfaces made from now on have no IPv6, lo keeps ::1.
	{"ipv6/conf/default/disable_ipv6", "1"},
	// An app may listen on port 80 without rights, as in container engines.
	{"ipv4/ip_unprivileged_port_start", "0"},
}

func loopbackUp() error {
	route, err := routeHandle()
	if err != nil {
		return err
	}
	defer route.Close()
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopbackIndex}}
	if err := route.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	return nil
}

// loopbackIndex is lo's interface index in every namespace (LOOPBACK_IFINDEX).
const loopbackIndex = 1

// within runs fn on a thread in the namespace ns.
func (m *Manager) within(ns *os.File, fn func() error) error {
	return m.onThread(func() error { return setns(ns) }, fn)
}

// onThread runs fn on a thread that enter has taken to another namespace, and
// brings the thread back. A thread that cannot be brought back ends with its
// goroutine, as the runtime does not use a locked one again; for that fn has a
// goroutine of its own.
func (m *Manager) onThread(enter, fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if err := enter(); err != nil {
			runtime.UnlockOSThread()
			done <- err
			return
		}
		err := fn()
		if back := setns(m.host); back != nil {
			done <- errors.Join(err, fmt.Errorf("return to the host's network namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
		done <- err
	}()
	return <-done
}

func setns(ns *os.File) error {
	return os.NewSyscallError("setns", unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET))
}

// hostNamespace opens the namespace of the calling thread.
func hostNamespace() (*os.File, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return os.Open("/proc/thread-self/ns/net")
}

// routeHandle opens a route socket in the thread's namespace.
func routeHandle() (*netlink.Handle, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open route socket: %w", err)
	}
	if err := h.SetSocketTimeout(kernelTimeout); err != nil {
		h.Close()
		return nil, fmt.Errorf("set timeout of route socket: %w", err)
	}
	return h, nil
}

// dump lists what the kernel has, again when something changed meanwhile: on
// a busy node interfaces come and go all the time, and such a list may lack any
// of them.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for deadline := time.Now().Add(kernelTimeout); ; {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || time.Now().After(deadline) {
			return all, err
		}
	}
}

type sysctl struct{ key, value string }

// setSysctls writes keys below /proc/sys/net. A key of IPv6 that is missing
// means a kernel that has none, which is what is wanted.
func setSysctls(list []sysctl) error {
	for _, s := range list {
		err := os.WriteFile("/proc/sys/net/"+s.key, []byte(s.value), 0)
		if errors.Is(err, fs.ErrNotExist) && s.key[:4] == "ipv6" {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}
