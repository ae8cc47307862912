// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package calls

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestOperations(t *testing.T) {
	for _, c := range []struct {
		name         func(*http.Request) string
		method, path string
		want         string
	}{
		{Consul, "GET", "/v1/kv/buntime/sessions/x?consistent=", "get"},
		{Consul, "GET", "/v1/kv/buntime/sessions/?consistent=&recurse=", "list"},
		{Consul, "GET", "/v1/kv/buntime/leader?index=7&wait=300000ms", "watch"},
		{Consul, "GET", "/v1/kv/index=", "get"},
		{Consul, "PUT", "/v1/kv/buntime/claims/x/1?cas=0", "put"},
		{Consul, "DELETE", "/v1/kv/buntime/slots/x", "delete"},
		{Consul, "PUT", "/v1/txn", "txn"},
		{Consul, "PUT", "/v1/session/create", "session"},
		{Consul, "PUT", "/v1/agent/check/update/x", "agent"},
		{Consul, "GET", "/v1/health/checks/x", "other"},
		{Nomad, "PUT", "/v1/jobs", "register"},
		{Nomad, "POST", "/v1/jobs/parse", "parse"},
		{Nomad, "GET", "/v1/jobs?prefix=ses-", "list"},
		{Nomad, "GET", "/v1/nodes?index=3&wait=1s", "watch"},
		{Nomad, "GET", "/v1/job/ses-x/allocations", "read"},
		{Nomad, "DELETE", "/v1/job/ses-x?purge=true", "deregister"},
		{Nomad, "PUT", "/v1/system/gc", "other"},
	} {
		if got := c.name(httptest.NewRequest(c.method, c.path, nil)); got != c.want {
			t.Errorf("%s %s is %s, not %s", c.method, c.path, got, c.want)
		}
	}
	for status, want := range map[int]string{0: "none", 99: "none", 101: "1xx", 200: "2xx", 404: "4xx", 503: "5xx", 600: "none", -1: "none"} {
		if got := Class(status); got != want {
			t.Errorf("%d is %s, not %s", status, got, want)
		}
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (f tripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestMeasured: answers, other answers, and none are told apart, and a watch that nobody
// waits for any more is nothing.
func TestMeasured(t *testing.T) {
	h := Histogram("test", "test")
	answer := func(status int, err error) {
		m := Measured(tripper(func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: status, Body: http.NoBody}, err
		}), Consul, h)
		ctx, cancel := context.WithCancel(t.Context())
		r := httptest.NewRequest("GET", "/v1/kv/a", nil).WithContext(ctx)
		if status < 0 {
			r.URL.RawQuery = "index=1"
			cancel()
		}
		res, _ := m.RoundTrip(r)
		res.Body.Close()
		cancel()
	}
	for status := range 3 {
		answer(200+100*status, nil)
	}
	answer(0, errors.New("refused"))
	answer(-1, context.Canceled)
	reg := prometheus.NewRegistry()
	reg.MustRegister(h)
	if n, err := testutil.GatherAndCount(reg); err != nil || n != 4 {
		t.Errorf("%d series, %v", n, err)
	}
}
