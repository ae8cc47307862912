// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

const (
	// An address that a name was answered with is reached for its TTL, but at
	// least openMin, as programs keep addresses longer than they may, and at
	// most openMax; longer TTLs are cut to that. openExtra is on top, so that
	// a name that is asked for all the time does not change the table as often.
	openMin   = time.Minute
	openMax   = time.Hour
	openExtra = time.Minute
	// openedMax is how many of these a sandbox may have.
	openedMax = 1024
	// elementsPerMessage keeps a message below its limit of 64 KiB.
	elementsPerMessage = 500
)

// opening lets a sandbox with an allow list reach a range. The sandbox is
// known by the index of its interface, which the kernel gives to no other
// until it has counted through 31 bits: what one leaves behind opens nothing
// for the next of its slot.
type opening struct {
	link int
	to   netip.Prefix
	last time.Duration // 0: as long as the interface
}

const openingSize = 3 * 4 // link, address, mask

func (o opening) element() nftables.SetElement {
	key := make([]byte, 0, openingSize)
	key = binary.NativeEndian.AppendUint32(key, uint32(o.link))
	key = append(key, o.to.Masked().Addr().AsSlice()...)
	key = append(key, maskOf(o.to.Bits())...)
	return nftables.SetElement{Key: key, Timeout: o.last}
}

func openingOf(e nftables.SetElement) (opening, bool) {
	if len(e.Key) != openingSize {
		return opening{}, false
	}
	bits := 0
	for m := binary.BigEndian.Uint32(e.Key[8:]); m != 0; m <<= 1 {
		bits++
	}
	o := opening{
		link: int(binary.NativeEndian.Uint32(e.Key)),
		to:   netip.PrefixFrom(netip.AddrFrom4([4]byte(e.Key[4:8])), bits),
	}
	if e.Timeout > 0 {
		o.last = e.Expires
		return o, e.Expires >= time.Millisecond // what the kernel counts in; 0 would be for ever
	}
	return o, true
}

func maskOf(bits int) []byte {
	return binaryutil.BigEndian.PutUint32(uint32(uint64(0xffffffff) << (32 - bits)))
}

func (f *firewall) allowedSet() *nftables.Set {
	return &nftables.Set{
		Table: f.table, Name: "allowed", HasTimeout: true, Concatenation: true,
		KeyType: nftables.MustConcatSetType(nftables.TypeIFIndex, nftables.TypeIPAddr, nftables.TypeIPAddr),
	}
}

// opened holds if the range with so many bits that the packet's destination is
// in is open to the interface that it came by.
func opened(s *nftables.Set, bits int) match {
	const first, second, third = 8, 9, 10 // registers of 4 bytes (NFT_REG32_00 …)
	mask := maskOf(bits)
	return match{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: first},
		&expr.Payload{DestRegister: second, Base: expr.PayloadBaseNetworkHeader, Offset: uint32(destinationAddress), Len: 4},
		&expr.Bitwise{SourceRegister: second, DestRegister: second, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Immediate{Register: third, Data: mask},
		&expr.Lookup{SourceRegister: first, SetName: s.Name, SetID: s.ID},
	}
}

// allowed lists the openings of the sandboxes that have an interface.
func (f *firewall) allowed() ([]opening, error) {
	elements, err := f.elements(f.allowedSet())
	if err != nil || len(elements) == 0 {
		return nil, err
	}
	live, err := f.liveLinks()
	if err != nil {
		return nil, err
	}
	var found []opening
	for _, e := range elements {
		if o, ok := openingOf(e); ok && live[o.link] {
			found = append(found, o)
		}
	}
	return found, nil
}

// open makes openings. Of those that may be there the time begins again:
// before Linux 6.12 the kernel leaves it as it is unless they are deleted.
func (f *firewall) open(fresh, again []opening) error {
	return f.changeSoon(func(c *nftables.Conn) error {
		return errors.Join(f.deleteOpenings(c, again), f.addOpenings(c, again), f.addOpenings(c, fresh))
	})
}

// shut removes openings, of which some may be over.
func (f *firewall) shut(openings []opening) error {
	return f.changeSoon(func(c *nftables.Conn) error { return f.deleteOpenings(c, openings) })
}

// shutDead removes the openings of interfaces that are gone.
func (f *firewall) shutDead() error {
	// Listed before the interfaces: what is listed and alive has one.
	elements, err := f.elements(f.allowedSet())
	if err != nil {
		return fmt.Errorf("list allow lists of nft table %s: %w", f.table.Name, err)
	}
	live, err := f.liveLinks()
	if err != nil {
		return err
	}
	var dead []opening
	for _, e := range elements {
		if o, ok := openingOf(e); ok && !live[o.link] {
			dead = append(dead, o)
		}
	}
	if len(dead) == 0 {
		return nil
	}
	if err := f.shut(dead); err != nil {
		return fmt.Errorf("remove allow lists of dead sandboxes: %w", err)
	}
	return nil
}

