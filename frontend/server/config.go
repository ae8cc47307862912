// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package server puts the parts of the front-end together and serves them.
package server

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/snapshot/backend"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/keys"
	"github.com/buntime/buntime/frontend/logging"
	"github.com/buntime/buntime/frontend/nomad"
	"github.com/buntime/buntime/frontend/settings"
)

// Example is a configuration file that has every setting with its default, and says what
// it is.
//
//go:embed example.json
var Example []byte

// Config is the front-end's configuration; see package settings for where it comes from.
type Config struct {
	// Listen is host:port for the API and the previews. Default ":8080".
	Listen string `json:"listen"`
	// BaseURL is where clients find the API. Default http://localhost with the
	// port of Listen.
	BaseURL string `json:"base_url"`
	// PreviewDomain is host[:port] as it stands in preview URLs. Default
	// localhost with the port of Listen.
	PreviewDomain string `json:"preview_domain"`
	// PreviewScheme is http or https. Default http below localhost, else https.
	PreviewScheme string `json:"preview_scheme"`

	Nomad  nomad.Config  `json:"nomad"`
	Consul consul.Config `json:"consul"`
	// NodeSecret is what front-ends and node agents share. Default: the
	// environment's BUNTIME_NODE_SECRET.
	NodeSecret string `json:"node_secret" secret:"true"`
	// NodeTLS has calls of nodes made over TLS: the authority of the nodes' certificates,
	// and this front-end's own.
	NodeTLS TLS `json:"node_tls"`
	// TLS is the certificate for Listen, which speaks plain HTTP without.
	TLS  ListenTLS     `json:"tls"`
	Keys []keys.Config `json:"keys"`

	// Store is where the nodes put snapshots; it has to be the same. Without it what
	// is stored of a session that has ended waits for its own expiry.
	Store backend.Config `json:"store"`
	// TrustedProxies are addresses and ranges of the proxies in front: of them,
	// and nobody else, it is believed for whom a request comes (X-Forwarded-For).
	TrustedProxies []string `json:"trusted_proxies"`
	// Connections is how many there may be at a time; what is above is closed.
	Connections struct {
		// Total is for all clients together. Default 8192.
		Total int `json:"total"`
		// PerClient is for one address, or one /64 of IPv6, but for trusted
		// proxies. Default 512.
		PerClient int `json:"per_client"`
	} `json:"connections"`

	// Log says how the log, on standard error, is written.
	Log logging.Config `json:"log"`
	// Audit is a file, or stdout, for who has done what to which session. Default: it is
	// not written down.
	Audit string `json:"audit"`

	// Pool is of slots: sessions that are started before anybody asks for them.
	Pool PoolConfig `json:"pool"`

	// ReapInterval is how often what has no owner is looked for. Default 10 s.
	ReapInterval Duration `json:"reap_interval"`
	// ReadHeaderTimeout bounds how long the head of a request may take to
	// arrive. Default 10 s.
	ReadHeaderTimeout Duration `json:"read_header_timeout"`
	// IdleTimeout is how long a connection may stay without a request. Default 2 min.
	IdleTimeout Duration `json:"idle_timeout"`
	// StallTimeout is how long a client may send nothing of a request's body,
	// or take nothing of an answer. Default 30 s.
	StallTimeout Duration `json:"stall_timeout"`
	// ShutdownDelay is how long the front-end says that it is not ready, and serves all
	// the same, before it takes no connections any more: time for proxies to notice.
	// Default 5 s.
	ShutdownDelay *Delay `json:"shutdown_delay"`
	// ShutdownTimeout is how long requests under way may take after that. Default 15 s.
	ShutdownTimeout Duration `json:"shutdown_timeout"`
}

// TLS are the files of both sides' certificates. They are read anew when they change.
type TLS struct {
	CAFile   string `json:"ca_file"`
	CertFile string `json:"cert_file"`
	KeyFile  string `json:"key_file"`
}

func (t TLS) files() credentials.Files {
	return credentials.Files{CA: t.CAFile, Cert: t.CertFile, Key: t.KeyFile}
}

// ListenTLS are the files of a server's certificate. They are read anew when they change.
type ListenTLS struct {
	CertFile string `json:"cert_file"`
	KeyFile  string `json:"key_file"`
}

func (t ListenTLS) files() credentials.Files {
	return credentials.Files{Cert: t.CertFile, Key: t.KeyFile}
}

