// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// guestLink is the sandbox's interface.
const guestLink = "eth0"

// plug connects the sandbox to the host with a veth whose far end is made in
// the sandbox's namespace: moving it there afterwards would cost the kernel
// a wait for all readers of the device.
func (n *Network) plug() (err error) {
	m := n.manager
	hostAddress, address := m.config.pair(n.slot)
	hostMAC, mac := macOf(hostAddress), macOf(address)
	host, err := routeHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	if n.link, err = n.addVeth(host, hostMAC, mac); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_, uerr := n.unplug()
			err = errors.Join(err, uerr)
			n.link = 0
		}
	}()
	name := m.config.linkName(n.slot)
	err = setSysctls([]sysctl{
		{"ipv6/conf/" + name + "/disable_ipv6", "1"},
		{"ipv4/conf/" + name + "/forwarding", "1"},
	})
	if err != nil {
		return err
	}
	end := linkEnd{index: n.link, address: hostAddress, peer: address, peerMAC: mac}
	if err := end.up(host); err != nil {
		return fmt.Errorf("set up %s: %w", name, err)
	}
	err = m.within(n.ns.file, func() error {
		guest, err := routeHandle()
		if err != nil {
			return err
		}
		defer guest.Close()
		link, err := guest.LinkByName(guestLink)
		if err != nil {
			return fmt.Errorf("find %s: %w", guestLink, err)
		}
		end := linkEnd{index: link.Attrs().Index, address: address, peer: hostAddress, peerMAC: hostMAC}
		if err := end.up(guest); err != nil {
			return fmt.Errorf("set up %s: %w", guestLink, err)
		}
		return guest.RouteAdd(&netlink.Route{LinkIndex: end.index, Gw: hostAddress.AsSlice()})
	})
	if err != nil {
		return err
	}
	return waitOperational(host, n.link)
}

// waitOperational waits until the end that was set up first transmits. It has
// a carrier only since the other end is up too, and the kernel acts on that
// later, in a worker; until then it drops what the host sends, so that a first
// answer would be lost now and then. From Linux 6.8 the question itself makes
// the kernel catch up.
func waitOperational(h *netlink.Handle, index int) error {
	for deadline := time.Now().Add(kernelTimeout); ; time.Sleep(time.Millisecond) {
		link, err := h.LinkByIndex(index)
		if err != nil {
			return fmt.Errorf("read interface's state: %w", err)
		}
		if state := link.Attrs().OperState; state == netlink.OperUp {
			return nil
		} else if time.Now().After(deadline) {
			return fmt.Errorf("interface is %s after %s", state, kernelTimeout)
		}
	}
}

// addVeth makes both ends and returns the index of the host's. One that is
// there already is a dead sandbox's: the slot is ours.
func (n *Network) addVeth(host *netlink.Handle, hostMAC, mac net.HardwareAddr) (int, error) {
	m := n.manager
	attrs := netlink.NewLinkAttrs()
	attrs.Name = m.config.linkName(n.slot)
	attrs.Group = m.config.groupOf(n.policy)
	attrs.MTU = m.mtu
	// Addresses given here keep udev from giving others (MACAddressPolicy).
	attrs.HardwareAddr = hostMAC
	// By default the kernel makes a queue for each processor.
	attrs.NumTxQueues, attrs.NumRxQueues = 1, 1
	veth := netlink.NewVeth(attrs)
	veth.PeerName = guestLink
	veth.PeerHardwareAddr = mac
	veth.PeerNamespace = netlink.NsFd(int(n.ns.file.Fd()))
	err := host.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		if err := n.remove(); err != nil {
			return 0, fmt.Errorf("remove %s of an earlier sandbox: %w", attrs.Name, err)
		}
		err = host.LinkAdd(veth)
	}
	if err != nil {
		return 0, fmt.Errorf("add veth %s: %w", attrs.Name, err)
	}
	return veth.Index, nil
}

// linkEnd is one end of a veth and what it knows of the other.
type linkEnd struct {
	index         int
	address, peer netip.Addr
	peerMAC       net.HardwareAddr
}

