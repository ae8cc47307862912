// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// upstream is a name server on the lan.
type upstream struct {
	asked atomic.Int32
	hold  chan struct{} // if not nil, answers wait for its end
}

func serveNames(t *testing.T, address string) *upstream {
	t.Helper()
	u := &upstream{}
	packets := listenUDP(t, lan, address)
	var stream net.Listener
	inside(t, lan, func() (err error) {
		stream, err = net.Listen("tcp", address)
		return err
	})
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: u}, {Listener: stream, Handler: u}} {
		started, ended := make(chan struct{}), make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(ended)
			s.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			s.Shutdown()
			<-ended // the next test wants the same address
		})
	}
	return u
}

// ServeDNS knows example.com, big.example.com with an answer for TCP only, and
// broken.example.com, which it fails.
func (u *upstream) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	u.asked.Add(1)
	if u.hold != nil {
		<-u.hold
	}
	answer := new(dns.Msg)
	answer.SetReply(query)
	name := query.Question[0].Name
	switch {
	case strings.EqualFold(name, "broken.example.com."):
		answer.Rcode = dns.RcodeServerFailure
	case strings.EqualFold(name, "big.example.com."):
		for i := range 100 {
			answer.Answer = append(answer.Answer, record(fmt.Sprintf("%s 60 IN A 203.0.113.%d", name, i)))
		}
	case strings.EqualFold(name, "example.com."):
		answer.Answer = append(answer.Answer, record(name+" 60 IN A 203.0.113.10"))
	default:
		answer.Rcode = dns.RcodeNameError
	}
	if w.LocalAddr().Network() == "udp" {
		answer.Truncate(ednsSize)
	}
	w.WriteMsg(answer)
}

func record(s string) dns.RR {
	r, err := dns.NewRR(s)
	if err != nil {
		panic(err)
	}
	return r
}

// lookUp asks the resolver from within a sandbox.
func lookUp(t *testing.T, n *Network, network, name string, kind uint16) (*dns.Msg, error) {
	t.Helper()
	query := new(dns.Msg)
	query.SetQuestion(name, kind)
	return ask(t, n, network, query)
}

func ask(t *testing.T, n *Network, network string, query *dns.Msg) (*dns.Msg, error) {
	t.Helper()
	return askAt(t, n, network, "198.18.0.1:53", query)
}

func askAt(t *testing.T, n *Network, network, resolver string, query *dns.Msg) (*dns.Msg, error) {
	t.Helper()
	var conn net.Conn
	inside(t, n.ns, func() (err error) {
		conn, err = net.Dial(network, resolver)
		return err
	})
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testDeadline))
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(query); err != nil {
		return nil, err
	}
	return c.ReadMsg()
}

func TestResolver(t *testing.T) {
	up := serveNames(t, nameServer)
	n := sandbox(t, start(t, Config{}), 0)
	for _, test := range []struct {
		network, name string
		kind          uint16
		code, answers int
		truncated     bool
		asked         bool
	}{
		{network: "udp", name: "example.com.", kind: dns.TypeA, answers: 1, asked: true},
		{network: "udp", name: "eXample.CoM.", kind: dns.TypeA, answers: 1, asked: true},
		{network: "tcp", name: "example.com.", kind: dns.TypeA, answers: 1, asked: true},
		{network: "udp", name: "none.example.com.", kind: dns.TypeA, code: dns.RcodeNameError, asked: true},
		{network: "udp", name: "broken.example.com.", kind: dns.TypeA, code: dns.RcodeServerFailure, asked: true},
		{network: "udp", name: "big.example.com.", kind: dns.TypeA, answers: -1, truncated: true, asked: true},
		{network: "tcp", name: "big.example.com.", kind: dns.TypeA, answers: 100, asked: true},
		{network: "udp", name: "example.com.", kind: dns.TypeANY, code: dns.RcodeRefused},
		{network: "tcp", name: "example.com.", kind: dns.TypeAXFR, code: dns.RcodeRefused},
		{network: "tcp", name: "example.com.", kind: dns.TypeIXFR, code: dns.RcodeRefused},
	} {
		t.Run(test.network+" "+test.name+" "+dns.Type(test.kind).String(), func(t *testing.T) {
			before := up.asked.Load()
			answer, err := lookUp(t, n, test.network, test.name, test.kind)
			if err != nil {
				t.Fatal(err)
			}
			if answer.Rcode != test.code || answer.Truncated != test.truncated {
				t.Errorf("answer %s, truncated %v", dns.RcodeToString[answer.Rcode], answer.Truncated)
			}
			if test.answers >= 0 && len(answer.Answer) != test.answers {
				t.Errorf("%d records, want %d", len(answer.Answer), test.answers)
			}
			if answer.Question[0].Name != test.name {
				t.Errorf("answer to %s", answer.Question[0].Name)
			}
			if asked := up.asked.Load() > before; asked != test.asked {
				t.Errorf("upstream asked: %v, want %v", asked, test.asked)
			}
		})
	}
}

