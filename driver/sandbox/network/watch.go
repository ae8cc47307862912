// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// messageOf is the type of a netlink message about nft tables.
const messageOf = unix.NFNL_SUBSYS_NFTABLES << 8

// watchTables listens to what becomes of the node's nft tables.
func watchTables() (*netlink.Conn, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	if err := conn.JoinGroup(unix.NFNLGRP_NFTABLES); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// keepTable puts the table back when somebody else deletes it: a reload of the
// machine's own firewall begins with the deletion of all tables (nft flush
// ruleset), and without ours sandboxes reach the host.
func (m *Manager) keepTable(ctx context.Context, events *netlink.Conn) {
	stop := context.AfterFunc(ctx, func() { events.Close() })
	defer stop()
	for {
		messages, err := events.Receive()
		if ctx.Err() != nil {
			return
		}
		// An error is that there was too much to hear, and a look cannot hurt.
		if err == nil && !slices.ContainsFunc(messages, func(message netlink.Message) bool {
			return message.Header.Type == messageOf|unix.NFT_MSG_DELTABLE
		}) {
			continue
		}
		if err := m.restoreTable(); err != nil {
			m.log.Error("the sandboxes' nft table is not put back", "table", m.firewall.table.Name, "error", err)
		}
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			m.log.Warn("the sandboxes' nft table is not watched for a moment", "error", err)
			select {
			case <-time.After(prepareRetry):
			case <-ctx.Done():
			}
		}
	}
}

// restoreTable installs the table if it is not there, and opens what was open.
func (m *Manager) restoreTable() error {
	conn, err := nftConn()
	if err != nil {
		return err
	}
	tables, err := conn.ListTablesOfFamily(m.firewall.table.Family)
	if err != nil {
		return fmt.Errorf("list nft tables: %w", err)
	}
	if slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == m.firewall.table.Name }) {
		return nil
	}
	m.log.Error("somebody has deleted the sandboxes' nft table; it is put back", "table", m.firewall.table.Name)
	if err := m.firewall.install(); err != nil {
		return fmt.Errorf("install nft table: %w", err)
	}
	var errs []error
	for _, n := range m.known() {
		errs = append(errs, n.reopen())
	}
	return errors.Join(errs...)
}

// known lists the sandboxes with an address.
func (m *Manager) known() []*Network {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*Network
	for _, n := range m.networks {
		all = append(all, n)
	}
	return all
}

// reopen opens again, in a table that has forgotten it, what the sandbox's
// list says and the resolver has opened.
func (n *Network) reopen() error {
	n.opening.Lock()
	defer n.opening.Unlock()
	if n.shut {
		return nil
	}
	all := n.ranges()
	for a, until := range n.opened {
		if left := time.Until(until); left > time.Second {
			all = append(all, opening{n.link, netip.PrefixFrom(a, 32), left})
		}
	}
	if len(all) == 0 {
		return nil
	}
	return n.manager.firewall.open(all, nil)
}
