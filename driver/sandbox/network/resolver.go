// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

const (
	// queryTimeout is for one question to one upstream, answerTimeout for all
	// of them: less than the 5 s after which resolvers in sandboxes ask again.
	queryTimeout  = 1500 * time.Millisecond
	answerTimeout = 4500 * time.Millisecond
	// queriesMax and connectionsMax are what one sandbox may have under way.
	queriesMax     = 32
	connectionsMax = 8
	// ednsSize is the answer size that does not fragment (DNS flag day 2020).
	ednsSize = 1232
	// receiveBuffer holds what all sandboxes ask in a moment in which the
	// process does not run, in bytes. The kernel may give less (rmem_max).
	receiveBuffer = 4 << 20
)

// resolver forwards the sandboxes' DNS queries to the node's name servers.
// Sandboxes cannot reach these themselves, as they tend to have private
// addresses.
type resolver struct {
	config    Config
	log       hclog.Logger
	logged    *rate.Limiter // keeps a sandbox from filling the log
	sandboxAt func(netip.Addr) *Network
	upstreams *upstreams
	servers   []*dns.Server // that run
	done      chan error    // one for each server

	queries     *quota
	connections *quota
	rates       *rates
}

// listenResolver starts the resolver on the service address.
func listenResolver(c Config, sandboxAt func(netip.Addr) *Network, log hclog.Logger) (*resolver, error) {
	r := &resolver{
		config:      c,
		log:         log.Named("resolver"),
		logged:      rate.NewLimiter(rate.Every(time.Second), 20),
		sandboxAt:   sandboxAt,
		upstreams:   newUpstreams(c),
		queries:     newQuota(queriesMax),
		connections: newQuota(connectionsMax),
		rates:       newRates(c),
	}
	// Reuse of the port lets a new process listen before the old one is gone.
	listen := net.ListenConfig{Control: reusePort}
	address := netip.AddrPortFrom(c.resolver(), 53).String()
	packets, err := listen.ListenPacket(context.Background(), "udp4", address)
	if err != nil {
		return nil, err
	}
	// A smaller buffer than asked for is a smaller comfort, not an error.
	_ = packets.(*net.UDPConn).SetReadBuffer(receiveBuffer)
	stream, err := listen.Listen(context.Background(), "tcp4", address)
	if err != nil {
		packets.Close()
		return nil, err
	}
	servers := []*dns.Server{
		{PacketConn: packets, Handler: r, UDPSize: ednsSize},
		{Listener: &limitedListener{Listener: stream, quota: r.connections}, Handler: r},
	}
	r.done = make(chan error, len(servers))
	for _, s := range servers {
		if err := r.serve(s); err != nil {
			packets.Close()
			stream.Close()
			return nil, err
		}
	}
	return r, nil
}

// serve returns when the server is up.
func (r *resolver) serve(s *dns.Server) error {
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	go func() { r.done <- s.ActivateAndServe() }()
	select {
	case <-started:
		r.servers = append(r.servers, s)
		return nil
	case err := <-r.done:
		return err
	}
}

func (r *resolver) close(ctx context.Context) error {
	var errs []error
	for _, s := range r.servers {
		errs = append(errs, s.ShutdownContext(ctx))
	}
	for range r.servers {
		select {
		case err := <-r.done:
			errs = append(errs, err)
		case <-ctx.Done():
			errs = append(errs, fmt.Errorf("wait for the resolver's end: %w", ctx.Err()))
		}
	}
	return errors.Join(errs...)
}

// ServeDNS answers one query.
func (r *resolver) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	remote, err := netip.ParseAddrPort(w.RemoteAddr().String())
	if err != nil || !r.config.Pool.Contains(remote.Addr()) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout)
	defer cancel()
	answer, err := r.answer(ctx, remote.Addr(), query)
	if err != nil && r.logged.Allow() {
		r.log.Warn("query not answered", "source", remote.Addr(), "question", questionOf(query), "error", err)
	}
	size := dns.MaxMsgSize
	if w.LocalAddr().Network() == "udp" {
		size = answerSize(query)
	}
	answer.Truncate(size)
	// A client that does not take its answer asks again or went away.
	_ = w.WriteMsg(answer)
	if errors.Is(err, errTooMany) && size == dns.MaxMsgSize {
		w.Close() // the packet filter limits how often it can connect again
	}
}

