// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// aliasesMax is how long a chain of aliases may be at least, however its
// records are ordered. Resolvers give up after as many or fewer.
const aliasesMax = 16

// listOf finds the sandbox that asks if it has an allow list, else nil. That
// it has one is the kernel's word where this process does not know it yet.
func (r *resolver) listOf(source netip.Addr) (*Network, error) {
	if n := r.sandboxAt(source); n != nil {
		if n.policy.Mode != ModeAllow {
			return nil, nil
		}
		return n, nil
	}
	host, err := routeHandle()
	if err != nil {
		return nil, err
	}
	defer host.Close()
	name := linkNameOf(source)
	link, err := host.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("find interface %s of who asks: %w", name, err)
	}
	if link.Attrs().Group != r.config.group() {
		return nil, errors.New("the sandbox's allow list is not known yet")
	}
	return nil, nil
}

// admitAnswer lets the sandbox reach what its question was answered with and
// takes everything else out of the answer.
func (n *Network) admitAnswer(answer *dns.Msg) error {
	answer.Answer = chain(answer.Answer, answer.Question[0].Name)
	// Addresses that nobody asked for would be addresses that nothing opens.
	answer.Extra = slices.DeleteFunc(answer.Extra, func(r dns.RR) bool { return r.Header().Rrtype != dns.TypeOPT })
	var addresses []netip.Addr
	ttl := openMax
	for _, r := range answer.Answer {
		header := r.Header()
		header.Ttl = min(header.Ttl, uint32(openMax/time.Second))
		ttl = min(ttl, time.Duration(header.Ttl)*time.Second)
		if record, ok := r.(*dns.A); ok {
			if a, ok := netip.AddrFromSlice(record.A.To4()); ok {
				addresses = append(addresses, a)
			}
		}
	}
	return n.admit(addresses, ttl)
}

// chain is the records of a name and of those that it is an alias of, one by
// another. A name that is allowed is so whatever it is an alias of; what else
// a server adds to its answer is not.
func chain(records []dns.RR, name string) []dns.RR {
	names := map[string]bool{strings.ToLower(name): true}
	for range aliasesMax {
		for _, r := range records {
			if alias, ok := r.(*dns.CNAME); ok && names[strings.ToLower(alias.Hdr.Name)] {
				names[strings.ToLower(alias.Target)] = true
			}
		}
	}
	return slices.DeleteFunc(records, func(r dns.RR) bool { return !names[strings.ToLower(r.Header().Name)] })
}
