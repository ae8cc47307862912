// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"strconv"
	"strings"
)

// Mode says what a sandbox may reach.
type Mode string

const (
	// ModeNone is a loopback and nothing else.
	ModeNone Mode = "none"
	// ModeInternet reaches what the deny list does not name.
	ModeInternet Mode = "internet"
)

// Policy is what one sandbox may reach.
type Policy struct {
	Mode Mode
}

// Config is the node's network. The zero value of a field means its default.
type Config struct {
	// Pool is where the sandboxes' addresses come from, two each. It is also
	// what tells instances on one machine apart: each needs its own.
	// Default 198.18.0.0/15, the range of RFC 2544 that no network routes.
	Pool netip.Prefix
	// Deny is where sandboxes get no connection. It replaces [DefaultDeny].
	// The host and the other sandboxes are out of reach in any case, and so
	// is everything by IPv6.
	Deny []netip.Prefix
	// Resolvers are asked for names in this order. Default: those of
	// /etc/resolv.conf, which is read again when it changes.
	Resolvers []netip.AddrPort
	// Names is asked before a name is looked up for the sandbox with the
	// address source; an error refuses the name and is logged. The name is in
	// lower case and ends in a dot. Default: any name.
	Names func(source netip.Addr, name string) error
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
// private networks and the metadata services of the clouds.
var DefaultDeny = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("10.0.0.0/8"),
	netip.MustParsePrefix("100.64.0.0/10"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("198.18.0.0/15"),
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
	if c.Deny == nil {
		c.Deny = DefaultDeny
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

func (c Config) validate() error {
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
	return nil
}

// group is the link group of the sandboxes' host interfaces. A hash, so that
// two instances and other users of link groups do not meet by chance.
func (c Config) group() uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, "buntime ", c.Pool)
	return h.Sum32()>>1 | 1 // as ip prints it; never 0, the group of all other interfaces
}

// linkPrefix begins the names of the host's interfaces of all instances.
const linkPrefix = "bt"

// linkName is the host's interface of a slot: the sandbox's address in
// hexadecimal, which no two instances share.
func (c Config) linkName(slot int) string {
	_, sandbox := c.pair(slot)
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
