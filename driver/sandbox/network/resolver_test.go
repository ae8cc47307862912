// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// upstream is a name server on the lan.
type upstream struct {
	asked atomic.Int32
	hold  chan struct{} // if not nil, answers wait for its end

	mu    sync.Mutex
	zone  map[string][]string // more names, with the records of their answer
	names []string            // that were asked for
}

// know makes the records the answer to a name.
func (u *upstream) know(name string, records ...string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.zone == nil {
		u.zone = make(map[string][]string)
	}
	u.zone[name] = records
}

// questions are the names that were asked for since the last call.
func (u *upstream) questions() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	names := u.names
	u.names = nil
	return names
}

// note returns the answer's records if the name is in the zone.
func (u *upstream) note(name string) []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.names = append(u.names, name)
	return u.zone[strings.ToLower(name)]
}

func serveNames(t testing.TB, address string) *upstream {
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
	zone := u.note(name)
	switch {
	case zone != nil:
		for _, text := range zone {
			answer.Answer = append(answer.Answer, record(text))
		}
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
func lookUp(t testing.TB, n *Network, network, name string, kind uint16) (*dns.Msg, error) {
	t.Helper()
	query := new(dns.Msg)
	query.SetQuestion(name, kind)
	return ask(t, n, network, query)
}

func ask(t testing.TB, n *Network, network string, query *dns.Msg) (*dns.Msg, error) {
	t.Helper()
	return askAt(t, n, network, "198.18.0.1:53", query)
}

func askAt(t testing.TB, n *Network, network, resolver string, query *dns.Msg) (*dns.Msg, error) {
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
	goOn := sync.OnceFunc(func() { close(up.hold) })
	defer goOn()
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
	for deadline := time.Now().Add(testDeadline); up.asked.Load() < queriesMax; {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d queries have come", up.asked.Load(), queriesMax)
		}
		time.Sleep(time.Millisecond) // no event: the upstream counts
	}
	answer, err := lookUp(t, n, "udp", "example.com.", dns.TypeA)
	if err != nil || answer.Rcode != dns.RcodeServerFailure {
		t.Errorf("one more query: %v, error %v; want SERVFAIL", answer, err)
	}
	goOn()
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
	begun := time.Now()
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
	most := 5 + int32(time.Since(begun)/time.Second) + 1
	if asked := up.asked.Load(); asked > most {
		t.Errorf("%d of 50 queries pass, want 5 to %d", asked, most)
	}
}

// TestQueryRateOfConnections: many queries by few connections are no more than as many datagrams.
func TestQueryRateOfConnections(t *testing.T) {
	up := serveNames(t, nameServer)
	m := start(t, Config{QueryRate: 1, QueryBurst: 5})
	n, other := sandbox(t, m, 0), sandbox(t, m, 1)
	begun := time.Now()
	refused := 0
	for range 2 {
		var conn net.Conn
		inside(t, n.ns, func() (err error) {
			conn, err = net.Dial("tcp", "198.18.0.1:53")
			return err
		})
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(testDeadline))
		c := &dns.Conn{Conn: conn}
		for range 25 {
			query := new(dns.Msg)
			query.SetQuestion("example.com.", dns.TypeA)
			if err := c.WriteMsg(query); err != nil {
				break // closed
			}
			answer, err := c.ReadMsg()
			if err != nil {
				break
			}
			if answer.Rcode == dns.RcodeServerFailure {
				refused++
			}
		}
	}
	most := 5 + int32(time.Since(begun)/time.Second) + 1
	if asked := up.asked.Load(); asked < 5 || asked > most {
		t.Errorf("%d of 50 queries by TCP pass, want 5 to %d", asked, most)
	}
	if refused != 2 {
		t.Errorf("%d are refused, want one on each connection, which it ends", refused)
	}
	if answer, err := lookUp(t, other, "tcp", "example.com.", dns.TypeA); err != nil || answer.Rcode != dns.RcodeSuccess {
		t.Errorf("neighbour's query: %v, error %v", answer, err)
	}
}

func TestRatesForgetWhoIsIdle(t *testing.T) {
	r := newRates(Config{QueryRate: 10, QueryBurst: 20})
	now := time.Now()
	for i := range 100 {
		for range 20 {
			if !r.allow(fromV4(uint32(i)), now) {
				t.Fatal("within the burst, but refused")
			}
		}
	}
	if r.allow(fromV4(0), now) {
		t.Error("above the burst, but allowed")
	}
	now = now.Add(2900 * time.Millisecond) // all are full again
	r.allow(fromV4(0), now)
	now = now.Add(200 * time.Millisecond)
	r.allow(fromV4(1), now)
	if len(r.of) != 2 {
		t.Errorf("%d sources are remembered, want 2", len(r.of))
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
