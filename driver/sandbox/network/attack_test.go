// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// protocol is a way to send something to an address. In the tests the sandbox
// may open raw sockets, which one for real may not.
type protocol struct {
	name string
	// reaches reports whether it arrives at address, in ns.
	reaches func(t testing.TB, n *Network, ns *namespace, address string) bool
}

var protocols = []protocol{
	{"TCP", func(t testing.TB, n *Network, ns *namespace, address string) bool {
		return reaches(t, n, serveTCP(t, ns, address+":0").String())
	}},
	{"UDP", func(t testing.TB, n *Network, ns *namespace, address string) bool {
		socket := listenUDP(t, ns, address+":0")
		send(t, n.ns, "", socket.LocalAddr().String(), "attack")
		return arrives(t, ns, socket, "attack")
	}},
	{"ICMP", func(t testing.TB, n *Network, ns *namespace, address string) bool {
		return rawArrives(t, n, ns, "ip4:icmp", address, echoRequest)
	}},
	{"another protocol", func(t testing.TB, n *Network, ns *namespace, address string) bool {
		return rawArrives(t, n, ns, "ip4:253", address, func(text string) []byte { return []byte(text) }) // for experiments, RFC 3692
	}},
}

// rawArrives sends a packet from the sandbox, and another from ns after it.
func rawArrives(t testing.TB, n *Network, ns *namespace, network, address string, packet func(string) []byte) bool {
	t.Helper()
	var listener net.PacketConn
	inside(t, ns, func() (err error) {
		listener, err = net.ListenPacket(network, address)
		return err
	})
	defer listener.Close()
	sendRaw := func(from *namespace, text string) {
		inside(t, from, func() error {
			conn, err := net.Dial(network, address)
			if err != nil {
				return err
			}
			defer conn.Close()
			_, err = conn.Write(packet(text))
			if errors.Is(err, unix.EPERM) {
				return nil // refused at once
			}
			return err
		})
	}
	sendRaw(n.ns, "attack")
	sendRaw(ns, "the end")
	listener.SetReadDeadline(time.Now().Add(testDeadline))
	seen := false
	b := make([]byte, 2000)
	for {
		count, _, err := listener.ReadFrom(b)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.HasSuffix(b[:count], []byte("the end")) {
			return seen
		}
		seen = seen || bytes.HasSuffix(b[:count], []byte("attack"))
	}
}

// echoRequest is an ICMP message (RFC 792).
func echoRequest(text string) []byte {
	b := append([]byte{8, 0, 0, 0, 0x12, 0x34, 0, 1}, text...)
	sum := uint32(0)
	for i := range b {
		sum += uint32(b[i]) << (8 * (1 - i%2))
	}
	sum = sum>>16 + sum&0xffff
	binary.BigEndian.PutUint16(b[2:], ^uint16(sum+sum>>16))
	return b
}

// publishing is a rule that sends connections to a TCP port of an address on.
func publishing(address string, number uint16, server netip.AddrPort) []expr.Any {
	return join(
		destination(netip.MustParseAddr(address)), port(unix.IPPROTO_TCP, destinationPort, number),
		match{
			&expr.Immediate{Register: 1, Data: server.Addr().AsSlice()},
			&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(server.Port())},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
		})
}

// TestEveryAddressOfTheHost is refused by every protocol.
func TestEveryAddressOfTheHost(t *testing.T) {
	m := start(t, Config{Allow: prefixes(t, "10.0.0.0/8")})
	n, other := sandbox(t, m, 0), sandbox(t, m, 1)
	h, err := routeHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	addresses, err := h.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	check := func(want bool) {
		for _, a := range addresses {
			if a.IP.IsLoopback() {
				continue // the sandbox's own
			}
			checked++
			for _, p := range protocols {
				if got := p.reaches(t, n, nil, a.IP.String()); got != want {
					t.Errorf("%s reaches %s: %v, want %v", p.name, a.IP, got, want)
				}
			}
		}
	}
	check(false)
	if checked < 5 { // two interfaces, two sandboxes, the resolver's
		t.Errorf("%d addresses of the host, other sandbox %s", checked, other.Address())
	}
	weaken(t, m, without("local"))
	check(true)
}

// TestClosedRanges has a server in each range that is closed by default.
func TestClosedRanges(t *testing.T) {
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	for _, target := range []string{
		"10.20.30.40", "100.64.1.2", "172.16.0.9", "172.31.255.254", "192.0.0.8", "192.168.1.1",
		metadata, "169.254.170.2", "169.254.169.123", "100.100.100.200", "168.63.129.16", "192.0.0.192",
	} {
		t.Run(target, func(t *testing.T) {
			onTheLAN(t, target)
			if err := m.firewall.install(); err != nil {
				t.Fatal(err)
			}
			for _, p := range protocols {
				if p.reaches(t, n, lan, target) {
					t.Errorf("reached by %s", p.name)
				}
			}
			weaken(t, m, withoutDeny)
			for _, p := range protocols {
				if !p.reaches(t, n, lan, target) {
					t.Errorf("not reached by %s without the rules: the test proves nothing", p.name)
				}
			}
		})
	}
}

