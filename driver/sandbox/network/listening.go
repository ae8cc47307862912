// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Socket is one at which a process of the sandbox waits for others.
type Socket struct {
	// Proto is tcp, udp or unix.
	Proto string
	// Addr and Port are where a tcp or udp socket is bound.
	Addr netip.Addr
	Port uint16
	// Path is where a unix socket is bound, with @ for a leading zero byte.
	Path string
	// Inode identifies the socket: /proc/<pid>/fd/<n> reads socket:[<inode>].
	Inode uint32
}

// From linux/inet_diag.h, linux/unix_diag.h and net/tcp_states.h.
const (
	inetRequestSize = 56
	inetAnswerSize  = 72
	unixRequestSize = 24
	unixAnswerSize  = 16
	unixShowName    = 1 << 0 // UDIAG_SHOW_NAME
	unixName        = 0      // UNIX_DIAG_NAME
	stateClose      = 7      // what udp has instead of listening
	stateListen     = 10
)

// openDiag opens a sock_diag socket in the thread's namespace.
func openDiag() (*nl.SocketHandle, error) {
	socket, err := nl.Subscribe(unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, fmt.Errorf("open sock_diag socket: %w", err)
	}
	timeout := unix.NsecToTimeval(kernelTimeout.Nanoseconds())
	if err := errors.Join(socket.SetSendTimeout(&timeout), socket.SetReceiveTimeout(&timeout)); err != nil {
		socket.Close()
		return nil, fmt.Errorf("set timeout of sock_diag socket: %w", err)
	}
	return &nl.SocketHandle{Socket: socket}, nil
}

// Listening lists the sandbox's listening TCP and unix sockets and its bound,
// unconnected UDP sockets. The kernel picks them out, so the cost does not grow
// with the sandbox's connections.
func (n *Network) Listening() ([]Socket, error) {
	var found []Socket
	for _, kind := range []struct {
		proto    string
		protocol uint8
		state    int
	}{
		{"tcp", unix.IPPROTO_TCP, stateListen},
		{"udp", unix.IPPROTO_UDP, stateClose},
	} {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			request := make([]byte, inetRequestSize)
			request[0], request[1] = family, kind.protocol
			binary.NativeEndian.PutUint32(request[4:], 1<<kind.state)
			err := n.ns.diagnose(request, func(answer []byte) {
				if s, ok := inetSocket(answer); ok {
					s.Proto = kind.proto
					found = append(found, s)
				}
			})
			if err != nil {
				return nil, fmt.Errorf("list %s sockets: %w", kind.proto, err)
			}
		}
	}
	request := make([]byte, unixRequestSize)
	request[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(request[4:], 1<<stateListen)
	binary.NativeEndian.PutUint32(request[12:], unixShowName)
	err := n.ns.diagnose(request, func(answer []byte) {
		if s, ok := unixSocket(answer); ok {
			found = append(found, s)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list unix sockets: %w", err)
	}
	return found, nil
}

// diagnose calls f for each socket that the request selects.
func (n *namespace) diagnose(request []byte, f func(answer []byte)) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_SOCK_DIAG: n.diag}
	req.AddRawData(request)
	err := req.ExecuteIter(unix.NETLINK_SOCK_DIAG, nl.SOCK_DIAG_BY_FAMILY, func(answer []byte) bool {
		f(answer)
		return true
	})
	if errors.Is(err, nl.ErrDumpInterrupted) {
		return nil // sockets came and went meanwhile, as they do anyway
	}
	return err
}

// inetSocket reads a struct inet_diag_msg.
func inetSocket(b []byte) (Socket, bool) {
	if len(b) < inetAnswerSize {
		return Socket{}, false
	}
	addr := netip.AddrFrom16([16]byte(b[8:24]))
	if b[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(b[8:12]))
	}
	port := binary.BigEndian.Uint16(b[4:])
	return Socket{Addr: addr, Port: port, Inode: binary.NativeEndian.Uint32(b[68:])}, port != 0
}

// unixSocket reads a struct unix_diag_msg.
func unixSocket(b []byte) (Socket, bool) {
	if len(b) < unixAnswerSize {
		return Socket{}, false
	}
	path := attribute(b[unixAnswerSize:], unixName)
	if len(path) > 0 && path[0] == 0 {
		path = append([]byte{'@'}, path[1:]...)
	}
	return Socket{Proto: "unix", Path: string(path), Inode: binary.NativeEndian.Uint32(b[4:])}, true
}