var errTooMany = errors.New("too many queries a second")

// answer is the message to send back; an error is its reason, for the log.
func (r *resolver) answer(ctx context.Context, source netip.Addr, query *dns.Msg) (*dns.Msg, error) {
	// The packet filter counts datagrams, and one connection carries many queries.
	if !r.rates.allow(source, time.Now()) {
		return failure(query, dns.RcodeServerFailure), errTooMany
	}
	if query.Opcode != dns.OpcodeQuery || len(query.Question) != 1 {
		return failure(query, dns.RcodeNotImplemented), nil
	}
	q := query.Question[0]
	switch q.Qtype {
	case dns.TypeANY, dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB:
		return failure(query, dns.RcodeRefused), errors.New("refused kind of question")
	}
	if q.Qclass != dns.ClassINET {
		return failure(query, dns.RcodeRefused), errors.New("refused class of question")
	}
	n, err := r.listOf(source)
	if err != nil {
		return failure(query, dns.RcodeServerFailure), err
	}
	if n != nil && !n.policy.allows(strings.ToLower(q.Name)) {
		return prohibited(query), errors.New("refused name: not on the sandbox's allow list")
	}
	if !r.queries.take(source) {
		return failure(query, dns.RcodeServerFailure), fmt.Errorf("more than %d queries under way", queriesMax)
	}
	defer r.queries.give(source)
	answer, err := r.ask(ctx, query)
	if err == nil && n != nil {
		err = n.admitAnswer(answer)
	}
	if err != nil {
		return failure(query, dns.RcodeServerFailure), err
	}
	return answer, nil
}

// ask puts the question to the upstreams in turn until one answers it. Nothing
// but the question and its flags goes out.
func (r *resolver) ask(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	question := new(dns.Msg)
	question.Id = dns.Id()
	question.Question = slices.Clone(query.Question)
	question.RecursionDesired = true
	question.CheckingDisabled = query.CheckingDisabled
	question.SetEdns0(ednsSize, wantsDNSSEC(query))
	servers, err := r.upstreams.list()
	if err != nil {
		return nil, err
	}
	var errs []error
	for ctx.Err() == nil {
		for _, server := range servers {
			answer, err := exchange(ctx, question, server)
			if err == nil {
				return reply(query, answer), nil
			}
			errs = append(errs, fmt.Errorf("ask %s: %w", server, err))
			if ctx.Err() != nil {
				break
			}
		}
		// An upstream that answers with an error says the same again.
		if !slices.ContainsFunc(errs, isTimeout) {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// exchange asks one upstream, over TCP where the answer does not fit.
func exchange(ctx context.Context, question *dns.Msg, server netip.AddrPort) (*dns.Msg, error) {
	for _, network := range []string{"udp", "tcp"} {
		ctx, cancel := context.WithTimeout(ctx, queryTimeout)
		client := &dns.Client{Net: network, Timeout: queryTimeout}
		answer, _, err := client.ExchangeContext(ctx, question, server.String())
		cancel()
		switch {
		case err != nil:
			return nil, err
		case len(answer.Question) != 1 || !sameQuestion(answer.Question[0], question.Question[0]):
			return nil, errors.New("answer to another question")
		case answer.Truncated && network == "udp":
			continue
		case answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError:
			return nil, errors.New(dns.RcodeToString[answer.Rcode])
		}
		return answer, nil
	}
	return nil, errors.New("answer too long") // truncated over TCP
}

func sameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}

// reply makes an upstream's answer the answer to query.
func reply(query, answer *dns.Msg) *dns.Msg {
	answer.Id = query.Id
	answer.Question = query.Question
	answer.RecursionDesired = query.RecursionDesired
	answer.Extra = slices.DeleteFunc(answer.Extra, func(r dns.RR) bool { return r.Header().Rrtype == dns.TypeOPT })
	return withEDNS(query, answer)
}

func failure(query *dns.Msg, code int) *dns.Msg {
	answer := new(dns.Msg)
	answer.SetRcode(query, code)
	answer.RecursionAvailable = true
	return withEDNS(query, answer)
}

// prohibited refuses a name for good and says why to who understands it
// (RFC 8914). For the others there is no such name: REFUSED is a failure that
// glibc calls temporary, so that programs try again, and musl waits after it.
func prohibited(query *dns.Msg) *dns.Msg {
	answer := failure(query, dns.RcodeNameError)
	if option := answer.IsEdns0(); option != nil {
		option.Option = append(option.Option, &dns.EDNS0_EDE{
			InfoCode: dns.ExtendedErrorCodeProhibited, ExtraText: "not on the sandbox's allow list",
		})
	}
	return answer
}

// withEDNS adds the record that an answer has if the query had one.
func withEDNS(query, answer *dns.Msg) *dns.Msg {
	answer.Compress = true
	if query.IsEdns0() != nil {
		answer.SetEdns0(ednsSize, wantsDNSSEC(query))
	}
	return answer
}

func wantsDNSSEC(query *dns.Msg) bool {
	option := query.IsEdns0()
	return option != nil && option.Do()
}

// answerSize is how long an answer by UDP the client takes, in bytes.
func answerSize(query *dns.Msg) int {
	if option := query.IsEdns0(); option != nil {
		return min(max(int(option.UDPSize()), dns.MinMsgSize), ednsSize)
	}
	return dns.MinMsgSize
}

func questionOf(query *dns.Msg) string {
	if len(query.Question) == 0 {
		return ""
	}
	return query.Question[0].Name + " " + dns.Type(query.Question[0].Qtype).String()
}

func reusePort(_, _ string, conn syscall.RawConn) error {
	var err error
	if control := conn.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}); control != nil {
		return control
	}
	return err
}

