// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package driver

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/nomad/plugins/base"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/sandbox"
	"github.com/buntime/buntime/driver/sandbox/network"
	"github.com/buntime/buntime/driver/snapshot/backend"
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

	// DefaultIdleAfter is how long a session stays active with nobody using it
	// (sessions.md).
	DefaultIdleAfter = 5 * time.Minute
	// DefaultSleepAfter is how long it stays on the node.
	DefaultSleepAfter = 30 * time.Minute
	// DefaultCheckpointEvery is how much of a session the sudden death of a node
	// costs at most.
	DefaultCheckpointEvery = time.Minute
)

// secretEnv may hold the node secret instead of the configuration.
const secretEnv = "BUNTIME_NODE_SECRET"

// Environ is the environment of processes that the plugin starts: its own, without the
// secret.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, secretEnv+"=") })
}

// minSecret is the shortest node secret, in bytes: 128 bits of hexadecimal
// digits are twice that, but a passphrase may be as short.
const minSecret = 16

// Config is the plugin's configuration, decoded, checked and with defaults.
type Config struct {
	Rootfs   string // host directory or image file of the sandboxes' root; may be empty
	Bun      string // path of Bun inside Rootfs
	Init     string // host path of buntime-init
	Restorer string // host path of buntime-restorer
	StateDir string // host directory for what must outlive the plugin
	// Runsc is the host path of gVisor's runsc; empty where there is none.
	// RunscGiven tells that the configuration names it.
	Runsc      string
	RunscGiven bool

	// NodeSecret is what front-ends and nodes derive tokens from. Without it
	// the node serves no sessions.
	NodeSecret []byte
	// OldSecret is the one before, whose tokens are still taken; empty: none are.
	OldSecret []byte
	// TLS are the certificates of the sessions' listeners; without any they speak plain HTTP.
	TLS credentials.Files
	// PreviewAccess says whose requests the preview ports of sessions take.
	PreviewAccess Access
	// Metrics says where the node's metrics are to be read.
	Metrics metrics.Config
	Consul  ConsulConfig
	Network NetworkConfig
	IDs     IDRange
	Life    LifeConfig
	// Store is where snapshots of sessions go. Default: a directory below StateDir,
	// which no other node can read.
	Store    backend.Config
	Defaults LimitDefaults
	// RunnerMemory is what runners that wait may hold on the node beside one in each
	// session, in bytes; negative is a part of the node's memory.
	RunnerMemory int64
}

// LifeConfig says when sessions come to rest.
type LifeConfig struct {
	// IdleAfter is how long nobody has to use a session for its processes to be
	// stopped; 0 is never.
	IdleAfter time.Duration
	// SleepAfter is how long nobody has to use it for its workspace to go to the
	// store and its sandbox to end; 0 is never.
	SleepAfter time.Duration
	// CheckpointEvery is how often a workspace that has changed goes to the store
	// meanwhile; 0 is never.
	CheckpointEvery time.Duration
}

// Access says who may use a listener of the node.
type Access string

const (
	// AccessAny is everybody who can reach it, such as any proxy that has found
	// it in Consul's catalog.
	AccessAny Access = "any"
	// AccessFrontEnd is front-ends alone, which show a token.
	AccessFrontEnd Access = "front-end"
)

// ConsulConfig says how to reach Consul. What is empty comes from Consul's
// usual environment variables and defaults.
type ConsulConfig struct {
	Address       string
	Token         string
	TokenFile     string // read anew when it changes
	TLS           credentials.Files
	TLSServerName string // if it is not the host of Address
	Prefix        string // folder in KV
	// Fail, which may be nil, is told when files have become useless.
	Fail func(error)
}

// NetworkConfig is the network of the sandboxes.
type NetworkConfig struct {
	Pool      netip.Prefix   // a /31 of it for each sandbox
	Deny      []netip.Prefix // ranges to block beside the private ones
	Allow     []netip.Prefix // exceptions from the private ones
	Resolvers []netip.AddrPort
	// Connections that a sandbox may open in a second and at once, and have
	// open; 0 is the default of package network.
	ConnRate, ConnBurst, ConnMax uint32
}

