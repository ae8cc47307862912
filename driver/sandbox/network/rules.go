// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// match is a part of a rule: a condition, or what is done where all hold.
type match []expr.Any

func join(parts ...match) match { return slices.Concat(parts...) }

// builder collects the table's parts in a transaction and keeps the first
// error.
type builder struct {
	conn  *nftables.Conn
	table *nftables.Table
	err   error
}

func (b *builder) set(s *nftables.Set, elements []nftables.SetElement) *nftables.Set {
	s.Table = b.table
	b.keep(b.conn.AddSet(s, elements))
	return s
}

func (b *builder) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}

// chain adds a chain, to be jumped to if it has no hook.
func (b *builder) chain(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	c := &nftables.Chain{Table: b.table, Name: name, Hooknum: hook, Priority: priority}
	if hook != nil {
		c.Type = nftables.ChainTypeFilter
		if *hook == *nftables.ChainHookPostrouting {
			c.Type = nftables.ChainTypeNAT
		}
	}
	return b.conn.AddChain(c)
}

func (b *builder) rule(c *nftables.Chain, parts ...match) {
	b.conn.AddRule(&nftables.Rule{Table: b.table, Chain: c, Exprs: join(parts...)})
}

// perSource is a set in which the kernel keeps a state for each sandbox's
// address. Full, it would let everything pass: it has room for a /15's slots.
func perSource(name string, timeout time.Duration) *nftables.Set {
	return &nftables.Set{
		Name: name, KeyType: nftables.TypeIPAddr, KeyByteOrder: binaryutil.BigEndian,
		Dynamic: true, HasTimeout: timeout > 0, Timeout: timeout, Size: 1 << 16,
	}
}

// limited holds for a packet whose source is over limit.
func limited(s *nftables.Set, operation uint32, limit expr.Any) match {
	return join(sourceAddress.load(), match{&expr.Dynset{
		SrcRegKey: 1, SetName: s.Name, SetID: s.ID, Operation: operation, Exprs: []expr.Any{limit},
	}})
}

func perSecond(rate, burst uint32) *expr.Limit {
	return &expr.Limit{Type: expr.LimitTypePkts, Rate: uint64(rate), Unit: expr.LimitTimeSecond, Burst: burst, Over: true}
}

var (
	accept  = match{&expr.Verdict{Kind: expr.VerdictAccept}}
	goBack  = match{&expr.Verdict{Kind: expr.VerdictReturn}}
	drop    = match{&expr.Verdict{Kind: expr.VerdictDrop}}
	notrack = match{&expr.Notrack{}}

	notIPv4 = match{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
	}
	// hasOptions: the header is longer than its 5 words without options.
	hasOptions = match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 0, Len: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x0f}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpGt, Register: 1, Data: []byte{5}},
	}
	// spoofed: the packet's source is not routed to the interface it came by.
	spoofed = match{
		&expr.Fib{Register: 1, ResultOIF: true, FlagSADDR: true, FlagIIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
	// forwardedPort: a rule of another table sent the connection to
	// a different destination, as engines do for a published port.
	forwardedPort    = statusIs(expr.CmpOpNeq, statusDNAT)
	notForwardedPort = statusIs(expr.CmpOpEq, statusDNAT)
)

func statusIs(op expr.CmpOp, status uint32) match {
	return match{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: 1},
		mask(status),
		&expr.Cmp{Op: op, Register: 1, Data: make([]byte, 4)},
	}
}

// statusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const statusDNAT = 1 << 5

func jump(c *nftables.Chain) match {
	return match{&expr.Verdict{Kind: expr.VerdictGoto, Chain: c.Name}}
}

// call is a jump that comes back.
func call(c *nftables.Chain) match {
	return match{&expr.Verdict{Kind: expr.VerdictJump, Chain: c.Name}}
}

// mask keeps the given bits of register 1.
func mask(bits uint32) expr.Any {
	return &expr.Bitwise{
		SourceRegister: 1, DestRegister: 1, Len: 4,
		Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4),
	}
}

// state holds for a connection in one of the states, notState in none of them.
func state(states uint32) match    { return stateIs(expr.CmpOpNeq, states) }
func notState(states uint32) match { return stateIs(expr.CmpOpEq, states) }

func stateIs(op expr.CmpOp, states uint32) match {
	return match{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		mask(states),
		&expr.Cmp{Op: op, Register: 1, Data: make([]byte, 4)},
	}
}

func from(op expr.CmpOp, group uint32) match { return linkGroup(expr.MetaKeyIIFGROUP, op, group) }
func to(op expr.CmpOp, group uint32) match   { return linkGroup(expr.MetaKeyOIFGROUP, op, group) }

// linkGroup compares without the bit that a list adds.
func linkGroup(key expr.MetaKey, op expr.CmpOp, group uint32) match {
	return match{
		&expr.Meta{Key: key, Register: 1},
		mask(^uint32(listedBit)),
		&expr.Cmp{Op: op, Register: 1, Data: binaryutil.NativeEndian.PutUint32(group)},
	}
}

// fromGroup holds for a packet from exactly this group.
func fromGroup(group uint32) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyIIFGROUP, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(group)},
	}
}

// notBetween holds if the interface is neither lo nor a sandbox's of any
// instance.
func notBetween(key expr.MetaKey) match {
	return match{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: linkName("lo")},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte(linkPrefix)},
	}
}

// cameBy holds for a packet from an interface in s.
func cameBy(s *nftables.Set) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1},
		&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID},
	}
}

// linkName is an interface's name as the kernel compares it, IFNAMSIZ long.
func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// field is an address in the IPv4 header, by its offset.
type field uint32

const (
	sourceAddress      field = 12
	destinationAddress field = 16
)

func (f field) load() match {
	return match{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(f), Len: 4}}
}

func source(a netip.Addr) match      { return within(sourceAddress, netip.PrefixFrom(a, 32)) }
func destination(a netip.Addr) match { return within(destinationAddress, netip.PrefixFrom(a, 32)) }

// within holds for an IPv4 packet with the field in p.
func within(f field, p netip.Prefix) match {
	bits := uint32(0xffffffff) << (32 - p.Bits())
	return join(isIPv4, f.load(), match{
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.BigEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: p.Addr().AsSlice()},
	})
}

// in holds for an IPv4 packet with the field in the set.
func in(f field, s *nftables.Set) match {
	return join(isIPv4, f.load(), match{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID}})
}

var isIPv4 = match{
	&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
	&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
}

func l4(protocol byte) match {
	return match{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{protocol}},
	}
}

// Offsets in TCP's and UDP's headers.
const (
	sourcePort      = 0
	destinationPort = 2
)

func port(protocol byte, offset uint32, number uint16) match {
	return join(l4(protocol), match{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(number)},
	})
}
