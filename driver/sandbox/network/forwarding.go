// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// followInterval is how soon a new way outside is used: a route that DHCP or
// an operator changed. Reading the main table of a node with 1,000 sandboxes
// takes some milliseconds.
const followInterval = 10 * time.Second

// The kernel forwards an IPv4 packet if its *incoming* interface forwards. So
// what sandboxes need is forwarding on their own interfaces and on those that
// answers come in by, not the global ip_forward, which would make a router of
// every interface of the machine. Where an interface forwards already (as on
// hosts with Docker) nothing is changed. Those that are changed stand in the
// table's set of uplinks, so that a later process knows what to restore, and
// on these the table lets nobody open a connection through the host that was
// not possible before.

// outwardLinks finds the interfaces to which some route to an allowed
// destination leads.
func outwardLinks(c Config) ([]netlink.Link, error) {
	host, err := routeHandle()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	routes, err := dump(func() ([]netlink.Route, error) { return host.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	closed := c.closed()
	indexes := make(map[int]bool)
	for _, route := range routes {
		if route.Type != unix.RTN_UNICAST || denied(closed, route.Dst) {
			continue
		}
		indexes[route.LinkIndex] = true
		for _, hop := range route.MultiPath {
			indexes[hop.LinkIndex] = true
		}
	}
	links, err := dump(host.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	var outward []netlink.Link
	for _, link := range links {
		attrs := link.Attrs()
		if indexes[attrs.Index] && attrs.Index != loopbackIndex && !c.owns(attrs.Group) {
			outward = append(outward, link)
		}
	}
	return outward, nil
}

// denied reports whether no sandbox may reach any address of dst.
func denied(closed []span, dst *net.IPNet) bool {
	if dst == nil {
		return false // the default route
	}
	first, _ := netip.AddrFromSlice(dst.IP.To4())
	bits, _ := dst.Mask.Size()
	return covered(closed, netip.PrefixFrom(first, bits))
}

func smallestMTU(links []netlink.Link) int {
	smallest := 0
	for _, link := range links {
		if mtu := link.Attrs().MTU; smallest == 0 || mtu < smallest {
			smallest = mtu
		}
	}
	return smallest
}

// forward turns forwarding on where it is off.
func (m *Manager) forward(outward []netlink.Link) error {
	for _, link := range outward {
		name := link.Attrs().Name
		on, err := forwards(name)
		if err != nil {
			return fmt.Errorf("read forwarding of %s: %w", name, err)
		}
		if on {
			continue
		}
		if err := m.firewall.addUplink(name); err != nil {
			return fmt.Errorf("note forwarding of %s: %w", name, err)
		}
		if err := setSysctls([]sysctl{{forwardingKey(name), "1"}}); err != nil {
			return fmt.Errorf("turn on forwarding of %s: %w", name, err)
		}
		m.log.Info("turned on IPv4 forwarding of an interface that leads outside", "interface", name)
	}
	return nil
}

// unforward turns forwarding off where this or an earlier process turned it on,
// unless the whole node has become a router since, as by the first of Nomad's
// bridge networks.
func (m *Manager) unforward() error {
	inTable, err := m.firewall.uplinks()
	if err != nil {
		return fmt.Errorf("read the interfaces whose forwarding was turned on: %w", err)
	}
	names := m.firewall.note(inTable...)
	var errs []error
	if everywhere, err := forwards("all"); err == nil && everywhere && len(names) > 0 {
		m.log.Info("IPv4 forwarding is on for the whole node by now and stays so", "interfaces", names)
		return nil
	}
	for _, name := range names {
		err := setSysctls([]sysctl{{forwardingKey(name), "0"}})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("turn off forwarding of %s: %w", name, err))
			continue
		}
		m.log.Info("turned off IPv4 forwarding again", "interface", name)
	}
	return errors.Join(errs...)
}

// followUplinks keeps forwarding on where routes lead outside.
func (m *Manager) followUplinks(ctx context.Context) {
	ticker := time.NewTicker(followInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if err := m.refreshUplinks(); err != nil {
			m.log.Warn("the interfaces that lead outside are not followed", "error", err)
		}
	}
}

func (m *Manager) refreshUplinks() error {
	outward, err := outwardLinks(m.config)
	if err != nil {
		return err
	}
	return m.forward(outward)
}

func forwardingKey(link string) string { return "ipv4/conf/" + link + "/forwarding" }

func forwards(link string) (bool, error) {
	value, err := os.ReadFile("/proc/sys/net/" + forwardingKey(link))
	return strings.TrimSpace(string(value)) == "1", err
}