// liveLinks are the indexes of the sandboxes' interfaces.
func (f *firewall) liveLinks() (map[int]bool, error) {
	links, err := sandboxLinks(f.config)
	if err != nil {
		return nil, fmt.Errorf("list the sandboxes' interfaces: %w", err)
	}
	live := make(map[int]bool, len(links))
	for _, link := range links {
		live[link.Attrs().Index] = true
	}
	return live, nil
}

func (f *firewall) addOpenings(c *nftables.Conn, openings []opening) error {
	for some := range slices.Chunk(openings, elementsPerMessage) {
		if err := c.SetAddElements(f.allowedSet(), elementsOf(some)); err != nil {
			return err
		}
	}
	return nil
}

// deleteOpenings adds them before, so that there are some to delete.
func (f *firewall) deleteOpenings(c *nftables.Conn, openings []opening) error {
	if err := f.addOpenings(c, openings); err != nil {
		return err
	}
	for some := range slices.Chunk(openings, elementsPerMessage) {
		if err := c.SetDeleteElements(f.allowedSet(), elementsOf(some)); err != nil {
			return err
		}
	}
	return nil
}

func elementsOf(openings []opening) []nftables.SetElement {
	elements := make([]nftables.SetElement, len(openings))
	for i, o := range openings {
		elements[i] = o.element()
	}
	return elements
}

// openRanges opens what the sandbox's policy says without a name.
func (n *Network) openRanges() error {
	if len(n.policy.Ranges) == 0 {
		return nil
	}
	if err := n.manager.firewall.open(n.ranges(), nil); err != nil {
		return fmt.Errorf("open the ranges of the allow list: %w", err)
	}
	return nil
}

func (n *Network) ranges() []opening {
	var all []opening
	for _, r := range n.policy.Ranges {
		all = append(all, opening{link: n.link, to: r})
	}
	return all
}

// admit lets the sandbox reach addresses that one of its names was answered
// with, before it learns them. What the node has closed stays so.
func (n *Network) admit(addresses []netip.Addr, ttl time.Duration) error {
	n.opening.Lock()
	defer n.opening.Unlock()
	if n.shut {
		return os.ErrClosed
	}
	now := time.Now()
	last := min(max(ttl, openMin), openMax)
	var fresh, again []opening
	for _, a := range addresses {
		one := netip.PrefixFrom(a, 32)
		if n.policy.within(a) || covered(n.manager.closed, one) || !n.opened[a].Before(now.Add(last)) {
			continue
		}
		o := opening{n.link, one, last + openExtra}
		if _, known := n.opened[a]; known {
			again = append(again, o)
		} else {
			fresh = append(fresh, o)
		}
	}
	if len(fresh)+len(again) == 0 {
		return nil
	}
	if len(n.opened)+len(fresh) > openedMax {
		n.forget(now)
	}
	if len(n.opened)+len(fresh) > openedMax {
		return fmt.Errorf("names were answered with more than %d addresses", openedMax)
	}
	if err := n.manager.firewall.open(fresh, again); err != nil {
		return fmt.Errorf("open addresses to the sandbox: %w", err)
	}
	for _, o := range append(fresh, again...) {
		n.opened[o.to.Addr()] = now.Add(o.last)
	}
	return nil
}

// forget drops what has been over for a while, for the kernel too, from the
// account.
func (n *Network) forget(now time.Time) {
	for a, until := range n.opened {
		if until.Add(openExtra).Before(now) {
			delete(n.opened, a)
		}
	}
}

// inherit takes over what an earlier process opened.
func (n *Network) inherit(all []opening) {
	for _, o := range all {
		if o.link == n.link && o.last > 0 {
			n.opened[o.to.Addr()] = time.Now().Add(o.last)
		}
	}
}

// shutAll removes what was opened to the sandbox.
func (n *Network) shutAll() error {
	n.opening.Lock()
	defer n.opening.Unlock()
	n.shut = true
	all := n.ranges()
	for a := range n.opened {
		all = append(all, opening{link: n.link, to: netip.PrefixFrom(a, 32)})
	}
	n.opened = nil
	if len(all) == 0 {
		return nil
	}
	if err := n.manager.firewall.shut(all); err != nil {
		return fmt.Errorf("remove the sandbox's allow list from the table: %w", err)
	}
	return nil
}
