// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door

import (
	"net"
	"net/netip"
	"sync"
)

// Room is how many connections a listener has room for.
type Room struct {
	// All is for all clients together, Each for one: an IPv4 address, or the /64
	// of an IPv6 address. 0 is no limit.
	All, Each int
	// Exempt clients, such as proxies of one's own, count towards All alone.
	Exempt Networks
	// Open, if set, is told of each connection that is let in (1) or closed (-1), and
	// Refused of each that is not let in: whether for All, or for Each.
	Open    func(change int)
	Refused func(all bool)
}

// Limit makes a listener that closes at once the connections that it has no
// room for.
func Limit(l net.Listener, room Room) net.Listener {
	if room.Open == nil {
		room.Open = func(int) {}
	}
	if room.Refused == nil {
		room.Refused = func(bool) {}
	}
	return &listener{Listener: l, room: room, by: map[netip.Prefix]int{}}
}

type listener struct {
	net.Listener
	room Room

	mu  sync.Mutex
	all int
	by  map[netip.Prefix]int
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		client := Client(c.RemoteAddr().String())
		if l.enter(client) {
			return &conn{Conn: c, leave: sync.OnceFunc(func() { l.leave(client) })}, nil
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0) // a reset keeps nothing of it in the kernel
		}
		c.Close()
	}
}

func (l *listener) enter(client netip.Prefix) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.room.All > 0 && l.all >= l.room.All {
		l.room.Refused(true)
		return false
	}
	if l.room.Each > 0 && l.by[client] >= l.room.Each && !l.room.Exempt.Contain(client.Addr()) {
		l.room.Refused(false)
		return false
	}
	l.room.Open(1)
	l.all++
	l.by[client]++
	return true
}

func (l *listener) leave(client netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.room.Open(-1)
	l.all--
	if l.by[client]--; l.by[client] == 0 {
		delete(l.by, client)
	}
}

// conn makes room when it is closed.
type conn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *conn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// NetConn is the connection below.
func (c *conn) NetConn() net.Conn { return c.Conn }

// CloseWrite is how net/http lets a client read an answer to its end.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}
