// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"syscall"
	"testing"
	"time"
)

func TestDialContext(t *testing.T) {
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	for _, address := range []string{"127.0.0.1:8080", "[::1]:8081", n.Address().String() + ":8082"} {
		server := serveTCP(t, n.ns, address)
		if from, err := dialIn(t, n, server.String()); err != nil {
			t.Errorf("dial %s: %v", server, err)
		} else if host, _, _ := net.SplitHostPort(from); host != server.Addr().String() {
			t.Errorf("dial %s: server sees %s", server, from)
		}
	}
	for address, want := range map[string]error{
		"127.0.0.1:1": syscall.ECONNREFUSED,
		"[::1]:1":     syscall.ECONNREFUSED,
	} {
		_, err := n.DialContext(t.Context(), "tcp", address)
		var op *net.OpError
		if !errors.Is(err, want) || !errors.As(err, &op) {
			t.Errorf("dial %s: %v, want %v", address, err, want)
		}
	}
	for network, address := range map[string]string{"udp": "127.0.0.1:80", "tcp4": "[::1]:80", "tcp6": "127.0.0.1:80", "tcp": "localhost:80"} {
		if _, err := n.DialContext(t.Context(), network, address); err == nil {
			t.Errorf("dial %s %s: no error", network, address)
		}
	}
}

// TestDialWaitsForContext: nothing answers, as the listener's queue is full.
func TestDialWaitsForContext(t *testing.T) {
	n := sandbox(t, start(t, Config{}), 0)
	var fd int
	inside(t, n.ns, func() (err error) {
		fd, err = syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		return errors.Join(err, syscall.Bind(fd, &syscall.SockaddrInet4{Port: 8080, Addr: [4]byte{127, 0, 0, 1}}), syscall.Listen(fd, 0))
	})
	defer syscall.Close(fd)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for range 5 {
		conn, err := n.DialContext(ctx, "tcp", "127.0.0.1:8080")
		if errors.Is(err, context.DeadlineExceeded) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	t.Error("a full queue lets everybody in")
}

func TestListening(t *testing.T) {
	n := sandbox(t, start(t, Config{}), 0)
	first := serveTCP(t, n.ns, "127.0.0.1:8080")
	serveTCP(t, n.ns, "[::]:3000")
	listenUDP(t, n.ns, "127.0.0.1:5353")
	inside(t, n.ns, func() error {
		l, err := net.Listen("unix", "@app")
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	})
	if _, err := dialIn(t, n, first.String()); err != nil {
		t.Fatal(err)
	}
	sockets, err := n.Listening()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range sockets {
		if s.Inode == 0 {
			t.Errorf("%v has no inode", s)
		}
		got = append(got, fmt.Sprintf("%s %s %d %s", s.Proto, s.Addr, s.Port, s.Path))
	}
	slices.Sort(got)
	want := []string{
		"tcp 127.0.0.1 8080 ",
		"tcp :: 3000 ",
		"udp 127.0.0.1 5353 ",
		"unix invalid IP 0 @app",
	}
	if !slices.Equal(got, want) {
		t.Errorf("listening: %q, want %q", got, want)
	}
}
