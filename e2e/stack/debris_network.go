// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// links are the network interfaces with an address of the stack's pool. The
// node's own address on lo is there as long as the plugin.
func (d *debris) links() ([]item, error) {
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
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
				what:   fmt.Sprintf("network interface %s with address %s", name, addr.IPNet),
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

// tables is the nft table that the plugin has made.
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
		if table.Name != d.table {
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

func addrOf(addr netlink.Addr) netip.Addr {
	ip, _ := netip.AddrFromSlice(addr.IP)
	return ip.Unmap()
}