// Sandboxes is the same as package network takes it.
func (c NetworkConfig) Sandboxes() network.Config {
	return network.Config{
		Pool: c.Pool, Deny: c.Deny, Allow: c.Allow, Resolvers: c.Resolvers,
		ConnRate: c.ConnRate, ConnBurst: c.ConnBurst, ConnMax: c.ConnMax,
	}
}

// IDRange are the host ids, of users and of groups, that sandboxes are mapped to:
// sandbox.IDsPerSandbox for each.
type IDRange struct{ First, Last int }

// LimitDefaults hold for tasks that do not say otherwise.
type LimitDefaults struct {
	PidsMax  int64
	DiskMB   int64
	FilesMax int64
}

// rawConfig is the form of pluginConfigSpec.
type rawConfig struct {
	Rootfs        string     `codec:"rootfs"`
	Bun           string     `codec:"bun"`
	Init          string     `codec:"init"`
	StateDir      string     `codec:"state_dir"`
	Runsc         string     `codec:"runsc"`
	NodeSecret    string     `codec:"node_secret"`
	SecretFile    string     `codec:"node_secret_file"`
	OldSecret     string     `codec:"old_node_secret"`
	OldSecretFile string     `codec:"old_node_secret_file"`
	TLS           rawTLS     `codec:"tls"`
	PreviewAccess string     `codec:"preview_access"`
	Metrics       rawMetrics `codec:"metrics"`
	Consul        rawConsul  `codec:"consul"`
	Network       rawNetwork `codec:"network"`
	IDs           rawIDs     `codec:"ids"`
	Session       rawLife    `codec:"session"`
	Store         rawStore   `codec:"store"`
	Defaults      rawLimits  `codec:"defaults"`
	RunnerMemory  any        `codec:"runner_memory"`
}

type rawMetrics struct {
	Address   string `codec:"address"`
	Token     string `codec:"token"`
	TokenFile string `codec:"token_file"`
}

type rawConsul struct {
	Address       string `codec:"address"`
	Token         string `codec:"token"`
	TokenFile     string `codec:"token_file"`
	CAFile        string `codec:"ca_file"`
	CertFile      string `codec:"cert_file"`
	KeyFile       string `codec:"key_file"`
	TLSServerName string `codec:"tls_server_name"`
	Prefix        string `codec:"prefix"`
}

type rawTLS struct {
	CAFile   string `codec:"ca_file"`
	CertFile string `codec:"cert_file"`
	KeyFile  string `codec:"key_file"`
}

type rawNetwork struct {
	Pool      string   `codec:"pool"`
	Deny      []string `codec:"deny"`
	Allow     []string `codec:"allow"`
	Resolvers []string `codec:"resolvers"`
	ConnRate  any      `codec:"conn_rate"`
	ConnBurst any      `codec:"conn_burst"`
	ConnMax   any      `codec:"conn_max"`
}

type rawIDs struct {
	First any `codec:"first"`
	Last  any `codec:"last"`
}

type rawLife struct {
	IdleAfter       string `codec:"idle_after"`
	SleepAfter      string `codec:"sleep_after"`
	CheckpointEvery string `codec:"checkpoint_every"`
}

type rawStore struct {
	Dir   string    `codec:"dir"`
	Swift *rawSwift `codec:"swift"`
}

