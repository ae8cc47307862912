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

	"github.com/buntime/buntime/driver/snapshot/backend"
)

//go:embed nomad.hcl.tmpl
var nomadConfig string

var nomadTemplate = template.Must(template.New("nomad.hcl").Parse(nomadConfig))

// agent are the values of nomad.hcl.tmpl.
type agent struct {
	Name            string
	Server          bool // or client
	Dir             string
	LogLevel        string
	HTTP, RPC, Serf int
	Consul          string // host:port
	Secured         *Secured
	Cert            string // name of the certificate, where there is one

	// The server's.
	Heartbeat, HeartbeatGrace time.Duration

	// The client's.
	ServerRPC                         int
	MinDynamicPort, MaxDynamicPort    int
	PluginDir, Rootfs, Init, StateDir string
	Metrics, MetricsToken             string
	NodeSecret, OldNodeSecret         string
	Runsc                             string
	Pool                              netip.Prefix
	FirstID, LastID                   int
	Store                             backend.Config

	IdleAfter, SleepAfter, CheckpointEvery time.Duration
	CNI, Bridge                            string
	BridgeSubnet                           netip.Prefix
	Chroot                                 map[string]string // what a task of the driver exec sees, and the files
}

// prepareServer makes the Nomad server, which is ready when it leads its cluster
// and can sign, without which it refuses clients.
func (s *Stack) prepareServer() error {
	agent := s.agent("server")
	agent.Server, agent.Cert = true, "nomad-server"
	agent.Heartbeat, agent.HeartbeatGrace = s.options.Heartbeat, HeartbeatGrace
	agent.HTTP, agent.RPC, agent.Serf = s.ports.serverHTTP, s.ports.serverRPC, s.ports.serverSerf
	path, err := s.writeAgent(agent)
	if err != nil {
		return err
	}
	s.NomadServer.start = func(context.Context) (*process, error) {
		return s.spawn("nomad-server", nil, s.tools.nomad, "agent", "-config", path)
	}
	s.NomadServer.ready = s.serverSigns
	return nil
}

func (s *Stack) serverSigns(ctx context.Context) error {
	body, err := s.get(ctx, s.NomadAddr+"/.well-known/jwks.json")
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
	// What it has on the disk has keys also before it leads again.
	body, err = s.get(ctx, s.NomadAddr+"/v1/status/leader")
	if err == nil && string(body) == `""` {
		err = errors.New("no leader")
	}
	return err
}

func (s *Stack) agent(name string) *agent {
	return &agent{
		Name: name, Dir: s.Dir, Secured: s.Secured, Cert: "nomad-client",
		LogLevel: cmp.Or(s.options.NomadLogLevel, "INFO"),
		Consul:   loopback(s.ports.consulHTTP),
	}
}

// writeAgent writes <name>.hcl, for root only: it has secrets.
func (s *Stack) writeAgent(a *agent) (path string, err error) {
	var text strings.Builder
	if err := nomadTemplate.Execute(&text, a); err != nil {
		return "", fmt.Errorf("fill in configuration: %w", err)
	}
	path = filepath.Join(s.Dir, a.Name+".hcl")
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return "", fmt.Errorf("write configuration: %w", err)
	}
	return path, nil
}
