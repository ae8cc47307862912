// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package stack starts the real parts on one machine: a Consul server, a Nomad
// server, a Nomad client with our driver plugin, and the front-end.
// `make run` and every end-to-end test use it, so what a developer sees is
// what is tested.
//
// All of it listens on loopback, on ports of a block that no other stack of
// the machine has, and keeps its files in one directory. Stop ends everything
// and says what was left over. What a killed process could not stop, the next
// Start on the machine removes.
package stack

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/sync/errgroup"

	"github.com/buntime/buntime/frontend/api"
)

// Key is an API key. The front-end's configuration has its hash instead.
type Key struct {
	Key     string `json:"-"`
	Account string `json:"account"`
	Plan    string `json:"plan"` // free, paid or enterprise
	// Limits that differ from the plan's, by their name in the configuration.
	Limits map[string]any `json:"limits,omitempty"`
}

// NewKey makes a key as `buntime-frontend new-key` does.
func NewKey() string { return api.NewKey() }

// MarshalJSON is the key as the front-end's configuration has it.
func (k Key) MarshalJSON() ([]byte, error) {
	type rest Key
	return json.Marshal(struct {
		Hash string `json:"hash"`
		rest
	}{api.HashKey(k.Key), rest(k)})
}

// Options of a stack. All of them may be left empty.
type Options struct {
	// Dir is where all files go; it must be empty or absent, and goes with
	// Stop. A short path: there are unix sockets in it, whose names the kernel
	// limits to 107 bytes. Default: a new one in the system's temporary folder.
	Dir string
	// Listen is the front-end's address. Default: a free port on loopback.
	Listen string
	// Keys that the front-end takes. Default: one of a paid and one of a free
	// account, in this order.
	Keys []Key
	// Frontend are more settings of the front-end, by their name in its
	// configuration file.
	Frontend map[string]any
	// IdleAfter, SleepAfter and CheckpointEvery are the plugin's. Default: its own.
	IdleAfter, SleepAfter, CheckpointEvery time.Duration
	// NomadLogLevel of the agents and the plugin. Default INFO.
	NomadLogLevel string
	// Progress is told of each part that is up, maybe of two at the same time.
	// Default: nobody.
	Progress func(part string, took time.Duration)
}

// Stack is a running system. Its methods are not for use at the same time.
type Stack struct {
	Dir string
	// URL is the front-end's, without a final slash.
	URL string
	// PreviewDomain is the domain of the previews, with its port.
	PreviewDomain string
	// Keys that the front-end takes.
	Keys []Key
	// NomadAddr and ConsulAddr are the URLs of the servers.
	NomadAddr, ConsulAddr string
	// NodeSecret is what the front-end and the node agent share.
	NodeSecret string
	// Nomad and Consul are clients of the two servers.
	Nomad  *nomad.Client
	Consul *consul.Client

	options  Options
	tools    tools
	block    *block
	consul   *process
	server   *process // Nomad's
	client   *process // Nomad's
	frontend *process
	allocs   map[string]bool // ids of all allocations that were seen

	ports      ports
	clientAddr string // URL of the client agent
}

// storeDir is where snapshots of sessions go.
func (s *Stack) storeDir() string { return filepath.Join(s.Dir, "store") }

// readyTimeout bounds the start of each part. None takes over 3 s on a machine
// with two cores that does nothing else.
const readyTimeout = 60 * time.Second

// Start starts a stack and returns once a session can be created. An error
// has the end of the log of the part that did not come up, and nothing is
// left running.
func Start(ctx context.Context, options Options) (*Stack, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("start stack: root is needed, for Nomad's client and the sandboxes")
	}
	tools, err := findTools(ctx)
	if err != nil {
		return nil, err
	}
	block, err := acquireBlock(ctx, options.Dir)
	if err != nil {
		return nil, err
	}
	s := &Stack{Dir: block.dir, Keys: options.Keys, NodeSecret: secret(32), options: options, tools: tools, block: block, allocs: map[string]bool{}}
	if err := s.start(ctx); err != nil {
		stopCtx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), time.Minute, errors.New("stop of a stack that did not start took over a minute"))
		defer cancel()
		return nil, errors.Join(err, s.Stop(stopCtx))
	}
	return s, nil
}

func (s *Stack) start(ctx context.Context) error {
	if s.Keys == nil {
		s.Keys = []Key{
			{Key: NewKey(), Account: "paid", Plan: "paid"},
			{Key: NewKey(), Account: "free", Plan: "free"},
		}
	}
	if err := s.assign(); err != nil {
		return err
	}
	// Consul and Nomad's server do not wait for each other; the client looks
	// for Consul when it starts and then only every 15 s.
	var servers errgroup.Group
	servers.Go(func() error { return s.part(ctx, "consul", s.startConsul) })
	servers.Go(func() error { return s.part(ctx, "nomad-server", s.startServer) })
	if err := servers.Wait(); err != nil {
		return err
	}
	if err := s.part(ctx, "nomad-client", s.startClient); err != nil {
		return err
	}
	return s.part(ctx, "front-end", s.startFrontend)
}

// ports of the servers.
type ports struct {
	consulHTTP, consulDNS, consulServer, consulSerf int
	serverHTTP, serverRPC, serverSerf               int
	clientHTTP, clientRPC, clientSerf               int
	frontend                                        int
}

// assign takes a free port for each purpose and makes what follows from them.
func (s *Stack) assign() error {
	p := &s.ports
	for _, port := range []*int{
		&p.consulHTTP, &p.consulDNS, &p.consulServer, &p.consulSerf,
		&p.serverHTTP, &p.serverRPC, &p.serverSerf,
		&p.clientHTTP, &p.clientRPC, &p.clientSerf,
		&p.frontend,
	} {
		var err error
		if *port, err = s.block.port(); err != nil {
			return err
		}
	}
	s.ConsulAddr = "http://" + loopback(p.consulHTTP)
	s.NomadAddr = "http://" + loopback(p.serverHTTP)
	s.clientAddr = "http://" + loopback(p.clientHTTP)
	var err error
	if s.Consul, err = consul.NewClient(&consul.Config{Address: s.ConsulAddr}); err != nil {
		return fmt.Errorf("make client of Consul: %w", err)
	}
	if s.Nomad, err = nomad.NewClient(&nomad.Config{Address: s.NomadAddr}); err != nil {
		return fmt.Errorf("make client of Nomad: %w", err)
	}
	return nil
}

// part starts a part within its time and tells of it.
func (s *Stack) part(ctx context.Context, name string, start func(context.Context) error) error {
	began := time.Now()
	ctx, cancel := context.WithTimeoutCause(ctx, readyTimeout, fmt.Errorf("not ready within %s", readyTimeout))
	defer cancel()
	if err := start(ctx); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	if s.options.Progress != nil {
		s.options.Progress(name, time.Since(began))
	}
	return nil
}

// Logs is the last n lines of what a part has printed: "consul",
// "nomad-server", "nomad-client" (with what the plugin logs) or "front-end".
func (s *Stack) Logs(part string, n int) string {
	text, err := tail(filepath.Join(s.Dir, part+".log"), n)
	if err != nil {
		return err.Error()
	}
	return text
}

// CopyLogs writes the whole of all logs, each after a line with its name.
func (s *Stack) CopyLogs(w io.Writer) error {
	paths, err := filepath.Glob(filepath.Join(s.Dir, "*.log"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "==> %s\n%s", filepath.Base(path), text); err != nil {
			return err
		}
	}
	return nil
}

// secret makes n random bytes in hexadecimal digits.
func secret(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// loopback is the address of a port.
func loopback(port int) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
}
