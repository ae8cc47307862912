// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// firewall is the node's nft table. In nft's words, with g for the link groups
// of the sandboxes' interfaces, G for that of those with an allow list:
//
//	table inet buntime_198.18.0.0_15 {
//	  set deny    { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, … } }
//	  set allowed { type iface_index . ipv4_addr . ipv4_addr; flags timeout; }
//	  set uplinks { type ifname; }                       # forwarding turned on by us
//	  set rates   { type ipv4_addr; flags dynamic,timeout; timeout 1m; }
//	  set queries { type ipv4_addr; flags dynamic,timeout; timeout 1m; }
//	  set open    { type ipv4_addr; flags dynamic; }
//
//	  chain source {                                     # before anything is tracked
//	    type filter hook prerouting priority raw;
//	    iifgroup != g accept
//	    meta nfproto != ipv4 drop
//	    ip hdrlength > 5 drop                            # no source routes
//	    fib saddr . iif oif missing drop                 # only its own address
//	    ip daddr RESOLVER udp dport 53 notrack
//	  }
//	  chain answers {
//	    type filter hook output priority raw;
//	    oifgroup g ip saddr RESOLVER udp sport 53 notrack
//	  }
//	  chain input {
//	    type filter hook input priority filter;
//	    iifgroup g goto local
//	    iifname != "bt*" iifname != "lo" ip daddr POOL drop   # the resolver is not for neighbours
//	  }
//	  chain local {
//	    ip daddr RESOLVER udp dport 53 update @queries { ip saddr limit rate over … } drop
//	    ip daddr RESOLVER udp dport 53 accept
//	    ip daddr RESOLVER tcp dport 53 ct state new update @rates { ip saddr limit rate over … } drop
//	    ip daddr RESOLVER tcp dport 53 accept
//	    goto refuse
//	  }
//	  chain forward {
//	    type filter hook forward priority filter;
//	    iifgroup g goto outward
//	    oifgroup g goto inward
//	    iifname @uplinks ct state new,invalid ct status & dnat == 0 drop
//	  }
//	  chain outward {
//	    ip daddr @deny goto refuse
//	    oifgroup g goto refuse
//	    jump redirected
//	    ct state established,related accept
//	    ct state != new drop
//	    iifgroup G jump listed                           # those with an allow list
//	    update @rates { ip saddr limit rate over … } drop
//	    add @open { ip saddr ct count over … } drop
//	    accept
//	  }
//	  chain redirected {                                 # asked for one address, sent to another
//	    ct status & dnat != 0 goto refuse
//	  }
//	  chain listed {
//	    iif . ip daddr & 255.255.255.255 . 255.255.255.255 @allowed return
//	    iif . ip daddr & 255.255.255.254 . 255.255.255.254 @allowed return
//	    …                                                # and so on to 0.0.0.0
//	    goto refuse
//	  }
//	  chain inward {
//	    ct state established,related accept
//	    drop
//	  }
//	  chain refuse {                                     # TCP learns it at once
//	    meta l4proto tcp reject with tcp reset
//	    drop
//	  }
//	  chain masquerade {
//	    type nat hook postrouting priority srcnat;
//	    ip saddr POOL oifname != "bt*" oifname != "lo" masquerade
//	  }
//	}
//
// UDP queries are not tracked because a flood of them would fill the node's
// table of connections, which the other sandboxes need too.
type firewall struct {
	config Config
	table  *nftables.Table

	noting sync.Mutex
	noted  map[string]bool // the set of uplinks, should the table get lost

	// The kernel, when a socket closes, finishes what transactions have deleted
	// before it lets the next begin, some 15 ms. So what sandboxes wait for
	// goes through one that stays open.
	lasting   sync.Mutex
	conn      *nftables.Conn // nil until it is needed
	deadlines *netlink.Conn  // of conn
}

// limitTimeout is how long an idle sandbox's rate is remembered; a token
// bucket is full again after ConnBurst/ConnRate seconds, 5 by default.
const limitTimeout = time.Minute

// transactionSize has room for a table with the allow lists of thousands of
// sandboxes, in bytes: a transaction goes to the kernel in one piece.
const transactionSize = 16 << 20

func newFirewall(c Config) *firewall {
	return &firewall{config: c, table: &nftables.Table{Name: c.tableName(), Family: nftables.TableFamilyINet}}
}

