// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
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

// live starts a process in a sandbox's namespace, as init would be.
func live(t *testing.T, n *Network) int {
	t.Helper()
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	inside(t, n.ns, cmd.Start)
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	return cmd.Process.Pid
}

// TestOpenAfterRestart: the sandbox of a process that ended is found again,
// with its network unchanged.
func TestOpenAfterRestart(t *testing.T) {
	serveNames(t, nameServer)
	server := serveTCP(t, internet, webAddress+":80").String()
	first := start(t, Config{})
	n := sandbox(t, first, 7)
	pid := live(t, n)
	app := serveTCP(t, n.ns, "127.0.0.1:8080").String()
	n.Close()
	if err := first.Close(false); err != nil {
		t.Fatal(err)
	}

	m := start(t, Config{})
	found, err := m.Open(t.Context(), 7, pid, Policy{Mode: ModeInternet})
	if err != nil {
		t.Fatal(err)
	}
	defer found.Destroy()
	for _, address := range []string{app, server} {
		if _, err := dialIn(t, found, address); err != nil {
			t.Error(err)
		}
	}
	if answer, err := lookUp(t, found, "udp", "example.com.", dns.TypeA); err != nil || len(answer.Answer) != 1 {
		t.Errorf("answer %v, error %v", answer, err)
	}
	if sockets, err := found.Listening(); err != nil || len(sockets) != 1 {
		t.Errorf("listening %v, error %v", sockets, err)
	}
	if err := m.Sweep(nil); err != nil {
		t.Error(err)
	}
	if _, err := dialIn(t, found, server); err != nil {
		t.Error("after a sweep:", err)
	}
}

func TestOpenRefuses(t *testing.T) {
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	pid := live(t, n)
	for name, open := range map[string]func() (*Network, error){
		"the host's namespace":   func() (*Network, error) { return m.Open(t.Context(), 1, os.Getpid(), Policy{Mode: ModeInternet}) },
		"another slot's process": func() (*Network, error) { return m.Open(t.Context(), 1, pid, Policy{Mode: ModeInternet}) },
		"no process":             func() (*Network, error) { return m.Open(t.Context(), 1, 1<<22+1, Policy{Mode: ModeInternet}) },
		"a slot in use":          func() (*Network, error) { return m.Open(t.Context(), 0, pid, Policy{Mode: ModeInternet}) },
		"a file":                 func() (*Network, error) { return m.Join("/etc/hosts") },
		"another namespace":      func() (*Network, error) { return m.Join("/proc/self/ns/pid") },
	} {
		if n, err := open(); err == nil {
			n.Close()
			t.Errorf("%s: no error", name)
		}
	}
	sandbox(t, m, 1) // the failures left nothing
}

