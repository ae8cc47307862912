// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package network

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestParsePolicy(t *testing.T) {
	for _, test := range []struct {
		mode  string
		allow []string
		want  string // as JSON
	}{
		{"", nil, `{"Mode":"internet"}`},
		{"internet", nil, `{"Mode":"internet"}`},
		{"none", []string{}, `{"Mode":"none"}`},
		{
			"allow",
			[]string{"registry.npmjs.org", "*.Example.COM.", "203.0.113.0/24", "192.0.2.7", "_dmarc.xn--bcher-kva.example", "mirror"},
			`{"Mode":"allow","Names":["registry.npmjs.org","*.example.com","_dmarc.xn--bcher-kva.example","mirror"],"Ranges":["203.0.113.0/24","192.0.2.7/32"]}`,
		},
	} {
		got, err := ParsePolicy(test.mode, test.allow)
		if err != nil {
			t.Errorf("%s %q: %v", test.mode, test.allow, err)
			continue
		}
		text, err := json.Marshal(got)
		if err != nil || string(text) != test.want {
			t.Errorf("%s %q: %s, error %v", test.mode, test.allow, text, err)
		}
		var again Policy
		if err := json.Unmarshal(text, &again); err != nil || !reflect.DeepEqual(got, again) {
			t.Errorf("%s is read as %+v, error %v", text, again, err)
		}
	}
}

func TestParsePolicyRefuses(t *testing.T) {
	for _, test := range []struct {
		mode  string
		allow []string
		want  string // a part of the error
	}{
		{"host", nil, `mode must be "none", "internet" or "allow", got "host"`},
		{"Allow", nil, "mode must be"},
		{"", []string{"example.com"}, `allow is for mode "allow"`},
		{"internet", []string{"example.com"}, `allow is for mode "allow", not for "internet"`},
		{"none", []string{"example.com"}, `allow is for mode "allow", not for "none"`},
		{"allow", nil, `mode "allow" needs an allow list`},
		{"allow", make([]string, allowMax+1), "more than 256"},
		{"allow", []string{""}, "matches everything"},
		{"allow", []string{"*"}, "matches everything"},
		{"allow", []string{"*.*"}, "matches everything"},
		{"allow", []string{"."}, "matches everything"},
		{"allow", []string{"https://example.com"}, "want a name"},
		{"allow", []string{"example.com:443"}, "want a name"},
		{"allow", []string{"example.com/a"}, "want a name"},
		{"allow", []string{"a..b"}, "want a name"},
		{"allow", []string{"a.*.b"}, "want a name"},
		{"allow", []string{"*a.b"}, "want a name"},
		{"allow", []string{" example.com"}, "want a name"},
		{"allow", []string{"bücher.example"}, "in ASCII"},
		{"allow", []string{strings.Repeat("a", 64) + ".example"}, "want a name"},
		{"allow", []string{strings.Repeat("a.", 128)}, "longer than the 253"},
		{"allow", []string{"203.0.113.300"}, "want a name"},
		{"allow", []string{"203.0.113.0/33"}, "want a name"},
		{"allow", []string{"203.0.113.7/24"}, "for the range write 203.0.113.0/24"},
		{"allow", []string{"fd00::/8"}, "no IPv6"},
		{"allow", []string{"::1"}, "no IPv6"},
		{"allow", []string{"::ffff:203.0.113.7"}, "no IPv6"},
	} {
		if p, err := ParsePolicy(test.mode, test.allow); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s %.80q: %+v, error %v; want %q", test.mode, test.allow, p, err, test.want)
		}
	}
}

func TestPolicyAllows(t *testing.T) {
	p := policy(t, "example.com", "*.wild.example.org", "203.0.113.0/24")
	for name, want := range map[string]bool{
		"example.com.": true, "a.example.com.": false, "example.com.evil.": false, "anexample.com.": false, "com.": false, ".": false,
		"a.wild.example.org.": true, "b.a.wild.example.org.": true, "wild.example.org.": false, "notwild.example.org.": false,
		".wild.example.org.": false, `a\.wild.example.org.`: false,
	} {
		if got := p.allows(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
