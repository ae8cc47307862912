// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package metrics

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const token = "0123456789abcdef"

func TestConfig(t *testing.T) {
	for _, good := range []Config{
		{},
		{Address: "127.0.0.1:9464"},
		{Address: "[::1]:9464"},
		{Address: "127.0.0.1:9464", Token: token},
		{Address: "10.0.0.7:9464", Token: token},
		{Address: "0.0.0.0:9464", Token: token},
	} {
		if err := good.Check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for _, bad := range []Config{
		{Token: token},
		{Address: "localhost:9464"},
		{Address: "127.0.0.1"},
		{Address: ":9464"},
		{Address: ":9464", Token: token},
		{Address: "10.0.0.7:9464"},
		{Address: "0.0.0.0:9464"},
		{Address: "[::]:9464"},
		{Address: "127.0.0.1:9464", Token: "short"},
	} {
		if err := bad.Check(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// TestToken: without the very token there is nothing to read.
func TestToken(t *testing.T) {
	h := Handler(token, nil)
	for shown, want := range map[string]int{
		"Bearer " + token: 200, "": 401, "Bearer ": 401, "Bearer " + token + "0": 401, token: 401, "bearer " + token: 401, "Basic " + token: 401,
	} {
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Authorization", shown)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want || (want != 200) == strings.Contains(w.Body.String(), "buntime_") {
			t.Errorf("%q: %d", shown, w.Code)
		}
	}
	for _, r := range []*http.Request{httptest.NewRequest("POST", "/metrics", nil), httptest.NewRequest("GET", "/", nil), httptest.NewRequest("GET", "/debug/pprof/", nil)} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code < 400 {
			t.Errorf("%s %s: %d", r.Method, r.URL, w.Code)
		}
	}
}

// TestServe: it waits for an address that another process still has, and ends with its
// context.
func TestServe(t *testing.T) {
	t.Run("plain", func(t *testing.T) { serves(t, nil, http.DefaultClient) })
	// As for tests: one that its client knows.
	secured := httptest.NewTLSServer(nil)
	defer secured.Close()
	t.Run("in TLS", func(t *testing.T) { serves(t, secured.TLS.Clone(), secured.Client()) })
}

func serves(t *testing.T, secured *tls.Config, client *http.Client) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		Serve(ctx, Config{Address: l.Addr().String()}, secured, nil, hclog.NewNullLogger())
	}()
	l.Close()
	for {
		scheme := "http://"
		if secured != nil {
			scheme = "https://"
		}
		res, err := client.Get(scheme + l.Addr().String() + "/metrics")
		if err == nil {
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != 200 || !strings.Contains(string(body), "buntime_node_start_duration_seconds_bucket") {
				t.Errorf("%d: %s", res.StatusCode, body)
			}
			break
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond) // until the other process has let go
	}
	cancel()
	<-done
}

// TestCrowd: a stranger who keeps connections does not keep Prometheus out.
func TestCrowd(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		Serve(ctx, Config{Address: address}, nil, nil, hclog.NewNullLogger())
	}()
	defer func() { cancel(); <-done }()
	get := func(from string) error {
		transport := &http.Transport{DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport}).Get("http://" + address + "/metrics")
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	for get("127.0.0.3") != nil && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond) // until it listens
	}
	for range 2 * connections {
		c, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}).DialContext(ctx, "tcp", address)
		if err != nil {
			continue // closed before it was there
		}
		defer c.Close()
	}
	if err := get("127.0.0.3"); err != nil { // accepted after those
		t.Error(err)
	}
}

// TestNames: they are as Prometheus' own tools want them.
func TestNames(t *testing.T) {
	problems, err := testutil.GatherAndLint(registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

// TestBounded: what comes from elsewhere makes no new series.
func TestBounded(t *testing.T) {
	count := func() int {
		n, err := testutil.GatherAndCount(registry)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	Refused("invalid_request")
	before := count()
	for _, word := range []string{"", "hostile", "a\nb"} {
		Refused(word)
		Executed(true, word, time.Second)
		Ends(word).Inc()
	}
	for _, status := range []int{-1, 0, 7, 99, 100, 299, 404, 599, 600, 999, 1 << 30} {
		Previewed(status)
	}
	if after := count(); after != before {
		t.Errorf("%d series, and %d before", after, before)
	}
}
