// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The tests run in a network namespace of their own, which plays the host, so
// that they change nothing of the machine's network and can look for what is
// left. Around it are two more:
//
//	internet  203.0.113.10, and 198.51.100.7 behind the default route; knows
//	          no way back to the pool, so only masqueraded packets are answered
//	lan       10.9.0.53 with the name server, and the metadata address
const (
	inNamespace  = "BUNTIME_NETWORK_TEST"
	hostAddress  = "203.0.113.1"
	webAddress   = "203.0.113.10"
	farAddress   = "198.51.100.7"
	lanHost      = "10.9.0.1"
	lanAddress   = "10.9.0.53"
	metadata     = "169.254.169.254"
	nameServer   = lanAddress + ":53"
	outwardLink  = "up0"
	testDeadline = 5 * time.Second
)

var (
	internet, lan *namespace
	world         *Manager // only to enter namespaces with
)

func TestMain(m *testing.M) {
	if os.Getenv(inNamespace) == "" {
		os.Exit(runInNamespace())
	}
	if err := makeWorld(); err != nil {
		fmt.Fprintln(os.Stderr, "make the tests' network:", err)
		os.Exit(1)
	}
	code := m.Run()
	if err := allThreadsHome(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// runInNamespace starts the test binary again as a process in a new network
// namespace, where all its threads are.
func runInNamespace() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start tests in a network namespace (root is needed):", err)
		return 1
	}
	return 0
}

func makeWorld() (err error) {
	world = &Manager{config: Config{}.withDefaults()}
	if world.host, err = hostNamespace(); err != nil {
		return err
	}
	if err := loopbackUp(); err != nil {
		return err
	}
	// A new namespace has this from the machine, which may be a router.
	if err := setSysctls([]sysctl{{forwardingKey("all"), "0"}}); err != nil {
		return err
	}
	if internet, err = neighbour(outwardLink, hostAddress, webAddress, farAddress); err != nil {
		return err
	}
	if lan, err = neighbour("lan0", lanHost, lanAddress, metadata); err != nil {
		return err
	}
	host, err := routeHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	return errors.Join(
		host.RouteAdd(&netlink.Route{Gw: net.ParseIP(webAddress)}),
		host.RouteAdd(&netlink.Route{Dst: &net.IPNet{IP: net.ParseIP(metadata).To4(), Mask: net.CIDRMask(32, 32)}, Gw: net.ParseIP(lanAddress)}),
	)
}

// neighbour makes a namespace beside the host, in the same /24, with one more
// address on its lo.
func neighbour(link, hostAddress, address, more string) (*namespace, error) {
	ns, err := world.newNamespace()
	if err != nil {
		return nil, err
	}
	host, err := routeHandle()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = link
	veth := netlink.NewVeth(attrs)
	veth.PeerName = "eth0"
	veth.PeerNamespace = netlink.NsFd(int(ns.file.Fd()))
	if err := host.LinkAdd(veth); err != nil {
		return nil, err
	}
	if err := addressUp(host, link, hostAddress+"/24"); err != nil {
		return nil, err
	}
	return ns, world.within(ns.file, func() error {
		guest, err := routeHandle()
		if err != nil {
			return err
		}
		defer guest.Close()
		return errors.Join(addressUp(guest, "eth0", address+"/24"), addressUp(guest, "lo", more+"/32"))
	})
}

func addressUp(h *netlink.Handle, link, cidr string) error {
	l, err := h.LinkByName(link)
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr(cidr)
	if err != nil {
		return err
	}
	return errors.Join(h.AddrAdd(l, address), h.LinkSetUp(l))
}

// allThreadsHome reports a thread left in another namespace.
func allThreadsHome() error {
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil {
		return err
	}
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		if ns, err := os.Readlink(task); err == nil && ns != home {
			return fmt.Errorf("thread %s is in %s, not in %s", task, ns, home)
		}
	}
	return nil
}

// start makes a Manager for one test, which leaves nothing behind.
func start(t testing.TB, config Config) *Manager {
	t.Helper()
	if config.Resolvers == nil {
		config.Resolvers = []netip.AddrPort{netip.MustParseAddrPort(nameServer)}
	}
	m, err := New(config, hclog.New(&hclog.LoggerOptions{Output: testWriter{t}, Level: hclog.Info}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(true); err != nil {
			t.Error(err)
		}
	})
	return m
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", b)
	return len(b), nil
}

// sandbox makes the network of a sandbox for one test.
func sandbox(t testing.TB, m *Manager, slot int) *Network {
	t.Helper()
	return sandboxWith(t, m, slot, Policy{Mode: ModeInternet})
}

func sandboxWith(t testing.TB, m *Manager, slot int, policy Policy) *Network {
	t.Helper()
	n, err := m.Create(t.Context(), slot, policy)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Destroy)
	return n
}

// inside runs f in a namespace, nil for the host's.
func inside(t testing.TB, ns *namespace, f func() error) {
	t.Helper()
	file := world.host
	if ns != nil {
		file = ns.file
	}
	if err := world.within(file, f); err != nil {
		t.Fatal(err)
	}
}

// serveTCP answers every connection in ns with the address that it came from.
func serveTCP(t testing.TB, ns *namespace, address string) netip.AddrPort {
	t.Helper()
	var l net.Listener
	inside(t, ns, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(conn, conn.RemoteAddr())
			conn.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// listenUDP opens a socket in ns.
func listenUDP(t testing.TB, ns *namespace, address string) *net.UDPConn {
	t.Helper()
	var conn net.PacketConn
	inside(t, ns, func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UDPConn)
}

// send sends a datagram from ns, from a certain address if from is given.
func send(t testing.TB, ns *namespace, from, to, text string) error {
	t.Helper()
	var failed error
	inside(t, ns, func() error {
		var local *net.UDPAddr
		if from != "" {
			local = net.UDPAddrFromAddrPort(netip.MustParseAddrPort(from))
		}
		conn, err := net.DialUDP("udp", local, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to)))
		if err != nil {
			failed = err
			return nil
		}
		defer conn.Close()
		_, failed = conn.Write([]byte(text))
		return nil
	})
	return failed
}

// receive reads the next datagram.
func receive(t testing.TB, conn *net.UDPConn) (text string, from netip.AddrPort) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(testDeadline))
	b := make([]byte, 2000)
	n, from, err := conn.ReadFromUDPAddrPort(b)
	if err != nil {
		t.Fatal(err)
	}
	return string(b[:n]), from
}

// arrives reports whether a datagram that was sent before is at conn. It sends
// another after it, from the socket's own namespace, instead of waiting.
func arrives(t testing.TB, ns *namespace, conn *net.UDPConn, want string) bool {
	t.Helper()
	if err := send(t, ns, "", conn.LocalAddr().String(), "the end"); err != nil {
		t.Fatal(err)
	}
	seen := false
	for {
		text, _ := receive(t, conn)
		if text == "the end" {
			return seen
		}
		seen = seen || text == want
	}
}

// dialIn connects from within the sandbox and returns what the server says.
func dialIn(t testing.TB, n *Network, address string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testDeadline)
	defer cancel()
	conn, err := n.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(testDeadline))
	b := make([]byte, 100)
	count, err := conn.Read(b)
	return string(b[:count]), err
}
