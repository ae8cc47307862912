// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/miekg/dns"
	"github.com/vishvananda/netlink"
)

// The servers of the tests with an allow list: one address has a name in the
// tests' name server, the other has none.
const (
	namedServer = webAddress + ":4646"
	otherServer = farAddress + ":4646"
)

func policy(t testing.TB, allow ...string) Policy {
	t.Helper()
	p, err := ParsePolicy("allow", allow)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// reaches reports whether the sandbox gets to a server that answers everybody;
// a refusal has to be one at once.
func reaches(t testing.TB, n *Network, server string) bool {
	t.Helper()
	_, err := dialIn(t, n, server)
	if err != nil && !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("connect to %s: %v, want connection refused", server, err)
	}
	return err == nil
}

// resolve looks up the addresses of a name from within the sandbox and returns
// the answer's code.
func resolve(t testing.TB, n *Network, name string) int {
	t.Helper()
	answer, err := lookUp(t, n, "udp", name, dns.TypeA)
	if err != nil {
		t.Fatalf("look up %s: %v", name, err)
	}
	return answer.Rcode
}

func TestAllowByRange(t *testing.T) {
	serveTCP(t, internet, namedServer)
	serveTCP(t, internet, otherServer)
	m := start(t, Config{})
	for _, test := range []struct {
		allow        []string
		named, other bool
	}{
		{allow: []string{webAddress}, named: true},
		{allow: []string{"203.0.113.0/24"}, named: true},
		{allow: []string{"203.0.113.8/30"}, named: true},
		{allow: []string{"203.0.113.12/30"}},
		{allow: []string{"198.0.0.0/7"}, other: true},
		{allow: []string{"198.51.100.7/32", "203.0.112.0/23", "203.0.113.10"}, named: true, other: true},
		{allow: []string{"0.0.0.0/0"}, named: true, other: true},
		{allow: []string{"example.com"}},
	} {
		t.Run(strings.Join(test.allow, " "), func(t *testing.T) {
			n := sandboxWith(t, m, 0, policy(t, test.allow...))
			if got := reaches(t, n, namedServer); got != test.named {
				t.Errorf("reaches %s: %v", namedServer, got)
			}
			if got := reaches(t, n, otherServer); got != test.other {
				t.Errorf("reaches %s: %v", otherServer, got)
			}
			n.Destroy()
		})
	}
}

// TestAllowListHolds: what is not on the list is not reached, by any protocol.
func TestAllowListHolds(t *testing.T) {
	serveTCP(t, internet, otherServer)
	m := start(t, Config{})
	n := sandboxWith(t, m, 0, policy(t, webAddress))
	if reaches(t, n, otherServer) {
		t.Error("a server is reached that is not on the list")
	}
	for _, protocol := range protocols {
		if protocol.reaches(t, n, internet, farAddress) {
			t.Errorf("%s passes the list", protocol.name)
		}
		if !protocol.reaches(t, n, internet, webAddress) {
			t.Errorf("%s does not pass to what is on the list", protocol.name)
		}
	}
	weaken(t, m, without("listed"))
	for _, protocol := range protocols {
		if !protocol.reaches(t, n, internet, farAddress) {
			t.Errorf("%s arrives nowhere without the rules: the test proves nothing", protocol.name)
		}
	}
}