// Duration is a time.Duration as text: "10s".
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	if v <= 0 {
		return fmt.Errorf("%s is not positive", text)
	}
	*d = Duration(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Delay is a Duration that may be 0.
type Delay time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Delay) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return err
	}
	if v < 0 {
		return fmt.Errorf("%s is negative", text)
	}
	*d = Delay(v)
	return nil
}

// MarshalText implements encoding.TextMarshaler.
func (d Delay) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// secretVariable is also the plugin's.
const secretVariable = "BUNTIME_NODE_SECRET"

// Load reads and checks the configuration: from a file, which may be none, the environment
// and flags.
func Load(file string, environ []string, flags *settings.Flags) (*Config, *settings.Set, error) {
	c := new(Config)
	set, err := settings.Load(c, settings.Sources{
		File: file, Environ: environ, Prefix: "BUNTIME_FRONTEND_", Alias: map[string]string{secretVariable: "node_secret"}, Flags: flags,
	})
	if err != nil {
		return nil, nil, err
	}
	if err = c.defaults(); err == nil {
		err = c.check()
	}
	if err != nil {
		return nil, nil, fmt.Errorf("check configuration: %w", err)
	}
	return c, set, nil
}

// domainShape is host[:port]. It goes into job files and regular expressions.
var domainShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?$`)

func (c *Config) check() error {
	switch base, err := url.Parse(c.BaseURL); {
	case err != nil || base.Host == "":
		return fmt.Errorf("base_url %q is no URL", c.BaseURL)
	case !domainShape.MatchString(c.PreviewDomain):
		return fmt.Errorf("preview_domain %q is not host or host:port in lower case", c.PreviewDomain)
	case c.PreviewScheme != "http" && c.PreviewScheme != "https":
		return fmt.Errorf("preview_scheme %q is neither http nor https", c.PreviewScheme)
	case len(c.NodeSecret) < 16:
		return errors.New("node_secret (or " + secretVariable + ") is missing or shorter than 16 characters")
	case (c.TLS.CertFile == "") != (c.TLS.KeyFile == ""):
		return errors.New("tls: cert_file and key_file are both needed")
	case !c.NodeTLS.files().None() && c.NodeTLS.files().Complete() != nil:
		return fmt.Errorf("node_tls: %w", c.NodeTLS.files().Complete())
	case c.Store.Check() != nil:
		return c.Store.Check()
	case c.Connections.Total < 1 || c.Connections.PerClient < 1:
		return errors.New("connections.total and connections.per_client must be positive")
	}
	if err := c.Pool.check(); err != nil {
		return err
	}
	if _, err := keys.NewFile(c.Keys); err != nil {
		return err
	}
	if _, err := logging.New(c.Log, io.Discard); err != nil {
		return err
	}
	if c.Audit != "" && c.Audit != "stdout" && !filepath.IsAbs(c.Audit) {
		return fmt.Errorf("audit is stdout or the absolute path of a file, not %q", c.Audit)
	}
	if _, err := door.ParseNetworks(c.TrustedProxies); err != nil {
		return fmt.Errorf("trusted_proxies: %w", err)
	}
	return nil
}

func (c *Config) defaults() error {
	def(&c.Listen, ":8080")
	_, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen %q is not host:port", c.Listen)
	}
	local := "http"
	if !c.TLS.files().None() {
		local = "https"
	}
	def(&c.BaseURL, local+"://localhost:"+port)
	def(&c.PreviewDomain, "localhost:"+port)
	scheme := "https"
	if host := c.domain(); host == "localhost" || strings.HasSuffix(host, ".localhost") {
		scheme = local
	}
	def(&c.PreviewScheme, scheme)
	def(&c.Consul.Prefix, claim.DefaultPrefix)
	def(&c.Log.Format, "text")
	def(&c.Log.Level, "info")
	c.Pool.defaults()
	def(&c.ReapInterval, Duration(10*time.Second))
	def(&c.ReadHeaderTimeout, Duration(10*time.Second))
	def(&c.IdleTimeout, Duration(2*time.Minute))
	def(&c.StallTimeout, Duration(30*time.Second))
	def(&c.Connections.Total, 8192)
	def(&c.Connections.PerClient, 512)
	if c.ShutdownDelay == nil {
		c.ShutdownDelay = new(Delay(5 * time.Second))
	}
	def(&c.ShutdownTimeout, Duration(15*time.Second))
	return nil
}

// domain is the preview domain without its port.
func (c *Config) domain() string {
	host, _, _ := strings.Cut(c.PreviewDomain, ":")
	return host
}

func def[T comparable](value *T, otherwise T) {
	var none T
	if *value == none {
		*value = otherwise
	}
}
