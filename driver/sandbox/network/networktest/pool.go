// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package networktest keeps the sandboxes of tests out of each other's way.
package networktest

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// FreePool returns a range of addresses, a /24, that no other test of this machine uses
// until this one is over. A name in the abstract namespace is held for it, which goes with
// the process.
func FreePool(t testing.TB) netip.Prefix {
	t.Helper()
	for n := 128; n < 256; n++ {
		l, err := net.Listen("unix", fmt.Sprintf("@buntime-test-pool-%d", n))
		if err != nil {
			continue
		}
		t.Cleanup(func() { l.Close() })
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 19, byte(n), 0}), 24)
	}
	t.Fatal("no range of addresses is free")
	return netip.Prefix{}
}
