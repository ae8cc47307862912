// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Config is the node's network. The zero value of a field means its default.
type Config struct {
	// Pool is where the sandboxes' addresses come from, two each. It is also
	// what tells instances on one machine apart: each needs its own.
	// Default 198.18.0.0/15, the range of RFC 2544 that no network routes.
	Pool netip.Prefix
	// Deny is where sandboxes get no connection, besides [DefaultDeny]. The
	// host and the other sandboxes are out of reach in any case, and so is
	// everything by IPv6.
	Deny []netip.Prefix
	// Allow are exceptions from DefaultDeny, as for a mirror of packages in
	// a private network. They open nothing of [NeverAllowed] and of Deny.
	Allow []netip.Prefix
	// Resolvers are asked for names in this order. Default: those of
	// /etc/resolv.conf, which is read again when it changes.
	Resolvers []netip.AddrPort
	// ConnRate is how many connections (TCP, UDP or other flows) per second a
	// sandbox may open, and ConnBurst how many at once before that counts.
	// Defaults 100 and 500: a package install opens up to some hundred, a
	// port scan wants thousands.
	ConnRate, ConnBurst uint32
	// ConnMax is how many connections a sandbox may have open outside.
	// Default 1024: the kernel's table of connections, shared by the whole
	// node, has 262144 places by default.
	ConnMax uint32
	// QueryRate and QueryBurst limit UDP packets to the resolver as ConnRate
	// and ConnBurst limit connections. Defaults 200 and 400.
	QueryRate, QueryBurst uint32
	// Ready is how many empty namespaces are kept made in advance, which
	// halves what Create takes. Default 0.
	Ready int
}

// DefaultDeny are the addresses that are not the internet: RFC 6890's special
// purpose registry as far as something may answer there, among them the
// private networks, and [NeverAllowed].
var DefaultDeny = append([]netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
}, NeverAllowed...)

// NeverAllowed are the addresses of DefaultDeny that no exception opens: those
// that mean the sandbox itself or many at once, and the metadata services of
// the clouds, which give the node's credentials to whoever asks.
var NeverAllowed = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),     // link-local; most clouds' services
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba's
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's, in the middle of the internet
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle's
	netip.MustParsePrefix("224.0.0.0/4"),
	netip.MustParsePrefix("240.0.0.0/4"),
}

var (
	// ErrSlot is a slot that the pool has no addresses for.
	ErrSlot = errors.New("no such slot")
	// ErrBusy is a slot that a sandbox already has.
	ErrBusy = errors.New("slot in use")
)

func (c Config) withDefaults() Config {
	if !c.Pool.IsValid() {
		c.Pool = netip.MustParsePrefix("198.18.0.0/15")
	}
	for _, d := range []struct {
		field *uint32
		value uint32
	}{
		{&c.ConnRate, 100},
		{&c.ConnBurst, 500},
		{&c.ConnMax, 1024},
		{&c.QueryRate, 200},
		{&c.QueryBurst, 400},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	c.Pool = c.Pool.Masked()
	return c
}

// Validate says what of the configuration cannot be.
func (c Config) Validate() error {
	c = c.withDefaults()
	switch {
	case !c.Pool.Addr().Is4() || c.Pool.Bits() < 15 || c.Pool.Bits() > 30:
		return fmt.Errorf("pool %s: want an IPv4 range between /15 and /30", c.Pool)
	case c.Ready < 0:
		return fmt.Errorf("ready %d: want 0 or more", c.Ready)
	}
	for _, p := range c.Deny {
		if !p.IsValid() {
			return errors.New("deny: invalid address range")
		}
	}
	never := spansOf(append(NeverAllowed, c.Pool)...)
	for _, p := range c.Allow {
		switch {
		case !p.IsValid() || !p.Addr().Is4():
			return fmt.Errorf("allow %s: want an IPv4 range", p)
		case covered(never, p):
			return fmt.Errorf("allow %s: metadata services, special addresses and the sandboxes themselves have no exceptions", p)
		case len(subtract(spansOf(p), spansOf(DefaultDeny...))) > 0:
			return fmt.Errorf("allow %s: is open already, at least in part; exceptions are for the private and special ranges", p)
		}
	}
	return nil
}

// closed is where no sandbox gets a connection.
func (c Config) closed() []span {
	builtin := subtract(spansOf(DefaultDeny...), spansOf(c.Allow...))
	always := spansOf(slices.Concat(NeverAllowed, c.Deny, []netip.Prefix{c.Pool})...)
	return merge(append(builtin, always...))
}

// group is the link group of the sandboxes' host interfaces. A hash, so that
// two instances and other users of link groups do not meet by chance.
func (c Config) group() uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, "buntime ", c.Pool)
	return h.Sum32()>>2 | 1 // never 0, the group of all other interfaces
}

// listedBit, in its interface's group, marks a sandbox with an allow list: it
// has the mark before anything runs in it, keeps it when this process ends,
// and without the list reaches nothing.
const listedBit = 1 << 30

func (c Config) groupOf(p Policy) uint32 {
	if p.Mode == ModeAllow {
		return c.group() | listedBit
	}
	return c.group()
}

// owns reports whether a link group is that of a sandbox of this instance.
func (c Config) owns(group uint32) bool { return group&^listedBit == c.group() }

// linkPrefix begins the names of the host's interfaces of all instances.
const linkPrefix = "bt"

// linkName is the host's interface of a slot: the sandbox's address in
// hexadecimal, which no two instances share.
func (c Config) linkName(slot int) string {
	_, sandbox := c.pair(slot)
	return linkNameOf(sandbox)
}

func linkNameOf(sandbox netip.Addr) string {
	return fmt.Sprintf("%s%08x", linkPrefix, v4(sandbox))
}

// slotOf is the slot whose interface has the name.
func (c Config) slotOf(link string) (int, bool) {
	digits, ours := strings.CutPrefix(link, linkPrefix)
	address, err := strconv.ParseUint(digits, 16, 32)
	if !ours || err != nil || !c.Pool.Contains(fromV4(uint32(address))) {
		return 0, false
	}
	slot := int(uint32(address)-v4(c.Pool.Addr()))/2 - 1
	return slot, slot >= 0 && c.linkName(slot) == link
}

// tablePrefix begins the names of the nft tables of all instances.
const tablePrefix = "buntime_"

func (c Config) tableName() string {
	return tablePrefix + strings.ReplaceAll(c.Pool.String(), "/", "_")
}

// slots is how many sandboxes the pool has addresses for.
func (c Config) slots() int {
	return 1<<(31-c.Pool.Bits()) - 1
}

// resolver is the service address.
func (c Config) resolver() netip.Addr {
	return nth(c.Pool, 1)
}

// pair gives a slot's addresses.
func (c Config) pair(slot int) (host, sandbox netip.Addr) {
	return nth(c.Pool, 2*slot+2), nth(c.Pool, 2*slot+3)
}

// nth is the address n places after the first of p.
func nth(p netip.Prefix, n int) netip.Addr {
	return fromV4(v4(p.Addr()) + uint32(n))
}

// v4 is an IPv4 address as a number, which ranges are counted in.
func v4(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func fromV4(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