type rawSwift struct {
	backend.Swift
	KeyFile    string `codec:"key_file"`
	SecretFile string `codec:"credential_secret_file"`
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
	if err := raw.readSecrets(); err != nil {
		return nil, fmt.Errorf("plugin config: %w", err)
	}
	config := &Config{
		Rootfs:        raw.Rootfs,
		Bun:           or(raw.Bun, DefaultBun),
		Init:          raw.Init,
		StateDir:      or(raw.StateDir, DefaultStateDir),
		Runsc:         or(raw.Runsc, onPath("runsc")),
		RunscGiven:    raw.Runsc != "",
		NodeSecret:    []byte(or(raw.NodeSecret, os.Getenv(secretEnv))),
		OldSecret:     []byte(raw.OldSecret),
		TLS:           credentials.Files{CA: raw.TLS.CAFile, Cert: raw.TLS.CertFile, Key: raw.TLS.KeyFile},
		PreviewAccess: Access(or(raw.PreviewAccess, string(AccessAny))),
		Metrics:       metrics.Config{Address: raw.Metrics.Address, Token: raw.Metrics.Token},
		Consul: ConsulConfig{
			Address:       raw.Consul.Address,
			Token:         raw.Consul.Token,
			TokenFile:     raw.Consul.TokenFile,
			TLS:           credentials.Files{CA: raw.Consul.CAFile, Cert: raw.Consul.CertFile, Key: raw.Consul.KeyFile},
			TLSServerName: raw.Consul.TLSServerName,
			Prefix:        or(strings.Trim(raw.Consul.Prefix, "/"), claim.DefaultPrefix),
		},
	}
	if config.Init == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find buntime-init beside the plugin: %w", err)
		}
		config.Init = filepath.Join(filepath.Dir(exe), "..", "libexec", "buntime-init")
	}
	config.Restorer = filepath.Join(filepath.Dir(config.Init), "buntime-restorer")
	for _, p := range []struct{ key, path string }{
		{"rootfs", config.Rootfs},
		{"bun", config.Bun},
		{"init", config.Init},
		{"state_dir", config.StateDir},
		{"runsc", config.Runsc},
		{"tls: ca_file", config.TLS.CA},
		{"tls: cert_file", config.TLS.Cert},
		{"tls: key_file", config.TLS.Key},
		{"consul: token_file", config.Consul.TokenFile},
		{"consul: ca_file", config.Consul.TLS.CA},
		{"consul: cert_file", config.Consul.TLS.Cert},
		{"consul: key_file", config.Consul.TLS.Key},
	} {
		if p.path != "" && !filepath.IsAbs(p.path) {
			return nil, fmt.Errorf("plugin config: %s must be an absolute path, got %q", p.key, p.path)
		}
	}
	if n := len(config.NodeSecret); n != 0 && n < minSecret {
		return nil, fmt.Errorf("plugin config: node_secret must have at least %d characters, got %d", minSecret, n)
	}
	if n := len(config.OldSecret); n != 0 && (n < minSecret || len(config.NodeSecret) == 0) {
		return nil, fmt.Errorf("plugin config: old_node_secret is a node_secret's predecessor, of at least %d characters", minSecret)
	}
	if !config.TLS.None() {
		if err := config.TLS.Complete(); err != nil {
			return nil, fmt.Errorf("plugin config: tls: %w", err)
		}
	}
	if config.PreviewAccess != AccessAny && config.PreviewAccess != AccessFrontEnd {
		return nil, fmt.Errorf("plugin config: preview_access is %q or %q, not %q", AccessAny, AccessFrontEnd, config.PreviewAccess)
	}
	if err := config.Metrics.Check(); err != nil {
		return nil, fmt.Errorf("plugin config: metrics: %w", err)
	}
	var err error
	if config.Network, err = raw.Network.parse(); err != nil {
		return nil, fmt.Errorf("plugin config: network: %w", err)
	}
	if config.IDs, err = raw.IDs.parse(); err != nil {
		return nil, fmt.Errorf("plugin config: ids: %w", err)
	}
	if config.Life, err = raw.Session.parse(); err != nil {
		return nil, fmt.Errorf("plugin config: session: %w", err)
	}
	config.Store = backend.Config{Dir: raw.Store.Dir}
	if raw.Store.Swift != nil {
		config.Store.Swift = &raw.Store.Swift.Swift
	}
	if !config.Store.Named() {
		config.Store.Dir = filepath.Join(config.StateDir, "snapshots")
	}
	if err := config.Store.Check(); err != nil {
		return nil, fmt.Errorf("plugin config: %w", err)
	}
	builtin := LimitDefaults{PidsMax: DefaultPidsMax, DiskMB: DefaultDiskMB, FilesMax: DefaultFilesMax}
	if config.Defaults, err = raw.Defaults.parse(builtin); err != nil {
		return nil, fmt.Errorf("plugin config: defaults: %w", err)
	}
	runners, err := whole("runner_memory", raw.RunnerMemory, -1, 0, 1<<20)
	if err != nil {
		return nil, fmt.Errorf("plugin config: %w", err)
	}
	config.RunnerMemory = runners << 20
	return config, nil
}

