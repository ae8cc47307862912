// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestNothingIsLeft compares the host before and after.
func TestNothingIsLeft(t *testing.T) {
	before := hostState(t)
	m, err := New(Config{Ready: 3}, nullLogger())
	if err != nil {
		t.Fatal(err)
	}
	for slot := range 5 {
		n, err := m.Create(t.Context(), slot, Policy{Mode: ModeInternet})
		if err != nil {
			t.Fatal(err)
		}
		defer n.Destroy()
		if slot == 0 {
			if err := m.removeShared(); err == nil {
				t.Error("the node's network is removed below a sandbox")
			}
		}
		n.Destroy()
	}
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Create(t.Context(), 0, Policy{Mode: ModeNone}); !errors.Is(err, os.ErrClosed) {
		t.Errorf("create after close: %v", err)
	}
	if after := hostState(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestForwardingIsRestoredByALaterProcess: that it was ours is remembered.
func TestForwardingIsRestoredByALaterProcess(t *testing.T) {
	before := hostState(t)
	m, err := New(Config{}, nullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(false); err != nil {
		t.Fatal(err)
	}
	if on, err := forwards(outwardLink); err != nil || !on {
		t.Errorf("forwarding of %s: %v, error %v", outwardLink, on, err)
	}
	if m, err = New(Config{}, nullLogger()); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if after := hostState(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// TestForwardingOfOthersStays: when the whole node has become a router, what
// was turned on for sandboxes is needed by others.
func TestForwardingOfOthersStays(t *testing.T) {
	m := start(t, Config{})
	t.Cleanup(func() {
		if err := setSysctls([]sysctl{{forwardingKey("all"), "0"}}); err != nil { // and of each interface with it
			t.Error(err)
		}
	})
	if err := setSysctls([]sysctl{{forwardingKey("all"), "1"}}); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if on, err := forwards(outwardLink); err != nil || !on {
		t.Errorf("%s forwards: %v, error %v", outwardLink, on, err)
	}
}

// TestNewWayOutside: an interface forwards once a route to an allowed
// destination leads to it, and not longer than the Manager is there.
func TestNewWayOutside(t *testing.T) {
	m := start(t, Config{})
	if on, err := forwards("lan0"); err != nil || on {
		t.Fatalf("lan0 forwards: %v, error %v", on, err)
	}
	h, err := routeHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	_, far, err := net.ParseCIDR("192.0.2.0/24")
	if err != nil {
		t.Fatal(err)
	}
	route := &netlink.Route{Dst: far, Gw: net.ParseIP(lanAddress)}
	if err := h.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	defer h.RouteDel(route)
	if err := m.refreshUplinks(); err != nil {
		t.Fatal(err)
	}
	if on, err := forwards("lan0"); err != nil || !on {
		t.Errorf("lan0 forwards: %v, error %v", on, err)
	}
	if err := m.Close(true); err != nil {
		t.Fatal(err)
	}
	if on, err := forwards("lan0"); err != nil || on {
		t.Errorf("lan0 forwards afterwards: %v, error %v", on, err)
	}
}

// hostState lists what a Manager could leave: interfaces, addresses, tables,
// forwarding and open files.
func hostState(t *testing.T) string {
	t.Helper()
	var b strings.Builder
	h, err := routeHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	links, err := h.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		addresses, err := h.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			t.Fatal(err)
		}
		on, err := forwards(link.Attrs().Name)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&b, link.Attrs().Name, addresses, on)
	}
	conn, err := nftConn()
	if err != nil {
		t.Fatal(err)
	}
	tables, err := conn.ListTables()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, slices.Collect(func(yield func(string) bool) {
		for _, table := range tables {
			if !yield(table.Name) {
				return
			}
		}
	}))
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&b, len(files), "open files")
	return b.String()
}