func TestJoin(t *testing.T) {
	m := start(t, Config{})
	other := sandbox(t, m, 0)
	server := serveTCP(t, other.ns, "127.0.0.1:8080").String()
	n, err := m.Join(fmt.Sprintf("/proc/%d/ns/net", live(t, other)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dialIn(t, n, server); err != nil {
		t.Error(err)
	}
	n.Destroy()
	if _, err := dialIn(t, other, server); err != nil {
		t.Error("after the end of who joined:", err)
	}
}

func TestCreate(t *testing.T) {
	m := start(t, Config{Ready: 2})
	n := sandbox(t, m, 0)
	if _, err := m.Create(t.Context(), 0, Policy{Mode: ModeInternet}); !errors.Is(err, ErrBusy) {
		t.Errorf("slot in use: %v", err)
	}
	for _, slot := range []int{-1, m.Slots()} {
		if _, err := m.Create(t.Context(), slot, Policy{Mode: ModeInternet}); !errors.Is(err, ErrSlot) {
			t.Errorf("slot %d: %v", slot, err)
		}
	}
	if _, err := m.Create(t.Context(), 1, Policy{}); err == nil {
		t.Error("no mode: no error")
	}
	last := sandbox(t, m, m.Slots()-1)
	if want := "198.19.255.255"; last.Address().String() != want {
		t.Errorf("last address %s, want %s", last.Address(), want)
	}
	n.Destroy()
	server := serveTCP(t, internet, webAddress+":80").String()
	if _, err := dialIn(t, sandbox(t, m, 0), server); err != nil {
		t.Error("slot used again:", err)
	}
}

// TestCreateReplacesWhatADeadSandboxLeft: its process ended without a word and
// something still holds the namespace.
func TestCreateReplacesWhatADeadSandboxLeft(t *testing.T) {
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	held, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", live(t, n)))
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	n.Close()
	server := serveTCP(t, internet, webAddress+":80").String()
	if _, err := dialIn(t, sandbox(t, m, 0), server); err != nil {
		t.Error(err)
	}
}

func TestSweep(t *testing.T) {
	m := start(t, Config{})
	var held []*Network
	for slot := range 3 {
		n := sandbox(t, m, slot)
		live(t, n)
		held = append(held, n)
	}
	held[0].Close()
	held[1].Close()
	if err := m.Sweep([]int{1}); err != nil {
		t.Fatal(err)
	}
	links, err := sandboxLinks(m.config)
	if err != nil {
		t.Fatal(err)
	}
	if links[0] != nil || links[1] == nil || links[2] == nil {
		t.Errorf("left: %v; want 1 (kept) and 2 (in use)", links)
	}
	if err := m.Sweep([]int{2}); err != nil {
		t.Fatal(err)
	}
}

// TestDestroyForgetsConnections: answers to a sandbox do not reach the next
// one of the slot.
func TestDestroyForgetsConnections(t *testing.T) {
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	address := n.Address()
	target := listenUDP(t, internet, webAddress+":4646")
	if err := send(t, n.ns, address.String()+":1000", webAddress+":4646", "question"); err != nil {
		t.Fatal(err)
	}
	_, from := receive(t, target)
	if tuples, err := connectionsFrom(address); err != nil || len(tuples) != 1 {
		t.Fatalf("%d connections, error %v; want 1", len(tuples), err)
	}
	n.Destroy()
	next := sandbox(t, m, 0)
	socket := listenUDP(t, next.ns, address.String()+":1000")
	if _, err := target.WriteToUDPAddrPort([]byte("late answer"), from); err != nil {
		t.Fatal(err)
	}
	if arrives(t, next.ns, socket, "late answer") {
		t.Error("an answer to the earlier sandbox arrives")
	}
}

// TestNothingIsLeft compares the host before and after.
func TestNothingIsLeft(t *testing.T) {
	before := hostState(t)
	m, err := New(Config{Ready: 3}, nullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for slot := range 5 {
		n, err := m.Create(t.Context(), slot, Policy{Mode: ModeInternet})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Destroy()
		if slot == 0 {
			if err := m.removeShared(); err == nil {
				t.Error("the node's network is removed below a sandbox")
			}
		}
		n.Destroy()
	}
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create(t.Context(), 0, Policy{Mode: ModeNone}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("create after close: %v", err)
	}
	if after := hostState(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestForwardingIsRestoredByALaterProcess: that it was ours is remembered.
func TestForwardingIsRestoredByALaterProcess(t *testing.T) {
	before := hostState(t)
	m, err := New(Config{}, nullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	if on, err := forwards(outwardLink); err != nil || !on {
		t.Errorf("forwarding of %s: %v, error %v", outwardLink, on, err)
	}
	if m, err = New(Config{}, nullLogger()); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if after := hostState(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestNewWayOutside: an interface forwards once a route to an allowed
// destination leads to it, and not longer than the Manager is there.
func TestNewWayOutside(t *testing.T) {
	m := start(t, Config{})
	if on, err := forwards("lan0"); err != nil || on {
		t.Fatalf("lan0 forwards: %v, error %v", on, err)
	}
	h, err := routeHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, far, err := net.ParseCIDR("192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{Dst: far, Gw: net.ParseIP(lanAddress)}
	if err := h.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	defer h.RouteDel(route)
	if err := m.refreshUplinks(); err != nil {
		t.Fatal(err)
	}
	if on, err := forwards("lan0"); err != nil || !on {
		t.Errorf("lan0 forwards: %v, error %v", on, err)
	}
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if on, err := forwards("lan0"); err != nil || on {
		t.Errorf("lan0 forwards afterwards: %v, error %v", on, err)
	}
}

// hostState lists what a Manager could leave: interfaces, addresses, tables,
// forwarding and open files.
func hostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	h, err := routeHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		addresses, err := h.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		on, err := forwards(link.Attrs().Name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, link.Attrs().Name, addresses, on)
	}
	conn, err := nftConn()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, slices.Collect(func(yield func(string) bool) {
		for _, table := range tables {
			if !yield(table.Name) {
				return
			}
		}
	}))
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, len(files), "open files")
	return b.String()
}

// TestParallel makes, uses and removes sandboxes at the same time.
func TestParallel(t *testing.T) {
	m := start(t, Config{Ready: 4})
	server := serveTCP(t, internet, webAddress+":80").String()
	errs := make(chan error)
	const count = 50
	for slot := range count {
		go func() {
			errs <- func() error {
				n, err := m.Create(t.Context(), slot, Policy{Mode: ModeInternet})
				if err != nil {
					return err
				}
				defer n.Destroy()
				conn, err := n.DialContext(t.Context(), "tcp", server)
				if err != nil {
					return err
				}
				defer conn.Close()
				_, err = io.ReadAll(conn)
				return err
			}()
		}()
	}
	for range count {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestTwoInstances: their sandboxes do not reach each other, and the names of
// each are resolved, though one's pool is a part of the other's.
func TestTwoInstances(t *testing.T) {
	serveNames(t, nameServer)
	first := start(t, Config{})
	second := start(t, Config{Pool: prefix(t, "198.19.128.0/17")})
	a, b := sandbox(t, first, 0), sandbox(t, second, 0)
	for n, resolver := range map[*Network]string{a: "198.18.0.1:53", b: "198.19.128.1:53"} {
		query := new(dns.Msg)
		query.SetQuestion("example.com.", dns.TypeA)
		for _, network := range []string{"udp", "tcp"} {
			if answer, err := askAt(t, n, network, resolver, query); err != nil || len(answer.Answer) != 1 {
				t.Errorf("%s: answer %v, error %v", resolver, answer, err)
			}
		}
	}
	for from, to := range map[*Network]*Network{a: b, b: a} {
		target := listenUDP(t, to.ns, to.Address().String()+":1000")
		send(t, from.ns, "", to.Address().String()+":1000", "attack")
		if arrives(t, to.ns, target, "attack") {
			t.Errorf("%s reaches %s", from.Address(), to.Address())
		}
	}
}

// TestFirstPacketArrives: a new interface transmits when Create returns.
func TestFirstPacketArrives(t *testing.T) {
	m := start(t, Config{})
	for slot := range 50 {
		n := sandbox(t, m, slot)
		socket := listenUDP(t, n.ns, n.Address().String()+":1000")
		if err := send(t, nil, "", n.Address().String()+":1000", "first"); err != nil {
			t.Fatal(err)
		}
		if !arrives(t, n.ns, socket, "first") {
			t.Fatalf("slot %d: the first packet is lost", slot)
		}
		n.Destroy()
	}
}

// TestTableIsReplaced: a restart takes over sandboxes with other settings and
// leaves one table.
func TestTableIsReplaced(t *testing.T) {
	m := start(t, Config{})
	n := sandbox(t, m, 0)
	target := listenUDP(t, internet, webAddress+":4646")
	m.firewall.config.Deny = append(slices.Clone(DefaultDeny), prefix(t, webAddress+"/32"))
	if err := m.firewall.install(); err != nil {
		t.Fatal(err)
	}
	send(t, n.ns, "", webAddress+":4646", "attack")
	if arrives(t, internet, target, "attack") {
		t.Error("the new deny list has no effect")
	}
	conn, err := nftConn()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	if len(chains) != 9 {
		t.Errorf("%d chains, want 9", len(chains))
	}
}
