// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package door_test

import (
	"bufio"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/buntime/buntime/driver/door"
)

const key = "btk_abcdefghijklmnopqrstuvwxyz"

// head reads header lines as net/http's server does.
func head(lines string) (http.Header, error) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET / HTTP/1.1\r\nHost: a\r\n" + lines + "\r\n")))
	if err != nil {
		return nil, err
	}
	return r.Header, nil
}

func TestKey(t *testing.T) {
	for lines, want := range map[string]bool{
		"Authorization: Bearer " + key + "\r\n":                                      true,
		"authorization: bearer " + key + "\r\n":                                      true,
		"AUTHORIZATION:   BEARER    " + key + "  \r\n":                               true,
		"Authorization: Bearer\t" + key + "\r\n":                                     false,
		"Authorization: Bearer \t" + key + "\r\n":                                    false,
		"Authorization: " + key + "\r\n":                                             false,
		"Authorization: Bearer" + key + "\r\n":                                       false,
		"Authorization: Bearer x" + key + "\r\n":                                     false,
		"Authorization: Bearer x, Bearer " + key + "\r\n":                            false,
		"Authorization: Bearer " + key + ", Bearer x\r\n":                            false,
		"Authorization: Bearer x\r\nAuthorization: Bearer " + key + "\r\n":           false,
		"Authorization: Bearer " + key + "\r\nAuthorization: Bearer " + key + "\r\n": false,
		"Proxy-Authorization: Bearer " + key + "\r\n":                                false,
		"X-Api-Key: " + key + "\r\n":                                                 false,
		"Cookie: authorization=Bearer%20" + key + "\r\n":                             false,
		"Authorization: Basic " + key + "\r\n":                                       false,
		"Authorization: Bearer\r\n " + key + "\r\n":                                  true, // folded lines are one
		"X: y\r\n": false,
		"Connection: Authorization\r\nAuthorization: Bearer " + key + "\r\n": true,
		"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n":           false,
		"Authorization: Bearer " + strings.ToUpper(key) + "\r\n":             false,
	} {
		h, err := head(lines)
		if err != nil {
			t.Fatalf("%q: %v", lines, err)
		}
		got, ok := door.Key(h)
		if ok != want || ok && got != key {
			t.Errorf("%q: %q, %v", lines, got, ok)
		}
		door.Inward(h)
		if text := fmt.Sprint(h); strings.Contains(strings.ToLower(text), key) && !strings.HasPrefix(lines, "Cookie") {
			t.Errorf("%q: the app gets %s", lines, text)
		}
	}
}

func TestInward(t *testing.T) {
	for lines, want := range map[string]string{
		"Authorization: Basic eDp5\r\n":                                                 "map[Authorization:[Basic eDp5]]",
		"Authorization: Bearer app\r\nAuthorization: bearer " + key + "\r\n":            "map[Authorization:[Bearer app]]",
		"X_Api_Key: " + key + "\r\n":                                                    "map[]",
		"X-Api-Key: own\r\n":                                                            "map[X-Api-Key:[own]]",
		"X-Buntime-Token: a\r\nX_Buntime-Token: b\r\nx-buntime_token: c\r\n":            "map[]",
		"Connection: Upgrade\r\nUpgrade: WebSocket\r\n":                                 "map[Connection:[Upgrade] Upgrade:[WebSocket]]",
		"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n": "map[]",
		"Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n":                            "map[]",
		"Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n":                 "map[]",
		"Cookie: a=" + key + "\r\n":                                                     "map[Cookie:[a=" + key + "]]",
	} {
		h, err := head(lines)
		if err != nil {
			t.Fatalf("%q: %v", lines, err)
		}
		door.Inward(h)
		if got := fmt.Sprint(h); got != want {
			t.Errorf("%q: got %s, want %s", lines, got, want)
		}
	}
}

func TestUnforwarded(t *testing.T) {
	h, err := head("X-Forwarded-For: 1\r\nX_Forwarded_For: 2\r\nx-forwarded_port: 3\r\nX-Forwarded-Prefix: 4\r\nForwarded: for=5\r\nX-Real-IP: 6\r\nX_REAL_IP: 7\r\nX-Other: 8\r\n")
	if err != nil {
		t.Fatal(err)
	}
	door.Unforwarded(h)
	if got := fmt.Sprint(h); got != "map[X-Other:[8]]" {
		t.Errorf("got %s", got)
	}
}

