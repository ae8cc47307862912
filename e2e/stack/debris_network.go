// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// links are the network interfaces with an address of the stack's pool. The
// node's own address on lo is there as long as the plugin.
func (d *debris) links() ([]item, error) {
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var items []item
	for _, addr := range addrs {
		link, err := netlink.LinkByIndex(addr.LinkIndex)
		if err != nil {
			continue // gone meanwhile
		}
		name := link.Attrs().Name
		switch {
		case !d.pool.Contains(addrOf(addr)):
		case name != "lo":
			items = append(items, item{
				what: fmt.Sprintf("network interface %s with address %s", name, addr.IPNet),
				remove: func() error {
					err := netlink.LinkDel(link)
					if errors.Is(err, unix.ENODEV) {
						return nil // it went with its namespace
					}
					return err
				},
			})
		case !d.running:
			items = append(items, item{
				what:   fmt.Sprintf("address %s on lo", addr.IPNet),
				remove: func() error { return netlink.AddrDel(link, &addr) },
				ofNode: true,
			})
		}
	}
	return items, nil
}

// bridges are the interfaces on the bridge of Nomad's networks, and of a stack
// that was stopped the bridge too, with the one rule that names it. The rest
// of Nomad's and CNI's chains in iptables is for all of the machine, and stays.
func (d *debris) bridges() ([]item, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list network interfaces: %w", err)
	}
	index := 0
	for _, link := range links {
		if link.Attrs().Name == d.bridge {
			index = link.Attrs().Index
		}
	}
	if index == 0 {
		return nil, nil
	}
	var items []item
	for _, link := range links {
		attrs := link.Attrs()
		switch {
		case attrs.MasterIndex == index:
			items = append(items, item{
				what:   fmt.Sprintf("network interface %s on bridge %s", attrs.Name, d.bridge),
				remove: func() error { return netlink.LinkDel(link) },
			})
		case attrs.Index == index && !d.running:
			items = append(items, item{
				what:   "bridge " + d.bridge,
				remove: func() error { return errors.Join(d.forgetBridge(), netlink.LinkDel(link)) },
				ofNode: true,
			})
		}
	}
	return items, nil
}

// forgetBridge deletes the rule that Nomad has made for the bridge.
func (d *debris) forgetBridge() error {
	rule := []string{"NOMAD-ADMIN", "-o", d.bridge, "-d", d.bridgeSubnet.String(), "-j", "ACCEPT"}
	iptables := func(operation string) ([]byte, error) {
		return exec.Command("iptables", append([]string{"-w", "5", operation}, rule...)...).CombinedOutput()
	}
	if _, err := iptables("-C"); err != nil {
		return nil // not there, or not Nomad's kind of iptables
	}
	if out, err := iptables("-D"); err != nil {
		return fmt.Errorf("delete iptables rule %v: %w: %s", rule, err, out)
	}
	return nil
}

// tables are the nft tables that plugins have made, which are named after their
// ranges of addresses.
func (d *debris) tables() ([]item, error) {
	if d.running {
		return nil, nil
	}
	conn := &nftables.Conn{}
	tables, err := conn.ListTables()
	if err != nil {
		return nil, fmt.Errorf("list nft tables: %w", err)
	}
	var items []item
	for _, table := range tables {
		name, ours := strings.CutPrefix(table.Name, "buntime_")
		pool, err := netip.ParsePrefix(strings.ReplaceAll(name, "_", "/"))
		if !ours || err != nil || !d.pool.Overlaps(pool) {
			continue
		}
		items = append(items, item{
			what: "nft table " + table.Name,
			remove: func() error {
				conn.DelTable(table)
				return conn.Flush()
			},
			ofNode: true,
		})
	}
	return items, nil
}

// dump lists what the kernel has, again when something changed meanwhile: such
// a list may lack anything.
func dump[T any](list func() ([]T, error)) ([]T, error) {
	for {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
}

func addrOf(addr netlink.Addr) netip.Addr {
	ip, _ := netip.AddrFromSlice(addr.IP)
	return ip.Unmap()
}
