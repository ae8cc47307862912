// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode/utf8"
)

// Mode says what a sandbox may reach.
type Mode string

const (
	// ModeNone is a loopback and nothing else.
	ModeNone Mode = "none"
	// ModeInternet reaches what the node does not close (see [Config]).
	ModeInternet Mode = "internet"
	// ModeAllow reaches of that what the policy's Names and Ranges say.
	ModeAllow Mode = "allow"
)

// Policy is what one sandbox may reach.
type Policy struct {
	Mode Mode
	// Names, of ModeAllow, are resolved, and their addresses reached: names in
	// lower case without a final dot, "*." before one for all names below it.
	Names []string `json:",omitempty"`
	// Ranges, of ModeAllow, are reached without a name.
	Ranges []netip.Prefix `json:",omitempty"`
}

const (
	// allowMax is how many entries an allow list may have.
	allowMax = 256
	// nameMax and labelMax are the longest name and the longest part of one
	// (RFC 1035, without the final dot).
	nameMax  = 253
	labelMax = 63
)

// ParsePolicy makes a policy of what a job says: the mode, by default
// internet, and for allow a list of names, addresses and address ranges.
func ParsePolicy(mode string, allow []string) (Policy, error) {
	p := Policy{Mode: Mode(mode)}
	switch p.Mode {
	case "":
		p.Mode = ModeInternet
		if len(allow) > 0 {
			return Policy{}, fmt.Errorf("allow is for mode %q: say so", ModeAllow)
		}
	case ModeNone, ModeInternet:
		if len(allow) > 0 {
			return Policy{}, fmt.Errorf("allow is for mode %q, not for %q", ModeAllow, mode)
		}
	case ModeAllow:
		if len(allow) == 0 {
			return Policy{}, fmt.Errorf("mode %q needs an allow list; to reach nothing there is %q", ModeAllow, ModeNone)
		}
	default:
		return Policy{}, fmt.Errorf("mode must be %q, %q or %q, got %q", ModeNone, ModeInternet, ModeAllow, mode)
	}
	if len(allow) > allowMax {
		return Policy{}, fmt.Errorf("allow has %d entries, more than %d", len(allow), allowMax)
	}
	for _, entry := range allow {
		if err := p.add(entry); err != nil {
			return Policy{}, fmt.Errorf("allow %q: %w", entry, err)
		}
	}
	return p, nil
}

// add takes one entry of an allow list.
func (p *Policy) add(entry string) error {
	r, isRange := parseRange(entry)
	if !isRange {
		name := strings.TrimSuffix(strings.ToLower(entry), ".")
		if err := checkName(name); err != nil {
			return err
		}
		p.Names = append(p.Names, name)
		return nil
	}
	if !r.Addr().Is4() {
		return errors.New("sandboxes have no IPv6")
	}
	if r != r.Masked() {
		return fmt.Errorf("is an address within a range; for the range write %s, for the address leave out /%d", r.Masked(), r.Bits())
	}
	p.Ranges = append(p.Ranges, r)
	return nil
}

// parseRange reads an address or a range.
func parseRange(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p, err == nil
}

func checkName(name string) error {
	const want = `want a name ("registry.npmjs.org", "*.example.com"), an IPv4 address or a range ("203.0.113.0/24")`
	base := strings.TrimPrefix(name, "*.")
	if base == "" || base == "*" {
		return fmt.Errorf("matches everything: there is mode %q for that", ModeInternet)
	}
	if len(name) > nameMax {
		return fmt.Errorf("is longer than the %d characters of a name", nameMax)
	}
	labels := strings.Split(base, ".")
	for _, label := range labels {
		switch {
		case strings.ContainsFunc(label, func(c rune) bool { return c >= utf8.RuneSelf }):
			return errors.New("write the name in ASCII (xn--…)")
		case label == "", len(label) > labelMax, strings.ContainsFunc(label, notOfName):
			return errors.New(want)
		}
	}
	if last := labels[len(labels)-1]; strings.Trim(last, "0123456789") == "" {
		return errors.New(want) // an address with a mistake in it
	}
	return nil
}

func notOfName(c rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyz0123456789-_", c)
}

// allows reports whether a name may be looked up. It is in lower case and ends
// in a dot, as messages have it.
func (p Policy) allows(name string) bool {
	if p.Mode != ModeAllow {
		return true
	}
	if strings.Contains(name, `\`) {
		return false // a dot, say, within a label: not what it looks like
	}
	name = strings.TrimSuffix(name, ".")
	return slices.ContainsFunc(p.Names, func(allowed string) bool {
		if below, ok := strings.CutPrefix(allowed, "*"); ok {
			return len(name) > len(below) && strings.HasSuffix(name, below)
		}
		return name == allowed
	})
}

// within reports whether Ranges have the address.
func (p Policy) within(a netip.Addr) bool {
	return slices.ContainsFunc(p.Ranges, func(r netip.Prefix) bool { return r.Contains(a) })
}
