// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Networks are ranges of addresses.
type Networks []netip.Prefix

// add reads a range or a single address.
func (n *Networks) add(text string) error {
	if p, err := netip.ParsePrefix(text); err == nil {
		*n = append(*n, p.Masked())
		return nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Errorf("%q is neither an address nor a range such as 10.0.0.0/8", text)
	}
	*n = append(*n, netip.PrefixFrom(a, a.BitLen()))
	return nil
}

// ParseNetworks reads addresses and ranges.
func ParseNetworks(texts []string) (Networks, error) {
	var n Networks
	for _, text := range texts {
		if err := n.add(text); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Contain says whether an address is in one of the networks.
func (n Networks) Contain(a netip.Addr) bool {
	for _, p := range n {
		if p.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// Client is who an address, with or without a port, counts as: itself, or its
// /64 of IPv6, which one machine has all of. It is the zero Prefix for what is
// no address.
func Client(remote string) netip.Prefix {
	a := addr(remote)
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // the zero Prefix for the zero Addr
	return p
}

func addr(remote string) netip.Addr {
	if host, _, err := net.SplitHostPort(remote); err == nil {
		remote = host
	}
	a, _ := netip.ParseAddr(remote)
	return a.Unmap().WithZone("")
}

// Behind makes a handler whose requests have as RemoteAddr the client's
// address, also when they come through trusted proxies: of X-Forwarded-For the
// last entry that is none of theirs. What others say of themselves there is
// not believed.
func Behind(proxies Networks, h http.Handler) http.Handler {
	if len(proxies) == 0 {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peer := addr(r.RemoteAddr); proxies.Contain(peer) {
			in := *r
			in.RemoteAddr = net.JoinHostPort(proxies.client(peer, r.Header["X-Forwarded-For"]).String(), "0")
			r = &in
		}
		h.ServeHTTP(w, r)
	})
}

// Client is whose address counts for a request from remote, without a port, as Behind
// has it. It is "" where remote is none of the proxies.
func (n Networks) Client(remote string, forwarded []string) string {
	peer := addr(remote)
	if !n.Contain(peer) {
		return ""
	}
	return n.client(peer, forwarded).String()
}

// client goes back from peer as far as what is said can be trusted.
func (n Networks) client(peer netip.Addr, forwarded []string) netip.Addr {
	entries := strings.Split(strings.Join(forwarded, ","), ",")
	for i := len(entries) - 1; i >= 0 && n.Contain(peer); i-- {
		a := addr(strings.TrimSpace(entries[i]))
		if !a.IsValid() {
			break
		}
		peer = a
	}
	return peer
}
