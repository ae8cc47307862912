// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/hashicorp/go-hclog"
)

func nullLogger() hclog.Logger { return hclog.NewNullLogger() }

func prefix(t *testing.T, s string) netip.Prefix {
	t.Helper()
	p, err := netip.ParsePrefix(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func prefixes(t *testing.T, list ...string) []netip.Prefix {
	t.Helper()
	var all []netip.Prefix
	for _, s := range list {
		all = append(all, prefix(t, s))
	}
	return all
}

func TestAddresses(t *testing.T) {
	c := Config{Pool: prefix(t, "198.18.3.7/29")}.withDefaults()
	if c.slots() != 3 {
		t.Errorf("%d slots, want 3", c.slots())
	}
	got := []string{c.resolver().String()}
	for slot := range c.slots() {
		host, sandbox := c.pair(slot)
		got = append(got, host.String()+" "+sandbox.String())
	}
	want := []string{"198.18.3.1", "198.18.3.2 198.18.3.3", "198.18.3.4 198.18.3.5", "198.18.3.6 198.18.3.7"}
	if !slices.Equal(got, want) {
		t.Errorf("addresses %q, want %q", got, want)
	}
	if n := (Config{}).withDefaults().slots(); n != 65535 {
		t.Errorf("%d slots by default, want 65535", n)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{
		{Pool: netip.MustParsePrefix("fd00::/64")},
		{Pool: netip.MustParsePrefix("10.0.0.0/8")},
		{Pool: netip.MustParsePrefix("198.18.0.0/31")},
		{Deny: []netip.Prefix{{}}},
		{Allow: []netip.Prefix{{}}},
		{Allow: prefixes(t, "fd00::/8")},
		{Allow: prefixes(t, "169.254.169.254/32")},
		{Allow: prefixes(t, "169.254.0.0/16")},
		{Allow: prefixes(t, "100.100.100.200/32")},
		{Allow: prefixes(t, "168.63.129.16/32")},
		{Allow: prefixes(t, "127.0.0.0/8")},
		{Allow: prefixes(t, "198.18.0.0/15")},
		{Allow: prefixes(t, "10.200.0.8/32"), Pool: prefix(t, "10.200.0.0/16")},
		{Allow: prefixes(t, "203.0.113.0/24")},
		{Allow: prefixes(t, "0.0.0.0/0")},
		{Allow: prefixes(t, "8.0.0.0/6")},
		{Ready: -1},
	} {
		if m, err := New(c, nullLogger()); err == nil {
			m.Close(true)
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestSetElements(t *testing.T) {
	for in, want := range map[string]string{
		"":                                   "",
		"10.0.0.0/8":                         "10.0.0.0 -11.0.0.0",
		"10.0.0.0/8 10.1.0.0/16":             "10.0.0.0 -11.0.0.0",
		"224.0.0.0/4 240.0.0.0/4":            "224.0.0.0",
		"240.0.0.0/4 0.0.0.0/8":              "0.0.0.0 -1.0.0.0 240.0.0.0",
		"192.168.0.0/24 192.168.1.0/24":      "192.168.0.0 -192.168.2.0",
		"192.168.0.1/24 192.168.2.0/24":      "192.168.0.0 -192.168.1.0 192.168.2.0 -192.168.3.0",
		"255.255.255.255/32 fd00::/8 ::1/12": "255.255.255.255",
		"0.0.0.0/0":                          "0.0.0.0",
	} {
		var ranges []netip.Prefix
		for s := range strings.FieldsSeq(in) {
			ranges = append(ranges, prefix(t, s))
		}
		if got := elementText(setElements(spansOf(ranges...))); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func elementText(elements []nftables.SetElement) string {
	var text []string
	for _, e := range elements {
		a, _ := netip.AddrFromSlice(e.Key)
		if e.IntervalEnd {
			text = append(text, "-"+a.String())
		} else {
			text = append(text, a.String())
		}
	}
	return strings.Join(text, " ")
}

func TestDenied(t *testing.T) {
	for dst, want := range map[string]bool{
		"0.0.0.0/0":          false,
		"8.8.8.0/24":         false,
		"10.0.0.0/7":         false,
		"10.0.0.0/8":         true,
		"10.1.2.3/32":        true,
		"192.168.1.0/24":     true,
		"198.18.0.0/15":      true,
		"203.0.113.0/24":     false,
		"100.64.0.0/10":      true,
		"100.128.0.0/10":     false,
		"169.254.1.1/32":     true,
		"172.17.0.0/16":      true,
		"172.32.0.0/16":      false,
		"239.255.0.0/16":     true,
		"255.255.255.255/32": true,
	} {
		_, network, err := net.ParseCIDR(dst)
		if err != nil {
			t.Fatal(err)
		}
		if got := denied(Config{}.withDefaults().closed(), network); got != want {
			t.Errorf("%s: %v, want %v", dst, got, want)
		}
	}
	if denied(Config{}.withDefaults().closed(), nil) {
		t.Error("the default route is denied")
	}
}

// TestClosed: exceptions open what is closed by default and nothing else.
func TestClosed(t *testing.T) {
	c := Config{
		Allow: prefixes(t, "10.1.2.3/32", "100.64.0.0/10", "192.168.0.0/16"),
		Deny:  prefixes(t, "203.0.113.0/24", "192.168.7.0/24", "fd00::/8"),
	}.withDefaults()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]bool{
		"10.1.2.2": true, "10.1.2.3": false, "10.1.2.4": true,
		"100.64.0.1": false, "100.100.100.199": false, "100.100.100.200": true, "100.100.100.201": false,
		"192.168.6.255": false, "192.168.7.0": true, "192.168.7.255": true, "192.168.8.0": false,
		"203.0.112.255": false, "203.0.113.7": true, "169.254.169.254": true, "168.63.129.16": true,
		"198.18.0.1": true, "198.19.255.255": true, "127.0.0.1": true, "0.0.0.0": true, "255.255.255.255": true, "8.8.8.8": false,
	} {
		if got := covered(c.closed(), netip.PrefixFrom(netip.MustParseAddr(address), 32)); got != want {
			t.Errorf("%s is closed: %v, want %v", address, got, want)
		}
	}
}

func TestSubtract(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0/8 - 10.0.0.0/8":                               "",
		"10.0.0.0/8 - 8.0.0.0/5":                                "",
		"10.0.0.0/8 - 11.0.0.0/8":                               "10.0.0.0 -11.0.0.0",
		"10.0.0.0/8 - 10.0.0.0/9":                               "10.128.0.0 -11.0.0.0",
		"10.0.0.0/8 - 10.128.0.0/9":                             "10.0.0.0 -10.128.0.0",
		"10.0.0.0/8 - 10.1.2.3/32":                              "10.0.0.0 -10.1.2.3 10.1.2.4 -11.0.0.0",
		"10.0.0.0/8 12.0.0.0/8 - 10.1.0.0/16 12.255.255.255/32": "10.0.0.0 -10.1.0.0 10.2.0.0 -11.0.0.0 12.0.0.0 -12.255.255.255",
		"0.0.0.0/0 - 255.255.255.255/32":                        "0.0.0.0 -255.255.255.255",
		"0.0.0.0/0 - 0.0.0.0/32":                                "0.0.0.1",
		"0.0.0.0/0 -":                                           "0.0.0.0",
	} {
		from, what, _ := strings.Cut(in, "-")
		got := subtract(spansOf(prefixes(t, strings.Fields(from)...)...), spansOf(prefixes(t, strings.Fields(what)...)...))
		if text := elementText(setElements(got)); text != want {
			t.Errorf("%s: %q, want %q", in, text, want)
		}
	}
}

func TestSlotOf(t *testing.T) {
	c := Config{Pool: prefix(t, "198.18.4.0/28")}.withDefaults()
	for slot := range c.slots() {
		if got, ok := c.slotOf(c.linkName(slot)); !ok || got != slot {
			t.Errorf("slot of %s: %d, %v", c.linkName(slot), got, ok)
		}
	}
	for _, name := range []string{"", "bt", "bt0", "lo", "btc6120401", "btc6120402", "btc6120404", "btc6120413", "btc61203ff", "BTC6120403"} {
		if slot, ok := c.slotOf(name); ok {
			t.Errorf("%s has slot %d", name, slot)
		}
	}
}

// ExampleConfig shows which addresses a slot has.
func ExampleConfig() {
	host, sandbox := Config{}.withDefaults().pair(0)
	fmt.Println(host, sandbox)
	// Output: 198.18.0.2 198.18.0.3
}