// quota counts what sandboxes have under way, up to max each.
type quota struct {
	max int
	mu  sync.Mutex
	use map[netip.Addr]int
}

func newQuota(n int) *quota { return &quota{max: n, use: make(map[netip.Addr]int)} }

func (q *quota) take(source netip.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.use[source] >= q.max {
		return false
	}
	q.use[source]++
	return true
}

func (q *quota) give(source netip.Addr) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.use[source]--; q.use[source] <= 0 {
		delete(q.use, source)
	}
}

// rates counts the queries that sandboxes put in a second, however they come.
type rates struct {
	rate  rate.Limit
	burst int
	idle  time.Duration // after which a limiter is full again, so as if it were new
	mu    sync.Mutex
	of    map[netip.Addr]*rated // of the pool's addresses only
	swept time.Time
}

type rated struct {
	*rate.Limiter
	last time.Time
}

func newRates(c Config) *rates {
	return &rates{
		rate:  rate.Limit(c.QueryRate),
		burst: int(c.QueryBurst),
		idle:  time.Duration(float64(c.QueryBurst)/float64(c.QueryRate)*float64(time.Second)) + time.Second,
		of:    make(map[netip.Addr]*rated),
	}
}

func (r *rates) allow(source netip.Addr, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now.Sub(r.swept) >= r.idle {
		r.swept = now
		maps.DeleteFunc(r.of, func(_ netip.Addr, l *rated) bool { return now.Sub(l.last) >= r.idle })
	}
	l := r.of[source]
	if l == nil {
		l = &rated{Limiter: rate.NewLimiter(r.rate, r.burst)}
		r.of[source] = l
	}
	l.last = now
	return l.AllowN(now, 1)
}

// limitedListener closes connections of sandboxes that have their quota.
type limitedListener struct {
	net.Listener
	quota *quota
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
		if l.quota.take(source) {
			return &limitedConn{Conn: conn, give: sync.OnceFunc(func() { l.quota.give(source) })}, nil
		}
		conn.Close()
	}
}

type limitedConn struct {
	net.Conn
	give func()
}

func (c *limitedConn) Close() error {
	c.give()
	return c.Conn.Close()
}
