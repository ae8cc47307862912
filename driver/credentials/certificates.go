// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package credentials

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// The roles of Buntime's own parts: the name that a certificate has to have among its DNS
// names, letter by letter, to be one of theirs.
const (
	// FrontEnd may call a node's sessions, and their previews.
	FrontEnd = "frontend.buntime"
	// Node is who carries sessions.
	Node = "node.buntime"
	// Proxy may reach previews on nodes, and nothing else there.
	Proxy = "proxy.buntime"
)

// Files are PEM files.
type Files struct {
	// CA are the authorities that others' certificates have to be of. Empty: the system's.
	CA string
	// CAPath is a directory with more of them.
	CAPath string
	// Cert and Key are one's own; Cert may have intermediate authorities behind it.
	Cert, Key string
	// Insecure: anybody is believed to be a server.
	Insecure bool
}

// None says whether nothing is named.
func (f Files) None() bool { return f == Files{} }

// Complete wants all three of what both sides of a connection have to have.
func (f Files) Complete() error {
	switch {
	case f.CA == "":
		return errors.New("ca_file is missing: the authority of the other side's certificates")
	case f.Cert == "" || f.Key == "":
		return errors.New("cert_file and key_file are both needed")
	}
	return nil
}

// Certificates are what Files say at the time.
type Certificates struct{ fresh[*generation] }

// generation are certificates that were read together.
type generation struct {
	own  []tls.Certificate // at most one
	pool *x509.CertPool    // nil: the system's
	// sessions are those that can be resumed with servers, and tickets has the keys for
	// those that clients resume here: neither outlives the certificates.
	sessions tls.ClientSessionCache
	tickets  *tls.Config
	insecure bool
}

// resumable is for how many servers a session is kept.
const resumable = 4096

// Open reads the files. fail, which may be nil, is told when later they cannot be used.
func Open(files Files, fail func(error)) (*Certificates, error) {
	c := &Certificates{fresh[*generation]{fail: fail}}
	for _, path := range []string{files.CA, files.CAPath, files.Cert, files.Key} {
		if path != "" {
			c.paths = append(c.paths, path)
		}
	}
	c.read = files.load
	if err := c.open(); err != nil {
		return nil, err
	}
	return c, nil
}

func (f Files) load() (*generation, error) {
	g := &generation{sessions: tls.NewLRUClientSessionCache(resumable), tickets: new(tls.Config), insecure: f.Insecure}
	if f.Cert != "" || f.Key != "" {
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("read certificate %s and its key %s: %w", f.Cert, f.Key, err)
		}
		g.own = []tls.Certificate{cert}
	}
	authorities, err := f.authorities()
	if err != nil {
		return nil, err
	}
	for _, path := range authorities {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		if g.pool == nil {
			g.pool = x509.NewCertPool()
		}
		if !g.pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("read authorities: %s has no certificate in PEM", path)
		}
	}
	return g, nil
}

func (f Files) authorities() ([]string, error) {
	var paths []string
	if f.CA != "" {
		paths = append(paths, f.CA)
	}
	if f.CAPath != "" {
		entries, err := os.ReadDir(f.CAPath)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() {
				paths = append(paths, filepath.Join(f.CAPath, e.Name()))
			}
		}
	}
	return paths, nil
}

// Server is for a listener. With roles, who connects has to have one of them; without,
// anybody may.
func (c *Certificates) Server(roles ...string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.get().server(roles), nil },
	}
}

func (g *generation) server(roles []string) *tls.Config {
	config := &tls.Config{
		Certificates: g.own, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
		// All listeners have the same keys, and change them every day.
		WrapSession: g.tickets.EncryptTicket, UnwrapSession: g.tickets.DecryptTicket,
	}
	if len(roles) == 0 {
		return config
	}
	// Buntime's own parts, and proxies of today's.
	config.MinVersion = tls.VersionTLS13
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, g.pool
	config.VerifyConnection = func(state tls.ConnectionState) error { // of resumed sessions, too
		names := state.PeerCertificates[0].DNSNames
		if !slices.ContainsFunc(roles, func(role string) bool { return slices.Contains(names, role) }) {
			return fmt.Errorf("the client's certificate is of %q, and none of %q may come here", names, roles)
		}
		return nil
	}
	return config
}

// handshakeTimeout is long for two round trips in a data centre.
const handshakeTimeout = 5 * time.Second

// DialFunc makes connections.
type DialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// Dial makes connections of TLS over those that dial makes, with a server that has
// a certificate for name, or for the host of the address if name is empty. Whatever fails
// is an error of dialling: nothing was sent.
func (c *Certificates) Dial(dial DialFunc, name string) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		server := name
		if server == "" {
			if server, _, err = net.SplitHostPort(addr); err != nil {
				server = addr
			}
		}
		secured := tls.Client(conn, c.client(server, conn.RemoteAddr()))
		ctx, cancel := context.WithTimeoutCause(ctx, handshakeTimeout, fmt.Errorf("no answer in %v", handshakeTimeout))
		defer cancel()
		if err := secured.HandshakeContext(ctx); err != nil {
			conn.Close()
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return nil, &net.OpError{Op: "dial", Net: network, Addr: conn.RemoteAddr(), Err: fmt.Errorf("begin TLS: %w", err)}
		}
		return secured, nil
	}
}

func (c *Certificates) client(server string, addr net.Addr) *tls.Config {
	g := c.get()
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		host = addr.String()
	}
	return &tls.Config{
		Certificates: g.own, RootCAs: g.pool, ServerName: server, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12,
		ClientSessionCache: sessionsOf{g.sessions, host},
		InsecureSkipVerify: g.insecure, // as Consul's and Nomad's own variables say
	}
}

// sessionsOf keeps the sessions of one host apart from those of others with the same
// name: each has keys of its own for them.
type sessionsOf struct {
	tls.ClientSessionCache
	host string
}

// Get implements tls.ClientSessionCache.
func (s sessionsOf) Get(key string) (*tls.ClientSessionState, bool) {
	return s.ClientSessionCache.Get(s.host + " " + key)
}

// Put implements tls.ClientSessionCache.
func (s sessionsOf) Put(key string, state *tls.ClientSessionState) {
	s.ClientSessionCache.Put(s.host+" "+key, state)
}

// Refused says whether an error is that the other side did not take this one's
// certificate. In TLS 1.3 that comes when an answer is waited for; nothing of the request
// was done.
func Refused(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && strings.Contains(op.Err.Error(), "certificate")
}

// Telling makes connections over which a request says that it was refused also where the
// transport has heard of that, and closed the connection, before it could be written.
func Telling(dial DialFunc) DialFunc {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &telling{Conn: conn}, nil
	}
}

type telling struct {
	net.Conn
	refused atomic.Pointer[error]
}

// Read implements net.Conn.
func (t *telling) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if err != nil && Refused(err) {
		t.refused.Store(&err)
	}
	return n, err
}

// Write implements net.Conn.
func (t *telling) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	if why := t.refused.Load(); err != nil && why != nil {
		err = *why
	}
	return n, err
}