// onTheLAN gives the lan one more address, which the host has a route to.
func onTheLAN(t *testing.T, address string) {
	t.Helper()
	forwardFromLAN(t)
	if address == metadata {
		return // is there
	}
	one := &net.IPNet{IP: net.ParseIP(address).To4(), Mask: net.CIDRMask(32, 32)}
	inside(t, lan, func() error {
		h, err := routeHandle()
		if err != nil {
			return err
		}
		t.Cleanup(h.Close)
		a := &netlink.Addr{IPNet: one}
		t.Cleanup(func() { h.AddrDel(loopback, a) })
		return h.AddrAdd(loopback, a)
	})
	h, err := routeHandle()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Close)
	route := &netlink.Route{Dst: one, Gw: net.ParseIP(lanAddress)}
	t.Cleanup(func() { h.RouteDel(route) })
	if err := h.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
}

// forwardFromLAN lets answers of the lan through, as on a host whose
// interfaces forward for others' sake.
func forwardFromLAN(t *testing.T) {
	t.Helper()
	if err := setSysctls([]sysctl{{forwardingKey("lan0"), "1"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := setSysctls([]sysctl{{forwardingKey("lan0"), "0"}}); err != nil {
			t.Error(err)
		}
	})
}

// TestIPv6Attacks: with IPv6 turned on in a sandbox against all rules, still
// nothing passes the host.
func TestIPv6Attacks(t *testing.T) {
	const metadata6, host6, guest6, lan6, inner6 = "fd00:ec2::254", "fd00:9::1", "fd00:7::2", "fd00:9::53", "fd00:7::1"
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	for _, address := range []string{metadata6, "fe80::a9fe:a9fe", host6, "2001:db8::1", "64:ff9b::a9fe:a9fe"} {
		if _, err := dialIn(t, n, "["+address+"]:80"); err == nil {
			t.Errorf("%s is reached", address)
		}
	}
	link := m.config.linkName(0)
	withIPv6(t, nil, "lan0", host6)
	withIPv6(t, lan, "eth0", lan6, metadata6)
	withIPv6(t, nil, link, inner6)
	withIPv6(t, n.ns, "eth0", guest6)
	neighbour6(t, n.ns, "eth0", inner6, hardwareAddress(t, nil, link))
	neighbour6(t, nil, link, guest6, hardwareAddress(t, n.ns, "eth0"))
	neighbour6(t, nil, "lan0", lan6, hardwareAddress(t, lan, "eth0"))
	neighbour6(t, lan, "eth0", host6, hardwareAddress(t, nil, "lan0"))
	route6(t, n.ns, inner6)
	route6(t, lan, host6)
	onHost6(t)
	h, err := routeHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	one := &net.IPNet{IP: net.ParseIP(metadata6), Mask: net.CIDRMask(128, 128)}
	if err := h.RouteAdd(&netlink.Route{Dst: one, Gw: net.ParseIP(lan6)}); err != nil {
		t.Fatal(err)
	}
	defer h.RouteDel(&netlink.Route{Dst: one, Gw: net.ParseIP(lan6)})

	targets := map[string]*net.UDPConn{
		metadata6: listenUDP(t, lan, "["+metadata6+"]:80"),
		host6:     listenUDP(t, nil, "["+host6+"]:80"),
	}
	// The kernel drops a packet now and then while its new addresses settle.
	eventually := func(address, from string) bool {
		ns, to := map[string]*namespace{metadata6: lan}[address], "["+address+"]:80"
		sender := map[string]*namespace{"the sandbox": n.ns, "its own host": ns}[from]
		for deadline := time.Now().Add(testDeadline); time.Now().Before(deadline); {
			send(t, sender, "", to, from)
			targets[address].SetReadDeadline(time.Now().Add(100 * time.Millisecond))
			b := make([]byte, 100)
			if count, err := targets[address].Read(b); err == nil && string(b[:count]) == from {
				return true
			}
		}
		return false
	}
	for address := range targets {
		if !eventually(address, "its own host") {
			t.Fatalf("nothing arrives at %s at all", address)
		}
	}
	for address, socket := range targets {
		ns := map[string]*namespace{metadata6: lan}[address]
		for range 10 {
			send(t, n.ns, "", "["+address+"]:80", "the sandbox")
		}
		if arrives(t, ns, socket, "the sandbox") {
			t.Errorf("a datagram arrives at %s", address)
		}
	}
	for _, chain := range []string{"source", "local", "outward"} {
		weaken(t, m, without(chain))
	}
	for address := range targets {
		if !eventually(address, "the sandbox") {
			t.Errorf("nothing arrives at %s without the rules: the test proves nothing", address)
		}
	}
}

// withIPv6 turns IPv6 on for a link and gives it addresses.
func withIPv6(t *testing.T, ns *namespace, link string, addresses ...string) {
	t.Helper()
	key := "ipv6/conf/" + link + "/disable_ipv6"
	inside(t, ns, func() error {
		before, err := os.ReadFile("/proc/sys/net/" + key)
		if err != nil {
			return err
		}
		t.Cleanup(func() {
			inside(t, ns, func() error {
				_ = setSysctls([]sysctl{{key, string(bytes.TrimSpace(before))}}) // the sandbox's may be gone
				return nil
			})
		})
		h, err := routeHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName(link)
		if err != nil {
			return err
		}
		errs := []error{setSysctls([]sysctl{{key, "0"}})}
		for _, a := range addresses {
			// Without duplicate address detection, which takes a second.
			address := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP(a), Mask: net.CIDRMask(64, 128)}, Flags: unix.IFA_F_NODAD}
			errs = append(errs, h.AddrReplace(l, address))
		}
		return errors.Join(errs...)
	})
}

