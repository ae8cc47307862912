// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Place is where requests go that may share a connection.
type Place struct {
	ID     string
	Number uint64
}

// Pool keeps connections by place. Nobody reads from those that it keeps: whether they
// are good still is looked at when one is taken.
type Pool struct {
	// Dial makes a connection, and may return lines that every request over it has.
	Dial func(ctx context.Context, p Place) (_ net.Conn, lines []byte, err error)
	// Each is how many are kept for a place, All how many in all, For how long.
	Each, All int
	For       time.Duration

	// unfit: what Dial makes are no TCP connections.
	unfit atomic.Bool

	mu     sync.Mutex
	kept   map[Place][]*upstream // the last one was used last
	count  int
	timer  *time.Timer // nil: nothing is kept
	closed bool
}

// upstream is a connection to who answers.
type upstream struct {
	*socket
	tcp   *net.TCPConn
	conn  net.Conn // tcp, or TLS over it
	place Place
	lines []byte
	at    time.Time // when it was kept
	used  bool

	check func(fd uintptr) bool
	good  bool
}

// close closes the connection without a word: TLS's last one might have to wait.
func (u *upstream) close() { u.tcp.Close() }

var errUnfit = errors.New("the relay passes to connections of TCP and TLS alone")

// Unfit says that nothing can be passed over this pool's connections.
func (p *Pool) Unfit() bool { return p.unfit.Load() }

// take returns a connection that was kept, or a new one.
func (p *Pool) take(ctx context.Context, place Place, fresh bool) (*upstream, error) {
	for !fresh {
		u := p.last(place)
		if u == nil {
			break
		}
		if u.quiet() {
			return u, nil
		}
		u.close()
	}
	conn, lines, err := p.Dial(ctx, place)
	if err != nil {
		return nil, err
	}
	inner := conn
	if secured, ok := conn.(*tls.Conn); ok {
		inner = secured.NetConn()
	}
	tcp, ok := inner.(*net.TCPConn)
	if !ok {
		p.unfit.Store(true)
		conn.Close()
		return nil, errUnfit
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		conn.Close()
		return nil, err
	}
	u := &upstream{socket: newSocket(raw, conn, &records), conn: conn, tcp: tcp, place: place, lines: lines}
	u.check = u.look
	return u, nil
}

func (p *Pool) last(place Place) *upstream {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.kept[place]
	if len(list) == 0 {
		return nil
	}
	u := list[len(list)-1]
	list[len(list)-1] = nil
	p.kept[place] = list[:len(list)-1] // an empty list goes with the next round
	p.count--
	return u
}

// quiet says whether nothing has come over a connection that was not asked for, and no
// end of it.
func (u *upstream) quiet() bool {
	return u.raw.Read(u.check) == nil && u.good
}

func (u *upstream) look(fd uintptr) bool {
	_, _, err := syscall.Recvfrom(int(fd), u.byte[:], syscall.MSG_PEEK)
	u.good = err == syscall.EAGAIN
	return true
}

// put keeps a connection for the next request.
func (p *Pool) put(u *upstream) {
	u.used, u.at = true, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.kept[u.place]) >= p.Each || p.count >= p.All {
		u.close()
		return
	}
	if p.kept == nil {
		p.kept = make(map[Place][]*upstream)
	}
	p.kept[u.place] = append(p.kept[u.place], u)
	p.count++
	if p.timer == nil {
		p.timer = time.AfterFunc(p.For, p.sweep)
	}
}

// sweep closes what was not used for long.
func (p *Pool) sweep() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.timer = nil
	if p.closed {
		return
	}
	now := time.Now()
	oldest := now
	for place, list := range p.kept {
		n := 0
		for n < len(list) && now.Sub(list[n].at) >= p.For {
			list[n].close()
			n++
		}
		p.count -= n
		if list = append(list[:0:0], list[n:]...); len(list) == 0 {
			delete(p.kept, place)
			continue
		}
		p.kept[place] = list
		if list[0].at.Before(oldest) {
			oldest = list[0].at
		}
	}
	if p.count > 0 {
		p.timer = time.AfterFunc(p.For-now.Sub(oldest), p.sweep)
	}
}

// Close closes what is kept, and keeps nothing more.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.timer != nil {
		p.timer.Stop()
	}
	for _, list := range p.kept {
		for _, u := range list {
			u.close()
		}
	}
	p.kept, p.count = nil, 0
}