// install makes the table, or replaces an earlier process's in one step, with
// no moment without rules. Connections live on.
func (f *firewall) install() error {
	earlier, err := f.uplinks()
	if err != nil {
		return fmt.Errorf("read earlier table: %w", err)
	}
	uplinks := f.note(earlier...)
	allowed, err := f.allowed()
	if err != nil {
		return fmt.Errorf("read earlier table: %w", err)
	}
	return f.change(func(c *nftables.Conn) error {
		c.AddTable(f.table) // so that there is one to delete
		c.DelTable(f.table)
		c.AddTable(f.table)
		b := &builder{conn: c, table: f.table}
		f.build(b, uplinks, allowed)
		return b.err
	})
}

func (f *firewall) build(b *builder, uplinks []string, allowed []opening) {
	var (
		group    = f.config.group()
		resolver = f.config.resolver()
		deny     = b.set(&nftables.Set{Name: "deny", KeyType: nftables.TypeIPAddr, Interval: true}, setElements(f.config.closed()))
		allow    = b.set(f.allowedSet(), nil)
		ours     = b.set(f.uplinkSet(), uplinkElements(uplinks...))
		rates    = b.set(perSource("rates", limitTimeout), nil)
		queries  = b.set(perSource("queries", limitTimeout), nil)
		open     = b.set(perSource("open", 0), nil)

		tooFast    = perSecond(f.config.ConnRate, f.config.ConnBurst)
		tooCurious = perSecond(f.config.QueryRate, f.config.QueryBurst)
		tooMany    = &expr.Connlimit{Count: f.config.ConnMax, Flags: expr.NFT_CONNLIMIT_F_INV}

		query     = join(destination(resolver), port(unix.IPPROTO_UDP, destinationPort, 53))
		tcpQuery  = join(destination(resolver), port(unix.IPPROTO_TCP, destinationPort, 53))
		answer    = join(source(resolver), port(unix.IPPROTO_UDP, sourcePort, 53))
		following = state(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	)
	refuse := b.chain("refuse", nil, nil)
	b.rule(refuse, l4(unix.IPPROTO_TCP), match{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}})
	b.rule(refuse, drop)

	guard := b.chain("source", nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	b.rule(guard, from(expr.CmpOpNeq, group), accept)
	b.rule(guard, notIPv4, drop)
	b.rule(guard, hasOptions, drop)
	b.rule(guard, spoofed, drop)
	b.rule(guard, query, notrack)
	b.rule(b.chain("answers", nftables.ChainHookOutput, nftables.ChainPriorityRaw), to(expr.CmpOpEq, group), answer, notrack)

	local := b.chain("local", nil, nil)
	b.rule(local, query, limited(queries, unix.NFT_DYNSET_OP_UPDATE, tooCurious), drop)
	b.rule(local, query, accept)
	b.rule(local, tcpQuery, state(expr.CtStateBitNEW), limited(rates, unix.NFT_DYNSET_OP_UPDATE, tooFast), drop)
	b.rule(local, tcpQuery, accept)
	b.rule(local, jump(refuse))
	input := b.chain("input", nftables.ChainHookInput, nftables.ChainPriorityFilter)
	b.rule(input, from(expr.CmpOpEq, group), jump(local))
	b.rule(input, notBetween(expr.MetaKeyIIFNAME), within(destinationAddress, f.config.Pool), drop)

	outward := b.chain("outward", nil, nil)
	b.rule(outward, in(destinationAddress, deny), jump(refuse))
	b.rule(outward, to(expr.CmpOpEq, group), jump(refuse))
	redirected := b.chain("redirected", nil, nil)
	b.rule(redirected, forwardedPort, jump(refuse))
	b.rule(outward, call(redirected))
	b.rule(outward, following, accept)
	b.rule(outward, notState(expr.CtStateBitNEW), drop)
	listed := b.chain("listed", nil, nil)
	for bits := 32; bits >= 0; bits-- {
		b.rule(listed, opened(allow, bits), goBack)
	}
	b.rule(listed, jump(refuse))
	b.rule(outward, fromGroup(f.config.groupOf(Policy{Mode: ModeAllow})), call(listed))
	b.rule(outward, limited(rates, unix.NFT_DYNSET_OP_UPDATE, tooFast), drop)
	b.rule(outward, limited(open, unix.NFT_DYNSET_OP_ADD, tooMany), drop)
	b.rule(outward, accept)
	inward := b.chain("inward", nil, nil)
	b.rule(inward, following, accept)
	b.rule(inward, drop)
	forward := b.chain("forward", nftables.ChainHookForward, nftables.ChainPriorityFilter)
	b.rule(forward, from(expr.CmpOpEq, group), jump(outward))
	b.rule(forward, to(expr.CmpOpEq, group), jump(inward))
	b.rule(forward, cameBy(ours), state(expr.CtStateBitNEW|expr.CtStateBitINVALID), notForwardedPort, drop)

	leave := b.chain("masquerade", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	b.rule(leave, within(sourceAddress, f.config.Pool), notBetween(expr.MetaKeyOIFNAME), match{&expr.Masq{}})
	b.keep(f.addOpenings(b.conn, allowed))
}

// remove deletes the table. One that is gone already is no error.
func (f *firewall) remove() error {
	err := f.change(func(c *nftables.Conn) error {
		c.AddTable(f.table)
		c.DelTable(f.table)
		return nil
	})
	if err != nil {
		return fmt.Errorf("remove nft table %s: %w", f.table.Name, err)
	}
	return nil
}

func (f *firewall) uplinkSet() *nftables.Set {
	return &nftables.Set{Table: f.table, Name: "uplinks", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
}

// uplinks lists the interfaces that were noted.
func (f *firewall) uplinks() ([]string, error) {
	elements, err := f.elements(f.uplinkSet())
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range elements {
		names = append(names, string(bytes.TrimRight(e.Key, "\x00")))
	}
	return names, nil
}

// elements lists those of a set. A table that is not there has none, nor has
// one from before there was the set.
func (f *firewall) elements(s *nftables.Set) ([]nftables.SetElement, error) {
	conn, err := nftConn()
	if err != nil {
		return nil, err
	}
	tables, err := conn.ListTablesOfFamily(f.table.Family)
	if err != nil || !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == f.table.Name }) {
		return nil, err
	}
	sets, err := conn.GetSets(f.table)
	if err != nil || !slices.ContainsFunc(sets, func(known *nftables.Set) bool { return known.Name == s.Name }) {
		return nil, err
	}
	return conn.GetSetElements(s)
}

// note remembers uplinks and returns all that it remembers.
func (f *firewall) note(names ...string) []string {
	f.noting.Lock()
	defer f.noting.Unlock()
	if f.noted == nil {
		f.noted = make(map[string]bool)
	}
	for _, name := range names {
		f.noted[name] = true
	}
	return slices.Collect(maps.Keys(f.noted))
}

// addUplink notes an interface.
func (f *firewall) addUplink(name string) error {
	f.note(name)
	return f.change(func(c *nftables.Conn) error {
		return c.SetAddElements(f.uplinkSet(), uplinkElements(name))
	})
}

func uplinkElements(names ...string) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, name := range names {
		elements = append(elements, nftables.SetElement{Key: linkName(name)})
	}
	return elements
}