func TestParseHost(t *testing.T) {
	for host, want := range map[string]door.Host{
		"ses-a1.example.org":           {Session: "ses-a1", Port: 8080, Domain: "example.org"},
		"SES_A1.Example.ORG.:8443":     {Session: "ses-a1", Port: 8080, Domain: "example.org"},
		"3000-ses-a1.example.org":      {Session: "ses-a1", Port: 3000, Domain: "example.org"},
		"3000-SES_a1.example.org":      {Session: "ses-a1", Port: 3000, Domain: "example.org"},
		"00080-ses-a1.example.org":     {Session: "ses-a1", Port: 80, Domain: "example.org"},
		"0-ses-a1.x":                   {Session: "ses-a1", Port: 0, Domain: "x"},
		"65535-ses-a1.x":               {Session: "ses-a1", Port: 65535, Domain: "x"},
		"65536-ses-a1.x":               {Session: "ses-a1", Port: 0, Domain: "x"},
		"000000000080-ses-a1.x":        {Session: "ses-a1", Port: 0, Domain: "x"},
		"ses-a1":                       {Session: "ses-a1", Port: 8080},
		"ses-a1:80":                    {Session: "ses-a1", Port: 8080},
		"-ses-a1.x":                    {Port: 8080, Domain: "x"},
		"x-ses-a1.x":                   {Port: 8080, Domain: "x"},
		"+80-ses-a1.x":                 {Port: 8080, Domain: "x"},
		"ses-.x":                       {Port: 8080, Domain: "x"},
		"ses-a-b.x":                    {Port: 8080, Domain: "x"},
		"ses-a1@evil.x":                {Port: 8080, Domain: "x"},
		"3000-other.x":                 {Port: 8080, Domain: "x"},
		"10.0.0.1:20000":               {Port: 8080, Domain: "0.0.1"},
		"[::1]:80":                     {Port: 8080},
		"[::1]":                        {Port: 8080},
		"":                             {Port: 8080},
		"a.ses-b.x":                    {Port: 8080, Domain: "ses-b.x"},
		"ses-a1.ses-b2.x":              {Session: "ses-a1", Port: 8080, Domain: "ses-b2.x"},
		"3000-3001-ses-a1.example.org": {Port: 8080, Domain: "example.org"},
	} {
		if got := door.ParseHost(host); got != want {
			t.Errorf("%q: got %+v, want %+v", host, got, want)
		}
	}
}

func TestMethod(t *testing.T) {
	for _, m := range []string{"CONNECT", "TRACE", "trace"} {
		if door.Method(m) {
			t.Errorf("%s goes inward", m)
		}
	}
	for _, m := range []string{"GET", "POST", "OPTIONS", "PROPFIND", "PATCH"} {
		if !door.Method(m) {
			t.Errorf("%s does not go inward", m)
		}
	}
}

// FuzzKey: whatever the API would take for a key does not reach an app, and the
// header stays one that can be sent on.
func FuzzKey(f *testing.F) {
	for _, seed := range []string{
		"Authorization: Bearer " + key, "authorization:bearer  " + key + "\r\nAuthorization: Basic x", "X_Api-Key: " + key,
		"Authorization: Bearer " + key + ", Bearer " + key, "Authorization: Bearer\r\n\t" + key, "Connection: Upgrade\r\nUpgrade: h2c",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, lines string) {
		h, err := head(lines + "\r\n")
		if err != nil {
			return
		}
		taken, ok := door.Key(h)
		if ok && (!strings.HasPrefix(taken, "btk_") || strings.ContainsAny(taken, " \t\r\n,")) {
			t.Errorf("%q is taken for a key", taken)
		}
		door.Inward(h)
		if left := h.Values("Authorization"); ok && len(left) > 0 {
			t.Errorf("the app gets %q", left)
		}
		if _, again := door.Key(h); again {
			t.Errorf("the app gets a key with %v", h)
		}
		for name, values := range h {
			if len(values) == 0 {
				t.Errorf("%s has no value", name)
			}
		}
	})
}

// FuzzParseHost: a host names a session if and only if its first label is of
// the form that says so, and in whatever way it is written it is the same one.
func FuzzParseHost(f *testing.F) {
	for _, seed := range []string{"ses-a.x", "8080-ses_a.x:1", "[::1]:8080", "0-ses-a", "ses-\u212a.x", "SES-A.", "..", "ses-a..x", "1-1-ses-a.x:99999"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, host string) {
		h := door.ParseHost(host)
		if h.Port < 0 || h.Port > 65535 {
			t.Errorf("port %d", h.Port)
		}
		if h.Session == "" {
			if h.Port != door.PreviewPort {
				t.Errorf("%q names no session but port %d", host, h.Port)
			}
			return
		}
		if rest := strings.TrimPrefix(h.Session, "ses-"); rest == "" || strings.Trim(rest, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			t.Errorf("%q names %q", host, h.Session)
		}
		again := fmt.Sprintf("%d-%s.%s:1", h.Port, h.Session, h.Domain)
		if got := door.ParseHost(again); got.Session != h.Session || got.Port != h.Port {
			t.Errorf("%q is %+v, but %q is %+v", host, h, again, got)
		}
	})
}

// FuzzBehind: a client that is not behind one of our proxies is itself.
func FuzzBehind(f *testing.F) {
	proxies, err := door.ParseNetworks([]string{"10.0.0.0/8"})
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "1.2.3.4", "1.2.3.4, 10.0.0.1", ",,", "::1", "[::1]:5, 1.1.1.1:1", "10.0.0.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, forwarded string) {
		var got []string
		h := door.Behind(proxies, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got = append(got, r.RemoteAddr) }))
		for _, peer := range []string{"192.0.2.1:1", "10.0.0.1:1"} {
			h.ServeHTTP(nil, &http.Request{RemoteAddr: peer, Header: http.Header{"X-Forwarded-For": {forwarded}}})
		}
		if got[0] != "192.0.2.1:1" || !door.Client(got[1]).IsValid() {
			t.Errorf("%q", got)
		}
		if slices.Contains(got[1:], "") {
			t.Errorf("%q", got)
		}
	})
}
