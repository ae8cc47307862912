// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestReachesOutsideMasqueraded(t *testing.T) {
	n := sandbox(t, start(t, Config{}), 0)
	for _, address := range []string{webAddress, farAddress} {
		server := serveTCP(t, internet, address+":80")
		from, err := dialIn(t, n, server.String())
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(from, hostAddress+":") {
			t.Errorf("server sees %s, want %s", from, hostAddress)
		}
	}
}

// attack is a destination that a sandbox must not reach, and the part of the
// table that is in the way.
type attack struct {
	name    string
	ns      func(other *Network) *namespace // where the target listens
	address func(other *Network) string
	layer   func(*Manager, *nftables.Conn)
}

var attacks = []attack{
	{"host's outer address", onHost, at(hostAddress), without("local")},
	{"host's private address", onHost, at(lanHost), without("local")},
	{"service address, other port", onHost, at("198.18.0.1"), without("local")},
	{"host's end of the veth", onHost, at("198.18.0.2"), without("local")},
	{"private network", onLAN, at(lanAddress), withoutDeny},
	{"metadata service", onLAN, at(metadata), withoutDeny},
	{"other sandbox", func(o *Network) *namespace { return o.ns }, func(o *Network) string { return o.address.String() }, without("forward")},
}

func onHost(*Network) *namespace              { return nil }
func onLAN(*Network) *namespace               { return lan }
func at(address string) func(*Network) string { return func(*Network) string { return address } }

// without empties a chain, so that everything passes it.
func without(chain string) func(*Manager, *nftables.Conn) {
	return func(m *Manager, c *nftables.Conn) {
		c.FlushChain(&nftables.Chain{Table: m.firewall.table, Name: chain})
	}
}

func withoutDeny(m *Manager, c *nftables.Conn) {
	c.FlushSet(&nftables.Set{Table: m.firewall.table, Name: "deny"})
}

func weaken(t *testing.T, m *Manager, layer func(*Manager, *nftables.Conn)) {
	t.Helper()
	err := m.firewall.change(func(c *nftables.Conn) error {
		layer(m, c)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAttacksAreRefused(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			m := start(t, Config{})
			n, other := sandbox(t, m, 0), sandbox(t, m, 1)
			ns, address := a.ns(other), a.address(other)
			server := serveTCP(t, ns, address+":4646").String()
			target := listenUDP(t, ns, address+":4646")

			if _, err := dialIn(t, n, server); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("connect: %v, want connection refused", err)
			}
			send(t, n.ns, "", server, "attack")
			if arrives(t, ns, target, "attack") {
				t.Error("a datagram arrives")
			}

			weaken(t, m, a.layer)
			if err := send(t, n.ns, "", server, "attack"); err != nil {
				t.Error("send:", err)
			}
			if !arrives(t, ns, target, "attack") {
				t.Error("nothing arrives without the rules: the test proves nothing")
			}
		})
	}
}

func TestNothingOpensConnectionsIntoSandbox(t *testing.T) {
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	server := serveTCP(t, n.ns, n.address.String()+":8080").String()
	target := listenUDP(t, n.ns, n.address.String()+":8080")
	routeToPool(t, m)
	resolver := listenUDP(t, nil, "198.18.0.1:5353")

	for to, conn := range map[string]*net.UDPConn{server: target, "198.18.0.1:5353": resolver} {
		ns := n.ns
		if conn == resolver {
			ns = nil
		}
		send(t, internet, "", to, "attack")
		if arrives(t, ns, conn, "attack") {
			t.Errorf("a datagram from outside arrives at %s", to)
		}
	}
	weaken(t, m, without("inward"))
	weaken(t, m, without("input"))
	send(t, internet, "", server, "attack")
	send(t, internet, "", "198.18.0.1:5353", "attack")
	if !arrives(t, n.ns, target, "attack") || !arrives(t, nil, resolver, "attack") {
		t.Error("nothing arrives without the rules: the test proves nothing")
	}
}

