// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package network builds the host's side of a sandbox's network: a network
// namespace with a loopback and, for a sandbox that may use the internet, one
// veth to the host with an address of its own, masqueraded, filtered and with
// names resolved by the node.
//
// # The node
//
// What is common to all sandboxes is made once by [New] and outlives the
// process: one nft table, a service address on lo on which the resolver
// listens, and forwarding on the interfaces that lead outside. A sandbox adds
// to that two ends of a veth and nothing else: its interface is recognised by
// its link group and its address by the route to it, so that no rule, no set
// element and no lock is shared between set-ups.
//
// # Allow lists
//
// A sandbox with an allow list has a link group of its own kind, and from that
// alone reaches nothing but the resolver. What is opened to it are elements of
// one nft set: interface, range, and for the addresses of names a time to live.
// They are made by transactions of microseconds, one after the other, and live
// on with the table when the process ends; without the process no name opens
// anything new.
//
// # Addresses
//
// The pool is cut into pairs. The first pair's second address is the
// resolver's; slot n has pair n+1, the host's end first. With the default pool
// slot 0 is 198.18.0.2 (host) and 198.18.0.3 (sandbox) on the interface
// btc6120003, the sandbox's address in hexadecimal.
//
// # Other firewalls
//
// An nft verdict accept ends only the chain that it stands in. What this
// package refuses stays refused whatever other tables say, but what another
// table drops it cannot allow: with a forward policy of drop (Docker's) or an
// input policy of drop (ufw's, firewalld's) the operator has to let the
// sandboxes' interfaces pass there, for Docker:
//
//	iptables -I DOCKER-USER -i bt+ -j ACCEPT
//	iptables -I DOCKER-USER -o bt+ -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
//
// and for an input policy UDP and TCP port 53 from bt+. New warns of such
// policies when it sees them. Tables of others are never changed.
package network