// readSecrets puts in place what is in files of its own.
func (raw *rawConfig) readSecrets() error {
	type secret struct {
		key  string
		into *string
		file string
	}
	secrets := []secret{
		{"node_secret", &raw.NodeSecret, raw.SecretFile},
		{"old_node_secret", &raw.OldSecret, raw.OldSecretFile},
		{"consul.token", &raw.Consul.Token, raw.Consul.TokenFile},
		{"metrics.token", &raw.Metrics.Token, raw.Metrics.TokenFile},
	}
	if swift := raw.Store.Swift; swift != nil {
		secrets = append(secrets,
			secret{"store.swift.key", &swift.Key, swift.KeyFile},
			secret{"store.swift.credential_secret", &swift.CredentialSecret, swift.SecretFile})
	}
	for _, s := range secrets {
		if s.file == "" {
			continue
		}
		if *s.into != "" {
			return fmt.Errorf("%s and %s_file are both given; leave one of them out", s.key, s.key)
		}
		text, err := os.ReadFile(s.file)
		if err != nil {
			return fmt.Errorf("%s_file: %w", s.key, err)
		}
		if *s.into = strings.TrimRight(string(text), "\r\n"); *s.into == "" {
			return fmt.Errorf("%s_file: %s is empty", s.key, s.file)
		}
	}
	return nil
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
	for _, list := range []struct {
		key  string
		from []string
		to   *[]netip.Prefix
	}{
		{"deny", raw.Deny, &network.Deny},
		{"allow", raw.Allow, &network.Allow},
	} {
		for _, s := range list.from {
			prefix, err := netip.ParsePrefix(s)
			if err != nil {
				return network, fmt.Errorf("%s must hold ranges such as 203.0.113.0/24: %w", list.key, err)
			}
			*list.to = append(*list.to, prefix.Masked())
		}
	}
	for _, number := range []struct {
		key string
		raw any
		to  *uint32
	}{
		{"conn_rate", raw.ConnRate, &network.ConnRate},
		{"conn_burst", raw.ConnBurst, &network.ConnBurst},
		{"conn_max", raw.ConnMax, &network.ConnMax},
	} {
		n, err := whole(number.key, number.raw, 0, 1, 1<<20)
		if err != nil {
			return network, err
		}
		*number.to = uint32(n)
	}
	if err := network.Sandboxes().Validate(); err != nil {
		return network, err
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

func (raw *rawIDs) parse() (IDRange, error) {
	const (
		least = 1 << 16 // below are the machine's own
		most  = 1<<31 - 1
	)
	first, err := whole("first", raw.First, sandbox.DefaultFirstID, least, most)
	if err != nil {
		return IDRange{}, err
	}
	last, err := whole("last", raw.Last, sandbox.DefaultLastID, least, most)
	if err != nil {
		return IDRange{}, err
	}
	if last-first+1 < sandbox.IDsPerSandbox {
		return IDRange{}, fmt.Errorf("a sandbox needs %d ids, first to last are %d", sandbox.IDsPerSandbox, last-first+1)
	}
	return IDRange{First: int(first), Last: int(last)}, nil
}

func (raw *rawLife) parse() (life LifeConfig, err error) {
	for _, t := range []struct {
		key, given string
		otherwise  time.Duration
		into       *time.Duration
	}{
		{"idle_after", raw.IdleAfter, DefaultIdleAfter, &life.IdleAfter},
		{"sleep_after", raw.SleepAfter, DefaultSleepAfter, &life.SleepAfter},
		{"checkpoint_every", raw.CheckpointEvery, DefaultCheckpointEvery, &life.CheckpointEvery},
	} {
		*t.into, err = time.ParseDuration(or(t.given, t.otherwise.String()))
		if err != nil || *t.into < 0 {
			return life, fmt.Errorf("%s must be a time such as 5m, or 0 for never, got %q", t.key, t.given)
		}
	}
	return life, nil
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

// onPath is the absolute path of a program on PATH, "" where there is none.
func onPath(name string) string {
	found, err := exec.LookPath(name)
	if err != nil || !filepath.IsAbs(found) {
		return ""
	}
	return found
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