// routeToPool lets the internet send to the sandboxes by way of the host.
func routeToPool(t *testing.T, m *Manager) {
	t.Helper()
	pool := m.config.Pool
	inside(t, internet, func() error {
		h, err := routeHandle()
		if err != nil {
			return err
		}
		t.Cleanup(h.Close)
		route := &netlink.Route{
			Dst: &net.IPNet{IP: pool.Addr().AsSlice(), Mask: net.CIDRMask(pool.Bits(), 32)},
			Gw:  net.ParseIP(hostAddress),
		}
		t.Cleanup(func() { h.RouteDel(route) })
		return h.RouteAdd(route)
	})
}

// TestHostIsNoRouterForNeighbours: forwarding was turned on for the sandboxes
// only.
func TestHostIsNoRouterForNeighbours(t *testing.T) {
	m := start(t, Config{})
	target := listenUDP(t, lan, lanAddress+":4646")
	inside(t, internet, func() error {
		h, err := routeHandle()
		if err != nil {
			return err
		}
		t.Cleanup(h.Close)
		route := &netlink.Route{Dst: &net.IPNet{IP: net.IPv4(10, 9, 0, 0), Mask: net.CIDRMask(24, 32)}, Gw: net.ParseIP(hostAddress)}
		t.Cleanup(func() { h.RouteDel(route) })
		return h.RouteAdd(route)
	})
	send(t, internet, "", lanAddress+":4646", "attack")
	if arrives(t, lan, target, "attack") {
		t.Error("the host forwards for a neighbour")
	}
	weaken(t, m, without("forward"))
	send(t, internet, "", lanAddress+":4646", "attack")
	if !arrives(t, lan, target, "attack") {
		t.Error("nothing arrives without the rule: the test proves nothing")
	}
}

func TestSpoofedSourceIsDropped(t *testing.T) {
	m := start(t, Config{})
	n, other := sandbox(t, m, 0), sandbox(t, m, 1)
	target := listenUDP(t, internet, webAddress+":4646")
	sources := []string{"198.51.100.99", other.address.String(), "198.18.0.2"}
	inside(t, n.ns, func() error {
		h, err := routeHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		var errs []error
		for _, s := range sources {
			errs = append(errs, addressUp(h, "lo", s+"/32"))
		}
		return errors.Join(errs...)
	})
	for _, s := range sources {
		if err := send(t, n.ns, s+":1000", webAddress+":4646", "spoofed"); err != nil {
			t.Fatal(err)
		}
	}
	if arrives(t, internet, target, "spoofed") {
		t.Error("a spoofed datagram arrives")
	}
	weaken(t, m, without("source"))
	send(t, n.ns, "198.51.100.99:1000", webAddress+":4646", "spoofed")
	if !arrives(t, internet, target, "spoofed") {
		t.Error("nothing arrives without the rule: the test proves nothing")
	}
}

func TestHeaderOptionsAreDropped(t *testing.T) {
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	target := listenUDP(t, internet, webAddress+":4646")
	attack := func() {
		inside(t, n.ns, func() error {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			recordRoute := string([]byte{7, 7, 4, 0, 0, 0, 0, 0})
			if err := unix.SetsockoptString(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, recordRoute); err != nil {
				return err
			}
			to := &unix.SockaddrInet4{Port: 4646, Addr: netip.MustParseAddr(webAddress).As4()}
			return unix.Sendto(fd, []byte("options"), 0, to)
		})
	}
	attack()
	if arrives(t, internet, target, "options") {
		t.Error("a datagram with options arrives")
	}
	weaken(t, m, without("source"))
	attack()
	if !arrives(t, internet, target, "options") {
		t.Error("nothing arrives without the rule: the test proves nothing")
	}
}

func TestNoIPv6(t *testing.T) {
	n := sandbox(t, start(t, Config{}), 0)
	server := serveTCP(t, n.ns, "[::1]:8080")
	if _, err := dialIn(t, n, server.String()); err != nil {
		t.Error("::1 inside:", err)
	}
	if _, err := dialIn(t, n, "[2001:db8::1]:80"); !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("connect by IPv6: %v, want network unreachable", err)
	}
	for where, link := range map[*namespace]string{n.ns: "eth0", nil: "btc6120003"} {
		inside(t, where, func() error {
			h, err := routeHandle()
			if err != nil {
				return err
			}
			defer h.Close()
			l, err := h.LinkByName(link)
			if err != nil {
				return err
			}
			addresses, err := h.AddrList(l, netlink.FAMILY_V6)
			if len(addresses) > 0 {
				t.Errorf("%s has %v", link, addresses)
			}
			return err
		})
	}
}