// up gives the end its address. The neighbour is entered for good: it spares
// ARP, and permanent neighbours do not count against the kernel's limit of
// 1,024 (gc_thresh3), which holds for all namespaces together.
func (e linkEnd) up(h *netlink.Handle) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: e.index}}
	pair := &net.IPNet{IP: e.address.AsSlice(), Mask: net.CIDRMask(31, 32)}
	if err := h.AddrAdd(link, &netlink.Addr{IPNet: pair}); err != nil {
		return fmt.Errorf("add address %s: %w", pair, err)
	}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set interface up: %w", err)
	}
	err := h.NeighSet(&netlink.Neigh{
		LinkIndex: e.index, IP: e.peer.AsSlice(), HardwareAddr: e.peerMAC, State: netlink.NUD_PERMANENT,
	})
	if err != nil {
		return fmt.Errorf("add neighbour %s: %w", e.peer, err)
	}
	return nil
}

// macOf is the hardware address of the end with the address a: locally
// administered, and the same after a restart.
func macOf(a netip.Addr) net.HardwareAddr {
	b := a.As4()
	return net.HardwareAddr{0x02, 'b', b[0], b[1], b[2], b[3]}
}

// unplug deletes the slot's interface. One that is gone already is no error. silent says
// that the sandbox, whose processes are gone, has never sent anything through it.
func (n *Network) unplug() (silent bool, err error) {
	host, err := routeHandle()
	if err != nil {
		return false, err
	}
	defer host.Close()
	name := n.manager.config.linkName(n.slot)
	link, err := host.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("find %s: %w", name, err)
	}
	if !n.manager.config.owns(link.Attrs().Group) {
		return false, fmt.Errorf("interface %s is not a sandbox's", name)
	}
	stats := link.Attrs().Statistics
	silent = stats != nil && stats.RxPackets == 0
	if err := host.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return false, fmt.Errorf("delete %s: %w", name, err)
	}
	return silent, nil
}

// findLink finds the slot's interface and makes sure that its other end is in
// the sandbox's namespace.
func (n *Network) findLink() error {
	host, err := routeHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	name := n.manager.config.linkName(n.slot)
	link, err := host.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	peer, err := host.GetNetNsIdByFd(int(n.ns.file.Fd()))
	if err != nil {
		return fmt.Errorf("identify the sandbox's namespace: %w", err)
	}
	attrs := link.Attrs()
	if attrs.Group != n.manager.config.groupOf(n.policy) {
		return fmt.Errorf("interface %s is not that of a sandbox with mode %s", name, n.policy.Mode)
	}
	if peer < 0 || attrs.NetNsID != peer {
		return fmt.Errorf("interface %s does not lead to the sandbox", name)
	}
	n.link = attrs.Index
	return nil
}

// sandboxLinks lists the slots that have an interface.
func sandboxLinks(c Config) (map[int]netlink.Link, error) {
	host, err := routeHandle()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	links, err := dump(host.LinkList)
	if err != nil {
		return nil, err
	}
	found := make(map[int]netlink.Link)
	for _, link := range links {
		attrs := link.Attrs()
		if slot, ok := c.slotOf(attrs.Name); ok && c.owns(attrs.Group) {
			found[slot] = link
		}
	}
	return found, nil
}

// addServiceAddress puts the resolver's address on lo, not on an interface of
// its own, because the kernel's dummy driver is missing from small kernels.
// The scope keeps it from being chosen as a source.
func addServiceAddress(c Config) error {
	host, err := routeHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	err = host.AddrAdd(loopback, serviceAddress(c))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func removeServiceAddress(c Config) error {
	host, err := routeHandle()
	if err != nil {
		return err
	}
	defer host.Close()
	if err := host.AddrDel(loopback, serviceAddress(c)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("remove service address %s: %w", c.resolver(), err)
	}
	return nil
}

var loopback = &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: loopbackIndex}}

func serviceAddress(c Config) *netlink.Addr {
	return &netlink.Addr{
		IPNet: &net.IPNet{IP: c.resolver().AsSlice(), Mask: net.CIDRMask(32, 32)},
		Label: "lo:buntime",
		Scope: unix.RT_SCOPE_HOST,
	}
}
