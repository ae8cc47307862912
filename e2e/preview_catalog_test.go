// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package e2e

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestPreviewInCatalog: any proxy that knows Consul finds the session's preview
// and reaches it there.
func TestPreviewInCatalog(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	s.background(`Bun.serve({ port: 8080, fetch: (req) => new Response("asked for " + req.headers.get("host")) })`)
	var address string
	eventually(t, s.ctx, "a service of the session in Consul", 10*time.Second, func() (bool, string) {
		address = s.catalog()
		return address != "", "no service names " + s.host()
	})
	direct := s.visit("GET", "http://"+address+"/path", nil, nil)
	equal(t, "status", direct.Status, 200)
	equal(t, "answer", string(direct.Body), "asked for "+address)

	status(t, s.drop(), 200)
	eventually(t, s.ctx, "no service of the session in Consul", 30*time.Second, func() (bool, string) {
		address := s.catalog()
		return address == "", address
	})
}

// catalog looks for a preview of the session in Consul's catalog, by whatever
// part of the registration names it, and returns its address, or "".
func (s *session) catalog() string {
	s.t.Helper()
	var services map[string][]string
	s.consul("/v1/catalog/services", &services)
	for name := range services {
		var instances []struct {
			Address, ServiceAddress, ServiceID, ServiceName string
			ServicePort                                     int
			ServiceTags                                     []string
			ServiceMeta                                     map[string]string
		}
		s.consul("/v1/catalog/service/"+url.PathEscape(name), &instances)
		for _, i := range instances {
			text := fmt.Sprint(i.ServiceID, i.ServiceName, i.ServiceTags, i.ServiceMeta)
			if !strings.Contains(text, s.host()) && !strings.Contains(text, s.id) || !strings.Contains(text, "preview") {
				continue
			}
			host := i.ServiceAddress
			if host == "" {
				host = i.Address
			}
			return fmt.Sprintf("%s:%d", host, i.ServicePort)
		}
	}
	return ""
}

// consul gets a part of Consul's HTTP API.
func (s *session) consul(path string, v any) {
	s.t.Helper()
	reply := fetchURL(s.t, s.ctx, system.consul+path)
	status(s.t, reply, 200)
	if err := json.Unmarshal(reply.Body, v); err != nil {
		s.t.Fatalf("decode %s: %v", path, err)
	}
}