func TestAllowByName(t *testing.T) {
	up := serveNames(t, nameServer)
	up.know("api.example.com.", "api.example.com. 60 IN A "+webAddress)
	up.know("alias.example.com.",
		"alias.example.com. 60 IN CNAME cdn.example.net.", "cdn.example.net. 60 IN CNAME pop.example.org.", "pop.example.org. 60 IN A "+webAddress)
	up.know("backwards.example.com.",
		"pop.example.org. 60 IN A "+webAddress, "cdn.example.net. 60 IN CNAME pop.example.org.", "backwards.example.com. 60 IN CNAME cdn.example.net.")
	serveTCP(t, internet, namedServer)
	serveTCP(t, internet, otherServer)
	m := start(t, Config{})
	for _, test := range []struct{ allow, name string }{
		{"api.example.com", "api.example.com."},
		{"API.example.com.", "aPi.EXAMPLE.com."},
		{"*.example.com", "api.example.com."},
		{"*.com", "api.example.com."},
		{"alias.example.com", "alias.example.com."},
		{"backwards.example.com", "backwards.example.com."},
	} {
		t.Run(test.allow, func(t *testing.T) {
			n := sandboxWith(t, m, 0, policy(t, test.allow))
			defer n.Destroy()
			neighbour := sandboxWith(t, m, 1, policy(t, test.allow))
			defer neighbour.Destroy()
			if reaches(t, n, namedServer) {
				t.Error("the address is reached before it was an answer")
			}
			if code := resolve(t, n, test.name); code != dns.RcodeSuccess {
				t.Fatalf("answer %s", dns.RcodeToString[code])
			}
			if !reaches(t, n, namedServer) {
				t.Error("the address is not reached")
			}
			if reaches(t, n, otherServer) {
				t.Error("another address is reached, too")
			}
			if reaches(t, neighbour, namedServer) {
				t.Error("a neighbour reaches what it did not ask for")
			}
		})
	}
}

// TestNamesOutsideTheListStayInside: nothing of them gets to an upstream.
func TestNamesOutsideTheListStayInside(t *testing.T) {
	up := serveNames(t, nameServer)
	m := start(t, Config{})
	n := sandboxWith(t, m, 0, policy(t, "example.com", "*.wild.example.com", webAddress))
	attacks := []string{
		"c2VjcmV0.attacker.example.", "c2VjcmV0.example.com.", "example.com.attacker.example.", "notexample.com.",
		"com.", ".", "wild.example.com.", "notwild.example.com.", `c2VjcmV0\.wild.example.com.`, `c2VjcmV0\046wild.example.com.`,
		"10.113.0.203.in-addr.arpa.", "1.2.3.4.", "localhost.",
	}
	for _, name := range attacks {
		for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeNULL, dns.TypeCNAME, dns.TypeNS, dns.TypeHTTPS, dns.TypeANY} {
			for _, network := range []string{"udp", "tcp"} {
				answer, err := lookUp(t, n, network, name, kind)
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				want := dns.RcodeNameError
				if kind == dns.TypeANY {
					want = dns.RcodeRefused // of any name
				}
				if answer.Rcode != want {
					t.Errorf("%s %s: %s", name, dns.Type(kind), dns.RcodeToString[answer.Rcode])
				}
			}
		}
	}
	if asked := up.questions(); len(asked) > 0 {
		t.Errorf("asked upstream: %q", asked)
	}
	if resolve(t, n, "a.b.wild.example.com."); !slices.Equal(up.questions(), []string{"a.b.wild.example.com."}) {
		t.Error("a name of the list is not asked for")
	}
	free := sandbox(t, m, 1)
	for _, name := range attacks {
		resolve(t, free, name)
	}
	if asked := up.questions(); len(asked) != len(attacks) {
		t.Errorf("without the list %d of %d names are asked for: the test proves nothing", len(asked), len(attacks))
	}
}

func TestRefusalSaysWhy(t *testing.T) {
	n := sandboxWith(t, start(t, Config{}), 0, policy(t, "example.com"))
	query := new(dns.Msg)
	query.SetQuestion("example.org.", dns.TypeA)
	query.SetEdns0(ednsSize, false)
	answer, err := ask(t, n, "udp", query)
	if err != nil {
		t.Fatal(err)
	}
	option := answer.IsEdns0()
	if option == nil || len(option.Option) != 1 {
		t.Fatalf("answer without a reason: %v", answer)
	}
	if reason, ok := option.Option[0].(*dns.EDNS0_EDE); !ok || reason.InfoCode != dns.ExtendedErrorCodeProhibited {
		t.Errorf("reason %v", option.Option[0])
	}
}

