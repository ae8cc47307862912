// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/nomad/plugins/base"

	"github.com/buntime/buntime/driver/claim"
)

// Defaults of the plugin's configuration.
const (
	DefaultBun      = "/usr/local/bin/bun"
	DefaultStateDir = "/var/lib/buntime"
	// DefaultPool is the range that RFC 2544 sets aside for benchmarks: it is
	// routed nowhere, and no private network ought to use it.
	DefaultPool = "198.18.0.0/15"

	DefaultPidsMax  = 1024 // some 60 Bun processes, of a GB
	DefaultDiskMB   = 1024 // as a session of the free plan
	DefaultFilesMax = 16384
)

// secretEnv may hold the node secret instead of the configuration.
const secretEnv = "BUNTIME_NODE_SECRET"

// minSecret is the shortest node secret, in bytes: 128 bits of hexadecimal
// digits are twice that, but a passphrase may be as short.
const minSecret = 16

// Config is the plugin's configuration, decoded, checked and with defaults.
type Config struct {
	Rootfs   string // host directory of the sandboxes' root; may be empty
	Bun      string // path of Bun inside Rootfs
	Init     string // host path of buntime-init
	StateDir string // host directory for what must outlive the plugin

	// NodeSecret is what front-ends and nodes derive tokens from. Without it
	// the node serves no sessions.
	NodeSecret []byte
	Consul     ConsulConfig
	Network    NetworkConfig
	Defaults   LimitDefaults
}

// ConsulConfig says how to reach Consul. What is empty comes from Consul's
// usual environment variables and defaults.
type ConsulConfig struct {
	Address string
	Token   string
	Prefix  string // folder in KV
}

// NetworkConfig is the network of the sandboxes.
type NetworkConfig struct {
	Pool      netip.Prefix   // a /31 of it for each sandbox
	Deny      []netip.Prefix // ranges to block beside the private ones
	Resolvers []netip.AddrPort
}

// LimitDefaults hold for tasks that do not say otherwise.
type LimitDefaults struct {
	PidsMax  int64
	DiskMB   int64
	FilesMax int64
}

// rawConfig is the form of pluginConfigSpec.
type rawConfig struct {
	Rootfs     string     `codec:"rootfs"`
	Bun        string     `codec:"bun"`
	Init       string     `codec:"init"`
	StateDir   string     `codec:"state_dir"`
	NodeSecret string     `codec:"node_secret"`
	Consul     rawConsul  `codec:"consul"`
	Network    rawNetwork `codec:"network"`
	Defaults   rawLimits  `codec:"defaults"`
}

type rawConsul struct {
	Address string `codec:"address"`
	Token   string `codec:"token"`
	Prefix  string `codec:"prefix"`
}

type rawNetwork struct {
	Pool      string   `codec:"pool"`
	Deny      []string `codec:"deny"`
	Resolvers []string `codec:"resolvers"`
}

// rawLimits are numbers as Nomad encodes them (see number).
type rawLimits struct {
	PidsMax  any `codec:"pids_max"`
	Disk     any `codec:"disk"`
	FilesMax any `codec:"files_max"`
}

// parseConfig decodes what Nomad sends; data may be empty.
func parseConfig(data []byte) (*Config, error) {
	var raw rawConfig
	if len(data) != 0 {
		if err := base.MsgPackDecode(data, &raw); err != nil {
			return nil, fmt.Errorf("decode plugin config: %w", err)
		}
	}
	config := &Config{
		Rootfs:     raw.Rootfs,
		Bun:        or(raw.Bun, DefaultBun),
		Init:       raw.Init,
		StateDir:   or(raw.StateDir, DefaultStateDir),
		NodeSecret: []byte(or(raw.NodeSecret, os.Getenv(secretEnv))),
		Consul: ConsulConfig{
			Address: raw.Consul.Address,
			Token:   raw.Consul.Token,
			Prefix:  or(strings.Trim(raw.Consul.Prefix, "/"), claim.DefaultPrefix),
		},
	}
	if config.Init == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find buntime-init beside the plugin: %w", err)
		}
		config.Init = filepath.Join(filepath.Dir(exe), "..", "libexec", "buntime-init")
	}
	for _, p := range []struct{ key, path string }{
		{"rootfs", config.Rootfs}, {"bun", config.Bun}, {"init", config.Init}, {"state_dir", config.StateDir},
	} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			return nil, fmt.Errorf("plugin config: %s must be an absolute path, got %q", p.key, p.path)
		}
	}
	if n := len(config.NodeSecret); n != 0 && n < minSecret {
		return nil, fmt.Errorf("plugin config: node_secret must have at least %d characters, got %d", minSecret, n)
	}
	var err error
	if config.Network, err = raw.Network.parse(); err != nil {
		return nil, fmt.Errorf("plugin config: network: %w", err)
	}
	builtin := LimitDefaults{PidsMax: DefaultPidsMax, DiskMB: DefaultDiskMB, FilesMax: DefaultFilesMax}
	if config.Defaults, err = raw.Defaults.parse(builtin); err != nil {
		return nil, fmt.Errorf("plugin config: defaults: %w", err)
	}
	return config, nil
}

func (raw *rawNetwork) parse() (NetworkConfig, error) {
	var network NetworkConfig
	var err error
	if network.Pool, err = netip.ParsePrefix(or(raw.Pool, DefaultPool)); err != nil {
		return network, fmt.Errorf("pool must be a range such as %s: %w", DefaultPool, err)
	}
	network.Pool = network.Pool.Masked()
	if !network.Pool.Addr().Is4() || network.Pool.Bits() > 30 {
		return network, fmt.Errorf("pool must be an IPv4 range of at least four addresses, got %s", network.Pool)
	}
	for _, s := range raw.Deny {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			return network, fmt.Errorf("deny must hold ranges such as 203.0.113.0/24: %w", err)
		}
		network.Deny = append(network.Deny, prefix.Masked())
	}
	for _, s := range raw.Resolvers {
		addr, err := netip.ParseAddrPort(s)
		if err != nil {
			ip, ipErr := netip.ParseAddr(s)
			if ipErr != nil {
				return network, fmt.Errorf("resolvers must hold IP addresses, with or without a port: %w", ipErr)
			}
			addr = netip.AddrPortFrom(ip, 53)
		}
		network.Resolvers = append(network.Resolvers, addr)
	}
	return network, nil
}

// parse checks the limits and fills what is not given.
func (raw *rawLimits) parse(defaults LimitDefaults) (LimitDefaults, error) {
	var err error
	if defaults.PidsMax, err = whole("pids_max", raw.PidsMax, defaults.PidsMax, 16, 4<<20); err != nil {
		return defaults, err
	}
	if defaults.DiskMB, err = whole("disk", raw.Disk, defaults.DiskMB, 16, 1<<24); err != nil {
		return defaults, err
	}
	defaults.FilesMax, err = whole("files_max", raw.FilesMax, defaults.FilesMax, 64, 1<<20)
	return defaults, err
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
