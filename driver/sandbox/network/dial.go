// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// DialContext connects to a listener in the sandbox as a process in there
// would: a loopback address works whatever address the listener bound. The
// network is tcp, tcp4 or tcp6, the address an IP address and a port. It has
// the shape of [net.Dialer.DialContext] and its errors' type.
//
// Only the socket is made on a thread in the sandbox's namespace; the wait for
// the connection holds no thread, however long the sandbox lets it wait.
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := n.dial(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err, Addr: dialAddr{network, address}}
	}
	return conn, nil
}

func (n *Network) dial(ctx context.Context, network, address string) (net.Conn, error) {
	target, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, err
	}
	family, to := socketAddress(target)
	if network != "tcp" && (network != "tcp4" || family != unix.AF_INET) && (network != "tcp6" || family != unix.AF_INET6) {
		return nil, net.UnknownNetworkError(network)
	}
	fd := -1
	err = n.manager.within(n.ns.file, func() (err error) {
		fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return os.NewSyscallError("socket", err)
	})
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return nil, err
	}
	connecting := unix.Connect(fd, to)
	file := os.NewFile(uintptr(fd), "")
	defer file.Close()
	if errors.Is(connecting, unix.EINPROGRESS) {
		connecting = waitConnected(ctx, file)
	}
	if connecting != nil {
		return nil, os.NewSyscallError("connect", connecting)
	}
	return net.FileConn(file)
}

// waitConnected waits for the end of a connect that is under way.
func waitConnected(ctx context.Context, file *os.File) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() {
		_ = file.SetWriteDeadline(time.Unix(1, 0)) // fails only on a closed file, which nobody waits for
	})
	defer stop()
	var result error
	err = raw.Write(func(fd uintptr) bool {
		var done bool
		done, result = connected(int(fd))
		return done
	})
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return errors.Join(err, result)
}

// connected reports whether a connect is over, and how it ended.
func connected(fd int) (bool, error) {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = syscall.Errno(code)
	}
	if err != nil {
		return true, err
	}
	_, err = unix.Getpeername(fd)
	return err == nil, nil
}

func socketAddress(a netip.AddrPort) (family int, to unix.Sockaddr) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Port: int(a.Port()), Addr: ip.As4()}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// dialAddr is the address of an error.
type dialAddr struct{ network, address string }

func (a dialAddr) Network() string { return a.network }
func (a dialAddr) String() string  { return a.address }