// TestForeignNameServer: with a list, only the node's resolver is one.
func TestForeignNameServer(t *testing.T) {
	m := start(t, Config{})
	n := sandboxWith(t, m, 0, policy(t, "*.example.com", webAddress))
	for _, test := range []struct {
		name, address string
		ns            *namespace
		layer         []func(*Manager, *nftables.Conn)
	}{
		{"public", farAddress + ":53", internet, layers(without("listed"))},
		{"the node's", nameServer, lan, layers(without("listed"), withoutDeny)},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := m
			socket := listenUDP(t, test.ns, test.address)
			serveTCP(t, test.ns, test.address)
			if reaches(t, n, test.address) {
				t.Error("reached by TCP")
			}
			send(t, n.ns, "", test.address, "question")
			if arrives(t, test.ns, socket, "question") {
				t.Error("reached by UDP")
			}
			for _, layer := range test.layer {
				weaken(t, m, layer)
			}
			send(t, n.ns, "", test.address, "question")
			if !arrives(t, test.ns, socket, "question") {
				t.Error("nothing arrives without the rules: the test proves nothing")
			}
		})
	}
}

func layers(all ...func(*Manager, *nftables.Conn)) []func(*Manager, *nftables.Conn) { return all }

// TestRebinding: a name of the list answers with an address that is closed.
func TestRebinding(t *testing.T) {
	up := serveNames(t, nameServer)
	m := start(t, Config{})
	n := sandboxWith(t, m, 0, policy(t, "*.example.com"))
	other := sandbox(t, m, 1)
	forwardFromLAN(t)
	for i, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			if err := m.firewall.install(); err != nil { // what the attack before has weakened
				t.Fatal(err)
			}
			ns, address := a.ns(other), a.address(other)
			name := fmt.Sprintf("attack%d.example.com.", i)
			up.know(name, name+" 1 IN A "+address)
			server := serveTCP(t, ns, address+":4646").String()
			if code := resolve(t, n, name); code != dns.RcodeSuccess {
				t.Fatalf("answer %s", dns.RcodeToString[code])
			}
			if reaches(t, n, server) {
				t.Error("reached by name")
			}
			if ns == nil {
				return // the host's own; TestAttacksAreRefused takes its rules away
			}
			one := prefix(t, address+"/32")
			if slices.ContainsFunc(openings(t, m), func(o opening) bool { return o.to == one }) {
				t.Errorf("%s is open", one)
			}
			if err := m.firewall.open([]opening{{n.link, one, time.Minute}}, nil); err != nil {
				t.Fatal(err)
			}
			if reaches(t, n, server) {
				t.Error("reached once it is open by name: the rules of packets do not hold by themselves")
			}
			weaken(t, m, a.layer)
			if a.name == "other sandbox" {
				return // answered by no one without the rules that are gone
			}
			if !reaches(t, n, server) {
				t.Error("not reached without the rules: the test proves nothing")
			}
		})
	}
}