func TestResolverRefusesByClassAndOpcode(t *testing.T) {
	up := serveNames(t, nameServer)
	n := sandbox(t, start(t, Config{}), 0)
	chaos := new(dns.Msg)
	chaos.SetQuestion("version.bind.", dns.TypeTXT)
	chaos.Question[0].Qclass = dns.ClassCHAOS
	notify := new(dns.Msg)
	notify.SetNotify("example.com.")
	for query, want := range map[*dns.Msg]int{chaos: dns.RcodeRefused, notify: dns.RcodeNotImplemented} {
		answer, err := ask(t, n, "udp", query)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Rcode != want {
			t.Errorf("answer %s, want %s", dns.RcodeToString[answer.Rcode], dns.RcodeToString[want])
		}
	}
	if up.asked.Load() > 0 {
		t.Error("upstream was asked")
	}
}

func TestNamesPolicy(t *testing.T) {
	up := serveNames(t, nameServer)
	m := start(t, Config{Names: func(source netip.Addr, name string) error {
		if source == netip.MustParseAddr("198.18.0.3") && name != "example.com." {
			return errors.New("not on the list")
		}
		return nil
	}})
	bound, free := sandbox(t, m, 0), sandbox(t, m, 1)
	for _, test := range []struct {
		n    *Network
		name string
		code int
	}{
		{bound, "Example.com.", dns.RcodeSuccess},
		{bound, "secret.example.com.", dns.RcodeRefused},
		{free, "secret.example.com.", dns.RcodeNameError},
	} {
		before := up.asked.Load()
		answer, err := lookUp(t, test.n, "udp", test.name, dns.TypeA)
		if err != nil {
			t.Fatal(err)
		}
		if answer.Rcode != test.code {
			t.Errorf("%s for %s: %s", test.name, test.n.address, dns.RcodeToString[answer.Rcode])
		}
		if test.code == dns.RcodeRefused && up.asked.Load() != before {
			t.Error("a refused name was looked up")
		}
	}
}

func TestResolverGoesToTheNextUpstream(t *testing.T) {
	serveNames(t, nameServer)
	dead := netip.MustParseAddrPort(lanAddress + ":54")
	n := sandbox(t, start(t, Config{Resolvers: []netip.AddrPort{dead, netip.MustParseAddrPort(nameServer)}}), 0)
	answer, err := lookUp(t, n, "udp", "example.com.", dns.TypeA)
	if err != nil || len(answer.Answer) != 1 {
		t.Errorf("answer %v, error %v", answer, err)
	}
}

func TestResolverWithoutUpstreamFails(t *testing.T) {
	n := sandbox(t, start(t, Config{}), 0)
	answer, err := lookUp(t, n, "udp", "example.com.", dns.TypeA)
	if err != nil {
		t.Fatal(err)
	}
	if answer.Rcode != dns.RcodeServerFailure {
		t.Errorf("answer %s, want SERVFAIL", dns.RcodeToString[answer.Rcode])
	}
}

