// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// prepareConsul makes a Consul server of its own cluster, which is ready when it
// leads that. It keeps its data on the disk, as in production.
func (s *Stack) prepareConsul() error {
	config := map[string]any{
		"server":               true,
		"bootstrap_expect":     1,
		"node_name":            "stack",
		"data_dir":             filepath.Join(s.Dir, "consul"),
		"bind_addr":            "127.0.0.1",
		"client_addr":          "127.0.0.1",
		"disable_update_check": true,
		"connect":              map[string]any{"enabled": false},
		"ports": map[string]any{
			"http": s.ports.consulHTTP, "dns": s.ports.consulDNS, "server": s.ports.consulServer, "serf_lan": s.ports.consulSerf,
			"serf_wan": -1, "grpc": -1, "grpc_tls": -1,
		},
		// All clients share the address 127.0.0.1, which may have 200 by default.
		"limits": map[string]any{"http_max_conns_per_client": -1},
		// The default of 5 is for slow disks; 1 is Consul's advice for production.
		"performance": map[string]any{"raft_multiplier": 1},
	}
	if s.Secured != nil {
		s.Secured.secureConsul(config, s.ports.consulHTTP)
	}
	path, err := s.writeJSON("consul.json", config)
	if err != nil {
		return err
	}
	s.ConsulServer.start = func(context.Context) (*process, error) {
		return s.spawn("consul", nil, s.tools.consul, "agent", "-config-file", path)
	}
	s.ConsulServer.ready = s.consulLeads
	return nil
}

func (s *Stack) consulLeads(ctx context.Context) error {
	// Only such a read waits until the leader has all that it had before it was ended.
	_, err := s.get(ctx, s.ConsulAddr+"/v1/catalog/nodes?consistent")
	return err
}

// writeJSON writes a configuration that only root may read: it has secrets.
func (s *Stack) writeJSON(name string, v any) (path string, err error) {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", name, err)
	}
	path = filepath.Join(s.Dir, name)
	return path, os.WriteFile(path, append(text, '\n'), 0o600)
}
