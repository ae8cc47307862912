// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// span is the IPv4 addresses from first to last.
type span struct{ first, last uint32 }

func spanOf(p netip.Prefix) span {
	first := v4(p.Masked().Addr())
	return span{first, first | uint32(uint64(0xffffffff)>>p.Bits())}
}

// spansOf turns address ranges into spans in order, none of which overlap or
// touch. Ranges of IPv6 are left out: sandboxes have no IPv6 at all.
func spansOf(ranges ...netip.Prefix) []span {
	var all []span
	for _, p := range ranges {
		if p.Addr().Is4() {
			all = append(all, spanOf(p))
		}
	}
	return merge(all)
}

// merge puts spans in order and joins those that overlap or touch.
func merge(all []span) []span {
	slices.SortFunc(all, func(a, b span) int { return int(int64(a.first) - int64(b.first)) })
	var merged []span
	for _, s := range all {
		if n := len(merged); n > 0 && uint64(s.first) <= uint64(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, s.last)
			continue
		}
		merged = append(merged, s)
	}
	return merged
}

// subtract is what of from is not in what; both as spansOf makes them.
func subtract(from, what []span) []span {
	var rest []span
	for _, s := range from {
		first, gone := uint64(s.first), false
		for _, w := range what {
			if uint64(w.last) < first || w.first > s.last {
				continue
			}
			if uint64(w.first) > first {
				rest = append(rest, span{uint32(first), w.first - 1})
			}
			first = uint64(w.last) + 1
			if gone = first > uint64(s.last); gone {
				break
			}
		}
		if !gone {
			rest = append(rest, span{uint32(first), s.last})
		}
	}
	return rest
}

// covered reports whether every address of p is in spans.
func covered(spans []span, p netip.Prefix) bool {
	if !p.Addr().Is4() {
		return false
	}
	want := spanOf(p)
	return slices.ContainsFunc(spans, func(s span) bool { return s.first <= want.first && want.last <= s.last })
}

// setElements are spans as the elements of an nft set.
func setElements(spans []span) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, s := range spans {
		elements = append(elements, nftables.SetElement{Key: fromV4(s.first).AsSlice()})
		if s.last != 0xffffffff { // an interval without an end runs to the last address
			elements = append(elements, nftables.SetElement{Key: fromV4(s.last + 1).AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}