func TestQueriesUnderWay(t *testing.T) {
	up := serveNames(t, nameServer)
	up.hold = make(chan struct{})
	m := start(t, Config{})
	n, neighbour := sandbox(t, m, 0), sandbox(t, m, 1)
	codes := make(chan int, queriesMax)
	for range queriesMax {
		go func() {
			answer, err := lookUp(t, n, "udp", "example.com.", dns.TypeA)
			if err != nil {
				codes <- -1
				return
			}
			codes <- answer.Rcode
		}()
	}
	for up.asked.Load() < queriesMax {
		time.Sleep(time.Millisecond) // no event: the upstream counts
	}
	answer, err := lookUp(t, n, "udp", "example.com.", dns.TypeA)
	if err != nil || answer.Rcode != dns.RcodeServerFailure {
		t.Errorf("one more query: %v, error %v; want SERVFAIL", answer, err)
	}
	close(up.hold)
	if answer, err := lookUp(t, neighbour, "udp", "example.com.", dns.TypeA); err != nil || answer.Rcode != dns.RcodeSuccess {
		t.Errorf("neighbour's query: %v, error %v", answer, err)
	}
	for range queriesMax {
		if code := <-codes; code != dns.RcodeSuccess {
			t.Errorf("held query: %d", code)
		}
	}
}

func TestQueryRate(t *testing.T) {
	up := serveNames(t, nameServer)
	n := sandbox(t, start(t, Config{QueryRate: 1, QueryBurst: 5}), 0)
	var conn net.Conn
	inside(t, n.ns, func() (err error) {
		conn, err = net.Dial("udp", "198.18.0.1:53")
		return err
	})
	defer conn.Close()
	c := &dns.Conn{Conn: conn}
	for range 50 {
		query := new(dns.Msg)
		query.SetQuestion("example.com.", dns.TypeA)
		if err := c.WriteMsg(query); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 {
		conn.SetDeadline(time.Now().Add(testDeadline))
		if _, err := c.ReadMsg(); err != nil {
			t.Fatal(err)
		}
	}
	if asked := up.asked.Load(); asked > 7 {
		t.Errorf("%d of 50 queries in a moment pass, want 5", asked)
	}
}

func TestResolverConnectionsMax(t *testing.T) {
	serveNames(t, nameServer)
	n := sandbox(t, start(t, Config{}), 0)
	for range connectionsMax {
		conn, err := n.DialContext(t.Context(), "tcp", "198.18.0.1:53")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := lookUp(t, n, "tcp", "example.com.", dns.TypeA); err == nil {
		t.Error("one more connection is served")
	}
	if _, err := lookUp(t, n, "udp", "example.com.", dns.TypeA); err != nil {
		t.Error(err)
	}
}

func TestUpstreamsOfResolvConf(t *testing.T) {
	u := newUpstreams(Config{}.withDefaults())
	u.path = filepath.Join(t.TempDir(), "resolv.conf")
	for i, test := range []struct {
		file string
		want []netip.AddrPort
	}{
		{"", nil},
		{"search example.com\nnameserver 198.18.0.1\n", nil},
		{
			"nameserver 127.0.0.53\nnameserver 198.18.0.1\nnameserver fd00::53\n",
			[]netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:53"), netip.MustParseAddrPort("[fd00::53]:53")},
		},
	} {
		if err := os.WriteFile(u.path, []byte(test.file), 0o600); err != nil {
			t.Fatal(err)
		}
		changed := time.Unix(int64(i), 0)
		if err := os.Chtimes(u.path, changed, changed); err != nil {
			t.Fatal(err)
		}
		u.read = time.Time{}
		got, err := u.list()
		if !slices.Equal(got, test.want) || (err == nil) != (test.want != nil) {
			t.Errorf("%q: %v, error %v", test.file, got, err)
		}
	}
}
