// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/google/nftables"
	"github.com/miekg/dns"
)

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
	m.firewall.config.Deny = prefixes(t, webAddress+"/32")
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
	if len(chains) != 11 {
		t.Errorf("%d chains, want 11", len(chains))
	}
}