func TestConnectionRate(t *testing.T) {
	const rate, burst = 1, 20
	m := start(t, Config{ConnRate: rate, ConnBurst: burst})
	n, quiet := sandbox(t, m, 0), sandbox(t, m, 1)
	target := listenUDP(t, internet, webAddress+":4646")
	began := time.Now()
	const flows = 100
	for range flows {
		send(t, n.ns, "", webAddress+":4646", "flow") // a new source port each
	}
	allowed := burst + rate*int(time.Since(began)/time.Second+1)
	send(t, quiet.ns, "", webAddress+":4646", "neighbour")
	seen, neighbour := 0, false
	send(t, internet, "", webAddress+":4646", "the end")
	for {
		text, _ := receive(t, target)
		if text == "the end" {
			break
		}
		seen += strings.Count(text, "flow")
		neighbour = neighbour || text == "neighbour"
	}
	if seen < burst || seen > allowed {
		t.Errorf("%d of %d flows arrive, want %d to %d", seen, flows, burst, allowed)
	}
	if !neighbour {
		t.Error("a neighbour is held up too")
	}
}

func TestOpenConnectionsMax(t *testing.T) {
	const most = 10
	n := sandbox(t, start(t, Config{ConnMax: most}), 0)
	var l net.Listener
	inside(t, internet, func() (err error) {
		l, err = net.Listen("tcp", webAddress+":80")
		return err
	})
	defer l.Close()
	var open []net.Conn
	for range most {
		conn, err := n.DialContext(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatalf("connection %d: %v", len(open)+1, err)
		}
		defer conn.Close()
		open = append(open, conn)
	}
	target := listenUDP(t, internet, webAddress+":4646")
	send(t, n.ns, "", webAddress+":4646", "one more")
	if arrives(t, internet, target, "one more") {
		t.Error("more connections than allowed")
	}
	for _, conn := range open {
		conn.(*net.TCPConn).SetLinger(0) // closed at once, on both sides
		conn.Close()
	}
	deadline := time.Now().Add(testDeadline)
	for {
		send(t, n.ns, "", webAddress+":4646", "one more")
		if arrives(t, internet, target, "one more") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("closed connections still count")
		}
	}
}

func TestModeNone(t *testing.T) {
	m := start(t, Config{})
	n, err := m.Create(t.Context(), 0, Policy{Mode: ModeNone})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Destroy()
	if n.Address().IsValid() {
		t.Errorf("address %s, want none", n.Address())
	}
	if _, err := dialIn(t, n, webAddress+":80"); !errors.Is(err, syscall.ENETUNREACH) {
		t.Errorf("connect: %v, want network unreachable", err)
	}
	server := serveTCP(t, n.ns, "127.0.0.1:8080")
	if _, err := dialIn(t, n, server.String()); err != nil {
		t.Error(err)
	}
}

// TestForeignDropIsNamed: what another table drops stays dropped, and New can
// name the chain.
func TestForeignDropIsNamed(t *testing.T) {
	conn, err := nftConn()
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Name: "other", Family: nftables.TableFamilyIPv4})
	policy := nftables.ChainPolicyDrop
	conn.AddChain(&nftables.Chain{
		Name: "FORWARD", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &policy,
	})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		conn.DelTable(table)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	}()
	if found := foreignDrops(); len(found) != 1 || found[0] != "other FORWARD" {
		t.Errorf("found %q", found)
	}
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	target := listenUDP(t, internet, webAddress+":4646")
	send(t, n.ns, "", webAddress+":4646", "out")
	if arrives(t, internet, target, "out") {
		t.Error("the other table's policy has no effect: the documentation is wrong")
	}
}
