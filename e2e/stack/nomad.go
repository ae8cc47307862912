// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package stack

import (
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/template"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

//go:embed nomad.hcl.tmpl
var nomadConfig string

var nomadTemplate = template.Must(template.New("nomad.hcl").Parse(nomadConfig))

// agent are the values of nomad.hcl.tmpl.
type agent struct {
	Role            string // server or client
	Dir             string
	LogLevel        string
	HTTP, RPC, Serf int
	Consul          string // host:port

	// The client's.
	ServerRPC                         int
	MinDynamicPort, MaxDynamicPort    int
	PluginDir, Rootfs, Init, StateDir string
	NodeSecret                        string
	Runsc                             string
	Pool                              netip.Prefix
	StoreDir                          string

	IdleAfter, SleepAfter, CheckpointEvery time.Duration
	CNI, Bridge                            string
	BridgeSubnet                           netip.Prefix
}

// startServer starts the Nomad server and waits until it leads its cluster
// and can sign, without which it refuses clients.
func (s *Stack) startServer(ctx context.Context) error {
	agent := s.agent("server")
	agent.HTTP, agent.RPC, agent.Serf = s.ports.serverHTTP, s.ports.serverRPC, s.ports.serverSerf
	err := s.writeAgent(agent)
	if err != nil {
		return err
	}
	if s.server, err = s.spawn("nomad-server", s.tools.nomad, "agent", "-config", "server.hcl"); err != nil {
		return err
	}
	return s.server.until(ctx, func(ctx context.Context) error {
		body, err := get(ctx, s.NomadAddr+"/.well-known/jwks.json")
		if err != nil {
			return err
		}
		var set struct{ Keys []json.RawMessage }
		if err := json.Unmarshal(body, &set); err != nil {
			return fmt.Errorf("decode keys: %w", err)
		}
		if len(set.Keys) == 0 {
			return errors.New("the server has no signing key")
		}
		return nil
	})
}

// startClient starts the Nomad client, which starts the driver plugin, and
// waits until it can place a session.
func (s *Stack) startClient(ctx context.Context) error {
	if err := s.writeClient(s.tools.runsc); err != nil {
		return err
	}
	return s.runClient(ctx)
}

// writeClient writes the client's configuration, with runsc as the plugin is to
// know it.
func (s *Stack) writeClient(runsc string) error {
	agent := s.agent("client")
	agent.HTTP, agent.RPC, agent.Serf = s.ports.clientHTTP, s.ports.clientRPC, s.ports.clientSerf
	agent.ServerRPC = s.ports.serverRPC
	agent.MinDynamicPort, agent.MaxDynamicPort = s.block.dynamicPorts()
	agent.PluginDir, agent.Rootfs, agent.Init = s.tools.plugins, s.tools.rootfs, s.tools.init
	agent.StateDir = filepath.Join(s.Dir, "driver")
	agent.NodeSecret = s.NodeSecret
	agent.Pool, agent.Runsc = s.block.pool(), runsc
	agent.StoreDir = s.storeDir()
	agent.IdleAfter = cmp.Or(s.options.IdleAfter, 5*time.Minute)
	agent.SleepAfter = cmp.Or(s.options.SleepAfter, 30*time.Minute)
	agent.CheckpointEvery = cmp.Or(s.options.CheckpointEvery, time.Minute)
	agent.CNI, agent.Bridge, agent.BridgeSubnet = s.tools.cni, s.block.bridge(), s.block.bridgeSubnet()
	return s.writeAgent(agent)
}

func (s *Stack) agent(role string) *agent {
	return &agent{
		Role: role, Dir: s.Dir,
		LogLevel: cmp.Or(s.options.NomadLogLevel, "INFO"),
		Consul:   loopback(s.ports.consulHTTP),
	}
}

// writeAgent writes <role>.hcl, for root only: it has secrets.
func (s *Stack) writeAgent(a *agent) error {
	var text strings.Builder
	if err := nomadTemplate.Execute(&text, a); err != nil {
		return fmt.Errorf("fill in configuration: %w", err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, a.Role+".hcl"), []byte(text.String()), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}

func (s *Stack) runClient(ctx context.Context) error {
	var err error
	if s.client, err = s.spawn("nomad-client", s.tools.nomad, "agent", "-config", "client.hcl"); err != nil {
		return err
	}
	var index uint64
	return s.client.until(ctx, func(ctx context.Context) error {
		if err := s.registered(ctx); err != nil {
			return err
		}
		query := (&nomad.QueryOptions{WaitIndex: index, WaitTime: time.Second}).WithContext(ctx)
		nodes, meta, err := s.Nomad.Nodes().List(query)
		if err != nil {
			return err
		}
		index = meta.LastIndex
		return ready(nodes)
	})
}

// registered says whether the client has registered since its start. What the
// server says of the node does not tell: it may be from before a restart.
func (s *Stack) registered(ctx context.Context) error {
	body, err := get(ctx, s.clientAddr+"/v1/agent/self")
	if err != nil {
		return err
	}
	var self nomad.AgentSelf
	if err := json.Unmarshal(body, &self); err != nil {
		return fmt.Errorf("decode agent: %w", err)
	}
	if ttl := self.Stats["client"]["heartbeat_ttl"]; ttl == "" || ttl == "0s" {
		return errors.New("the client has not registered")
	}
	return nil
}

// ready says what a stack's only node lacks to run sessions.
func ready(nodes []*nomad.NodeListStub) error {
	if len(nodes) == 0 {
		return errors.New("no node has registered")
	}
	node := nodes[0]
	if node.Status != nomad.NodeStatusReady {
		return fmt.Errorf("the node is %s", node.Status)
	}
	driver := node.Drivers["bun"]
	switch {
	case driver == nil:
		return errors.New("the node has no driver bun")
	case !driver.Detected, !driver.Healthy:
		return fmt.Errorf("the driver bun is not healthy: %s", driver.HealthDescription)
	}
	return nil
}