// TestAnswersAreTrimmed: records that nobody asked for open nothing and are
// not passed on, and no client keeps an address longer than it is open.
func TestAnswersAreTrimmed(t *testing.T) {
	up := serveNames(t, nameServer)
	up.know("api.example.com.",
		"api.example.com. 999999 IN A "+webAddress, "other.example.net. 60 IN A "+farAddress, "api.example.com. 60 IN AAAA 2001:db8::1")
	serveTCP(t, internet, otherServer)
	n := sandboxWith(t, start(t, Config{}), 0, policy(t, "api.example.com"))
	answer, err := lookUp(t, n, "udp", "api.example.com.", dns.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range answer.Answer {
		if r.Header().Name != "api.example.com." || r.Header().Ttl > uint32(openMax/time.Second) {
			t.Errorf("answer has %s", r)
		}
	}
	if len(answer.Answer) != 2 {
		t.Errorf("%d records, want 2", len(answer.Answer))
	}
	if reaches(t, n, otherServer) {
		t.Error("an address that was not asked for is reached")
	}
}

// TestOpenedEnds: an address is open for a time, connections to it longer.
func TestOpenedEnds(t *testing.T) {
	serveTCP(t, internet, namedServer)
	target := listenUDP(t, internet, webAddress+":4647")
	m := start(t, Config{})
	n := sandboxWith(t, m, 0, policy(t, "api.example.com"))
	one := opening{n.link, prefix(t, webAddress+"/32"), 3 * time.Second}
	if err := m.firewall.open([]opening{one}, nil); err != nil {
		t.Fatal(err)
	}
	var flow net.Conn
	inside(t, n.ns, func() (err error) {
		flow, err = net.Dial("udp", webAddress+":4647")
		return err
	})
	defer flow.Close()
	fmt.Fprint(flow, "question")
	_, from := receive(t, target)
	if _, err := target.WriteToUDPAddrPort([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(2 * testDeadline); reaches(t, n, namedServer); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the address stays open")
		}
	}
	fmt.Fprint(flow, "next question")
	if text, _ := receive(t, target); text != "next question" {
		t.Errorf("received %q", text)
	}
}

func TestOpenedFor(t *testing.T) {
	up := serveNames(t, nameServer)
	m := start(t, Config{})
	n := sandboxWith(t, m, 0, policy(t, "*.example.com"))
	for _, test := range []struct {
		ttl  int
		want time.Duration
	}{
		{0, openMin + openExtra},
		{300, 300*time.Second + openExtra},
		{600, 600*time.Second + openExtra},
		{5, 600*time.Second + openExtra}, // it stays as it is
		{999999, openMax + openExtra},
	} {
		up.know("api.example.com.", fmt.Sprintf("api.example.com. %d IN A %s", test.ttl, webAddress))
		resolve(t, n, "api.example.com.")
		list := openings(t, m)
		if len(list) != 1 || list[0].last > test.want || list[0].last < test.want-openExtra {
			t.Errorf("TTL %d: %v, want one for %s", test.ttl, list, test.want)
		}
	}
}

func openings(t testing.TB, m *Manager) []opening {
	t.Helper()
	list, err := m.firewall.allowed()
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestOpenedMax(t *testing.T) {
	up := serveNames(t, nameServer)
	n := sandboxWith(t, start(t, Config{ConnRate: 1000, QueryRate: 1000, QueryBurst: 1000}), 0, policy(t, "*.example.com"))
	const each = 50
	code := dns.RcodeSuccess
	for i := range openedMax/each + 1 {
		name := fmt.Sprintf("n%d.example.com.", i)
		var records []string
		for j := range each {
			records = append(records, fmt.Sprintf("%s 60 IN A 198.51.%d.%d", name, i, j))
		}
		up.know(name, records...)
		answer, err := lookUp(t, n, "tcp", name, dns.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		if code = answer.Rcode; code != dns.RcodeSuccess && i < openedMax/each {
			t.Fatalf("answer %d: %s", i, dns.RcodeToString[code])
		}
	}
	if code != dns.RcodeServerFailure {
		t.Errorf("one address more than %d: %s", openedMax, dns.RcodeToString[code])
	}
}

// TestAllowListOfARestart: it holds while nobody has opened the sandbox again,
// and afterwards as before.
func TestAllowListOfARestart(t *testing.T) {
	up := serveNames(t, nameServer)
	up.know("api.example.com.", "api.example.com. 60 IN A "+webAddress)
	serveTCP(t, internet, namedServer)
	serveTCP(t, internet, otherServer)
	rangeServer := serveTCP(t, internet, "203.0.113.10:4747").String()
	list := policy(t, "*.example.com", "192.0.2.0/24")
	first := start(t, Config{})
	n, free := sandboxWith(t, first, 0, list), sandbox(t, first, 1)
	pid, freePid := live(t, n), live(t, free)
	resolve(t, n, "api.example.com.")
	before := openings(t, first)
	boxed, freed := inNamespaceOf(t, pid), inNamespaceOf(t, freePid)
	n.Close()
	free.Close()
	if err := first.Close(false); err != nil {
		t.Fatal(err)
	}
	up.questions()

	m := start(t, Config{})
	if after := openings(t, m); len(after) != 2 || len(before) != 2 {
		t.Errorf("openings before %v, after %v; want 2 each", before, after)
	}
	if code := resolve(t, boxed, "secret.example.net."); code != dns.RcodeServerFailure {
		t.Errorf("a name before the list is known: %s", dns.RcodeToString[code])
	}
	if asked := up.questions(); len(asked) > 0 {
		t.Errorf("asked upstream before the list is known: %q", asked)
	}
	if code := resolve(t, freed, "example.com."); code != dns.RcodeSuccess {
		t.Errorf("a name for a sandbox without a list: %s", dns.RcodeToString[code])
	}
	if _, err := m.Open(t.Context(), 0, pid, Policy{Mode: ModeInternet}); err == nil {
		t.Error("opened with another mode")
	}
	if _, err := m.Open(t.Context(), 1, freePid, list); err == nil {
		t.Error("opened with another mode")
	}
	again, err := m.Open(t.Context(), 1, freePid, Policy{Mode: ModeInternet})
	if err != nil {
		t.Fatal(err)
	}
	defer again.Destroy()
	found, err := m.Open(t.Context(), 0, pid, list)
	if err != nil {
		t.Fatal(err)
	}
	defer found.Destroy()
	if !reaches(t, found, namedServer) || !reaches(t, found, rangeServer) || reaches(t, found, otherServer) {
		t.Error("the sandbox does not reach what it reached before, or more")
	}
	if code := resolve(t, found, "secret.example.net."); code != dns.RcodeNameError {
		t.Errorf("a name outside the list: %s", dns.RcodeToString[code])
	}
	found.Destroy()
	m.removal.Wait()
	if left := openings(t, m); len(left) > 0 {
		t.Errorf("left of the sandbox: %v", left)
	}
}

// TestNextSandboxInheritsNothing of the slot.
func TestNextSandboxInheritsNothing(t *testing.T) {
	up := serveNames(t, nameServer)
	up.know("api.example.com.", "api.example.com. 60 IN A "+webAddress)
	serveTCP(t, internet, namedServer)
	serveTCP(t, internet, otherServer)
	m := start(t, Config{})
	for _, destroy := range []bool{true, false} {
		n := sandboxWith(t, m, 0, policy(t, "api.example.com", farAddress))
		resolve(t, n, "api.example.com.")
		if !reaches(t, n, namedServer) || !reaches(t, n, otherServer) {
			t.Fatal("the list opens nothing: the test proves nothing")
		}
		if destroy {
			n.Destroy()
		} else {
			n.Close() // as if this process had ended without a word
		}
		next := sandboxWith(t, m, 0, policy(t, "192.0.2.1"))
		if reaches(t, next, namedServer) || reaches(t, next, otherServer) {
			t.Error("the next sandbox of the slot reaches what was open to the one before")
		}
		if code := resolve(t, next, "api.example.com."); code != dns.RcodeNameError {
			t.Errorf("a name of the one before: %s", dns.RcodeToString[code])
		}
		next.Destroy()
		m.removal.Wait()
		if err := m.Sweep(nil); err != nil {
			t.Fatal(err)
		}
		for _, e := range elementsLeft(t, m) {
			t.Errorf("left in the table: %x", e.Key)
		}
	}
}

// inNamespaceOf reaches the sandbox of a process without its Network.
func inNamespaceOf(t *testing.T, pid int) *Network {
	t.Helper()
	ns, err := world.openNamespace(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.close)
	return &Network{manager: world, ns: ns, slot: -1}
}

func elementsLeft(t *testing.T, m *Manager) []nftables.SetElement {
	t.Helper()
	elements, err := m.firewall.elements(m.firewall.allowedSet())
	if err != nil {
		t.Fatal(err)
	}
	return elements
}

// TestManyOpeningsSurviveARestart: a table is replaced with all its lists.
func TestManyOpeningsSurviveARestart(t *testing.T) {
	const count = 20000
	m := start(t, Config{})
	n := sandboxWith(t, m, 0, policy(t, "example.com"))
	var all []opening
	for i := range count {
		all = append(all, opening{n.link, netip.PrefixFrom(fromV4(0x08000000+uint32(i)), 32), time.Hour})
	}
	if err := m.firewall.open(all, nil); err != nil {
		t.Fatal(err)
	}
	gone := opening{1 << 30, prefix(t, "192.0.2.0/24"), 0}
	if err := m.firewall.open([]opening{gone}, nil); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := m.firewall.install(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d openings taken over in %s", count, time.Since(began))
	list := openings(t, m)
	if len(list) != count {
		t.Fatalf("%d openings, want %d", len(list), count)
	}
	for _, o := range list {
		if o.link != n.link || o.last > time.Hour || o.last < time.Hour/2 {
			t.Fatalf("opening %+v", o)
		}
	}
}

func TestAllowListOfClosedRangeIsRefused(t *testing.T) {
	m := start(t, Config{Allow: prefixes(t, "10.9.0.0/24")})
	for allow, ok := range map[string]bool{
		"10.0.0.0/8":  true, // a part is open
		"10.9.0.0/24": true, "10.9.0.53": true, "203.0.113.10": true,
		"10.8.0.1": false, "192.168.0.0/16": false, "169.254.169.254": false, "198.18.0.5": false, "127.0.0.1": false,
	} {
		n, err := m.Create(t.Context(), 0, policy(t, allow))
		if (err == nil) != ok {
			t.Errorf("%s: error %v", allow, err)
		}
		if err == nil {
			n.Destroy()
		}
	}
}

// TestExceptionsOfTheOperator open a private address, and of the node nothing.
func TestExceptionsOfTheOperator(t *testing.T) {
	up := serveNames(t, nameServer)
	up.know("mirror.example.com.", "mirror.example.com. 60 IN A "+lanAddress)
	server := serveTCP(t, lan, lanAddress+":4646").String()
	m := start(t, Config{Allow: prefixes(t, "10.0.0.0/8"), Deny: prefixes(t, "10.9.0.64/26")})
	n, other := sandbox(t, m, 0), sandbox(t, m, 1)
	listed := sandboxWith(t, m, 2, policy(t, "mirror.example.com"))
	if !reaches(t, n, server) {
		t.Error("the exception opens nothing")
	}
	if reaches(t, listed, server) {
		t.Error("the exception opens what is on no list")
	}
	if resolve(t, listed, "mirror.example.com."); !reaches(t, listed, server) {
		t.Error("a name on the list with the address of an exception is not reached")
	}
	for _, a := range attacks {
		if a.name == "private network" {
			continue
		}
		ns, address := a.ns(other), a.address(other)
		if ns == lan && address != metadata {
			t.Fatalf("%s is on the lan", a.name)
		}
		if reaches(t, n, serveTCP(t, ns, address+":4646").String()) {
			t.Errorf("%s is reached", a.name)
		}
	}
}

// TestRedirectedIsRefused: an address of the host that another table sends on,
// as container engines do for published ports, is the host's all the same.
func TestRedirectedIsRefused(t *testing.T) {
	server := serveTCP(t, lan, lanAddress+":4646")
	m := start(t, Config{Allow: prefixes(t, "10.9.0.0/24")})
	n := sandbox(t, m, 0)
	publish(t, hostAddress, 8080, server)
	published := hostAddress + ":8080"
	if from, err := dialFrom(t, internet, published); err != nil {
		t.Fatalf("the port is not published: %v", err)
	} else if !strings.HasPrefix(from, webAddress) {
		t.Fatalf("the port is published to %s", from)
	}
	if reaches(t, n, published) {
		t.Error("a published port is reached")
	}
	weaken(t, m, without("redirected"))
	if !reaches(t, n, published) {
		t.Error("not reached without the rule: the test proves nothing")
	}
}

// dialFrom connects from a namespace that is no sandbox's.
func dialFrom(t *testing.T, ns *namespace, address string) (string, error) {
	t.Helper()
	return dialIn(t, &Network{manager: world, ns: ns}, address)
}

// publish sends connections to a port of the host on to a server, and lets the
// server answer by way of the host.
func publish(t *testing.T, address string, port uint16, server netip.AddrPort) {
	t.Helper()
	conn, err := nftConn()
	if err != nil {
		t.Fatal(err)
	}
	table := conn.AddTable(&nftables.Table{Name: "engine", Family: nftables.TableFamilyIPv4})
	chain := conn.AddChain(&nftables.Chain{
		Name: "PREROUTING", Table: table, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityNATDest,
	})
	conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: publishing(address, port, server)})
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.DelTable(table)
		if err := conn.Flush(); err != nil {
			t.Error(err)
		}
	})
	inside(t, lan, func() error {
		h, err := routeHandle()
		if err != nil {
			return err
		}
		t.Cleanup(h.Close)
		route := &netlink.Route{Gw: net.ParseIP(lanHost)}
		t.Cleanup(func() { h.RouteDel(route) })
		return h.RouteAdd(route)
	})
}