// change applies what fill collects as one transaction.
func (f *firewall) change(fill func(*nftables.Conn) error) error {
	conn, err := nftConn()
	if err != nil {
		return err
	}
	if err := fill(conn); err != nil {
		return err
	}
	return conn.Flush()
}

// changeSoon is change by the connection that stays open.
func (f *firewall) changeSoon(fill func(*nftables.Conn) error) (err error) {
	f.lasting.Lock()
	defer f.lasting.Unlock()
	if f.conn == nil {
		f.conn, err = nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
			f.deadlines = c
			return c.SetWriteBuffer(transactionSize)
		}))
		if err != nil {
			f.conn = nil
			return err
		}
	}
	if err = f.deadlines.SetDeadline(time.Now().Add(kernelTimeout)); err == nil {
		if err = fill(f.conn); err == nil {
			err = f.conn.Flush()
		}
	}
	if err != nil { // there may be answers left to read, or requests to send
		err = errors.Join(err, f.hangUp())
	}
	return err
}

// close ends what lives in this process.
func (f *firewall) close() error {
	f.lasting.Lock()
	defer f.lasting.Unlock()
	return f.hangUp()
}

func (f *firewall) hangUp() error {
	if f.conn == nil {
		return nil
	}
	err := f.conn.CloseLasting()
	f.conn = nil
	return err
}

func nftConn() (*nftables.Conn, error) {
	return nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(
			c.SetDeadline(time.Now().Add(kernelTimeout)),
			c.SetWriteBuffer(transactionSize),
		)
	}))
}

// foreignDrops names other tables' chains that drop what they do not know and
// that packets of sandboxes pass. Rules of legacy iptables are not seen.
func foreignDrops() []string {
	conn, err := nftConn()
	if err != nil {
		return nil
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil
	}
	var found []string
	for _, c := range chains {
		if c.Hooknum == nil || c.Policy == nil || strings.HasPrefix(c.Table.Name, tablePrefix) || *c.Policy != nftables.ChainPolicyDrop {
			continue
		}
		family := c.Table.Family == nftables.TableFamilyINet || c.Table.Family == nftables.TableFamilyIPv4
		if family && (*c.Hooknum == *nftables.ChainHookForward || *c.Hooknum == *nftables.ChainHookInput) {
			found = append(found, c.Table.Name+" "+c.Name)
		}
	}
	return found
}