// route6 is the way to everything else by IPv6.
func route6(t *testing.T, ns *namespace, gateway string) {
	t.Helper()
	inside(t, ns, func() error {
		h, err := routeHandle()
		if err != nil {
			return err
		}
		t.Cleanup(h.Close)
		route := &netlink.Route{Gw: net.ParseIP(gateway)}
		t.Cleanup(func() { h.RouteDel(route) })
		return h.RouteAdd(route)
	})
}

// hardwareAddress is that of a link.
func hardwareAddress(t *testing.T, ns *namespace, link string) (mac net.HardwareAddr) {
	t.Helper()
	inside(t, ns, func() error {
		h, err := routeHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName(link)
		if err != nil {
			return err
		}
		mac = l.Attrs().HardwareAddr
		return nil
	})
	return mac
}

// neighbour6 spares the search for a neighbour, during which packets wait.
func neighbour6(t *testing.T, ns *namespace, link, address string, mac net.HardwareAddr) {
	t.Helper()
	inside(t, ns, func() error {
		h, err := routeHandle()
		if err != nil {
			return err
		}
		defer h.Close()
		l, err := h.LinkByName(link)
		if err != nil {
			return err
		}
		return h.NeighSet(&netlink.Neigh{LinkIndex: l.Attrs().Index, IP: net.ParseIP(address), HardwareAddr: mac, State: netlink.NUD_PERMANENT})
	})
}

// onHost6 makes the host a router of IPv6, as some are.
func onHost6(t *testing.T) {
	t.Helper()
	if err := setSysctls([]sysctl{{"ipv6/conf/all/forwarding", "1"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := setSysctls([]sysctl{{"ipv6/conf/all/forwarding", "0"}}); err != nil {
			t.Error(err)
		}
	})
}

// TestScanner: a sandbox that tries one address after the other is held to the
// rate, whatever it uses, and without the limit it is not.
func TestScanner(t *testing.T) {
	const burst, probes = 20, 200
	scan := func(rate uint32) int {
		m := start(t, Config{ConnRate: rate, ConnBurst: burst})
		defer m.Close(true)
		n := sandbox(t, m, 0)
		defer n.Destroy()
		target := listenUDP(t, internet, webAddress+":4646")
		defer target.Close()
		for range probes {
			send(t, n.ns, "", webAddress+":4646", "probe")
		}
		send(t, internet, "", webAddress+":4646", "the end")
		for seen := 0; ; seen++ {
			if text, _ := receive(t, target); text == "the end" {
				return seen
			}
		}
	}
	began := time.Now()
	if seen := scan(1); seen < burst || seen > burst+int(time.Since(began)/time.Second)+1 {
		t.Errorf("%d of %d probes pass, want %d", seen, probes, burst)
	}
	if seen := scan(1 << 20); seen != probes {
		t.Errorf("%d of %d probes pass without the limit: the test proves nothing", seen, probes)
	}
}

// TestClosedPortsAreAnErrorAtOnce: what is refused does not hold a program up.
func TestClosedPortsAreAnErrorAtOnce(t *testing.T) {
	m := start(t, Config{})
	for slot, p := range []Policy{{Mode: ModeInternet}, policy(t, "example.com")} {
		n := sandboxWith(t, m, slot, p)
		began := time.Now()
		_, err := dialIn(t, n, metadata+":80")
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > testDeadline/2 {
			t.Errorf("%s: %v after %s", p.Mode, err, time.Since(began))
		}
	}
}
