// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package stack starts the real parts on one machine: a Consul server, a Nomad
// server, Nomad clients with our driver plugin, and front-ends; one of each unless
// Options says more.
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
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	consul "github.com/hashicorp/consul/api"
	nomad "github.com/hashicorp/nomad/api"
	"golang.org/x/sync/errgroup"

	"github.com/buntime/buntime/frontend/keys"
)

// Key is an API key. The front-end's configuration has its hash instead.
type Key struct {
	Key     string `json:"-"`
	Account string `json:"account"`
	Plan    string `json:"plan"` // free, paid or enterprise
	// Operator makes it one of who runs the front-ends.
	Operator bool `json:"operator,omitempty"`
	// Limits that differ from the plan's, by their name in the configuration.
	Limits map[string]any `json:"limits,omitempty"`
}

// NewKey makes a key as `buntime-frontend new-key` does.
func NewKey() string { return keys.New() }

// MarshalJSON is the key as the front-end's configuration has it.
func (k Key) MarshalJSON() ([]byte, error) {
	type rest Key
	return json.Marshal(struct {
		Hash string `json:"hash"`
		rest
	}{keys.Hash(k.Key), rest(k)})
}

// Options of a stack. All of them may be left empty.
type Options struct {
	// Out is the folder with the binaries; empty is what `make build` has made of this
	// work tree.
	Out string
	// Dir is where all files go; it must be empty or absent, and goes with
	// Stop. A short path: there are unix sockets in it, whose names the kernel
	// limits to 107 bytes. Default: a new one in the system's temporary folder.
	Dir string
	// Clients and Frontends are how many there are, 4 clients at most. Default: 1.
	Clients, Frontends int
	// Swift has snapshots stored in a Swift of the stack's own. Default: in
	// a directory.
	Swift bool
	// Secured has Consul and Nomad with ACLs and TLS, set up for Buntime by the commands of
	// docs/cluster.md, and TLS between all parts.
	Secured bool
	// Heartbeat is after what time at least, and twice that at most, a client's next
	// heartbeat is due for Nomad's server, which takes it for dead HeartbeatGrace
	// later. Default: Nomad's 10 s, and its grace.
	Heartbeat time.Duration
	// Listen is the first front-end's address. Default: a free port on loopback.
	Listen string
	// Keys that the front-end takes. Default: one of a paid and one of a free
	// account, in this order.
	Keys []Key
	// Frontend are more settings of the front-ends, by their name in their
	// configuration files. Without "pool" there are no slots.
	Frontend map[string]any
	// IdleAfter, SleepAfter and CheckpointEvery are the plugin's. Default: its own.
	IdleAfter, SleepAfter, CheckpointEvery time.Duration
	// ShutdownDelay is the front-ends'. Default: none, as no proxy has to notice.
	ShutdownDelay time.Duration
	// Env is more of the environment of all parts, as NAME=value.
	Env []string
	// SmallChroot has Nomad put only what Bun and a shell need into the root of a
	// task of its driver exec. Default: Nomad's, which is all of /usr and /lib.
	SmallChroot bool
	// NomadLogLevel of the agents and the plugin. Default INFO.
	NomadLogLevel string
	// Progress is told of each part that is up, maybe of two at the same time.
	// Default: nobody.
	Progress func(part string, took time.Duration)
}

// HeartbeatGrace is by how much a client's heartbeat may be late where Options has
// Heartbeat: a busy machine holds up one that lives for some seconds.
const HeartbeatGrace = 8 * time.Second

// Stack is a running system. Its methods are not for use at the same time.
type Stack struct {
	Dir string
	// URL and PreviewDomain are the first front-end's.
	URL, PreviewDomain string
	// Keys that the front-ends take.
	Keys []Key
	// NomadAddr and ConsulAddr are the URLs of the servers.
	NomadAddr, ConsulAddr string
	// NodeSecret is what front-ends and node agents share.
	NodeSecret string
	// MetricsToken is what who reads the nodes' metrics shows.
	MetricsToken string
	// OldNodeSecret is what nodes take besides; empty: nothing. See Configure.
	OldNodeSecret string
	// The parts.
	ConsulServer, NomadServer Part
	Clients                   []*Client
	Frontends                 []*Frontend
	Swift                     *Store   // nil unless Options has it
	Secured                   *Secured // the same
	// Nomad and Consul are clients of the two servers, that may do everything.
	Nomad  *nomad.Client
	Consul *consul.Client

	options Options
	tools   tools
	block   *block
	ports   ports
	http    *http.Client
}

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
	tools, err := findTools(ctx, options.Out)
	if err != nil {
		return nil, err
	}
	options.Clients, options.Frontends = max(options.Clients, 1), max(options.Frontends, 1)
	if options.Clients > maxClients {
		return nil, fmt.Errorf("start stack: at most %d clients, not %d", maxClients, options.Clients)
	}
	block, err := acquireBlock(ctx, options.Dir)
	if err != nil {
		return nil, err
	}
	s := &Stack{
		Dir: block.dir, Keys: options.Keys, NodeSecret: secret(32), MetricsToken: secret(16), options: options, tools: tools, block: block,
		ConsulServer: Part{name: "consul", end: syscall.SIGINT}, NomadServer: Part{name: "nomad-server", end: syscall.SIGINT},
	}
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
			{Key: NewKey(), Account: "paid", Plan: "paid", Operator: true},
			{Key: NewKey(), Account: "free", Plan: "free"},
		}
	}
	if err := s.assign(); err != nil {
		return err
	}
	if err := errors.Join(s.prepareConsul(), s.prepareServer()); err != nil {
		return err
	}
	// These do not wait for each other; a client looks for Consul when it starts
	// and then only every 15 s.
	servers := []*Part{&s.ConsulServer, &s.NomadServer}
	starts := []func() error{}
	if s.options.Swift {
		starts = append(starts, func() error { return s.part(ctx, "swift", s.startSwift) })
	}
	if err := s.together(ctx, servers, starts...); err != nil {
		return err
	}
	if s.Secured != nil {
		if err := s.part(ctx, "ACLs", s.bootstrap); err != nil {
			return err
		}
	}
	var clients, frontends []*Part
	for n := range s.options.Clients {
		c, err := s.newClient(n)
		if err != nil {
			return err
		}
		s.Clients, clients = append(s.Clients, c), append(clients, &c.Agent)
	}
	if err := s.together(ctx, clients); err != nil {
		return err
	}
	for n := range s.options.Frontends {
		f, err := s.newFrontend(n)
		if err != nil {
			return err
		}
		s.Frontends, frontends = append(s.Frontends, f), append(frontends, &f.Part)
	}
	s.URL, s.PreviewDomain = s.Frontends[0].URL, s.Frontends[0].PreviewDomain
	return s.together(ctx, frontends)
}

// together starts some parts at once, and does what else there is.
func (s *Stack) together(ctx context.Context, parts []*Part, more ...func() error) error {
	var all errgroup.Group
	for _, p := range parts {
		all.Go(func() error { return s.part(ctx, p.name, p.run) })
	}
	for _, do := range more {
		all.Go(do)
	}
	return all.Wait()
}

// ports of the servers.
type ports struct {
	consulHTTP, consulDNS, consulServer, consulSerf int
	serverHTTP, serverRPC, serverSerf               int
}

// assign takes a free port for each purpose and makes what follows from them.
func (s *Stack) assign() error {
	p := &s.ports
	for _, port := range []*int{
		&p.consulHTTP, &p.consulDNS, &p.consulServer, &p.consulSerf,
		&p.serverHTTP, &p.serverRPC, &p.serverSerf,
	} {
		var err error
		if *port, err = s.block.port(); err != nil {
			return err
		}
	}
	if s.options.Secured {
		var err error
		if s.Secured, err = s.newSecured(); err != nil {
			return err
		}
	}
	s.ConsulAddr = s.scheme() + loopback(p.consulHTTP)
	s.NomadAddr = s.scheme() + loopback(p.serverHTTP)
	return s.connect()
}

// Configure writes the clients' and front-ends' configurations anew, for who has changed
// NodeSecret or OldNodeSecret. They count from the next start of each on.
func (s *Stack) Configure() error {
	for _, c := range s.Clients {
		if _, err := c.write(s.tools.runsc); err != nil {
			return err
		}
	}
	for _, f := range s.Frontends {
		if _, err := s.writeFrontend(f); err != nil {
			return err
		}
	}
	return nil
}

// scheme begins the URLs of all parts.
func (s *Stack) scheme() string {
	if s.Secured != nil {
		return "https://"
	}
	return "http://"
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
// "nomad-server", "nomad-client" (with what the plugin logs) or "front-end", or
// a further client or front-end with a number, as "front-end-1".
func (s *Stack) Logs(part string, n int) string {
	text, err := tail(filepath.Join(s.Dir, part+".log"), n)
	if err != nil {
		return err.Error()
	}
	return text
}

// AllLogs is the last n lines of each part's log, and up to as many errors before these,
// after a line with the part's name.
func (s *Stack) AllLogs(n int) string {
	var b strings.Builder
	for _, p := range s.parts() {
		lines := strings.Split(s.Logs(p.name, math.MaxInt), "\n")
		last := max(0, len(lines)-n)
		grave := slices.DeleteFunc(slices.Clone(lines[:last]), func(line string) bool { return !graveLine.MatchString(line) })
		fmt.Fprintf(&b, "==> end of the log of %s\n%s\n", p.name, strings.Join(append(grave[max(0, len(grave)-n):], lines[last:]...), "\n"))
	}
	return b.String()
}

// graveLine is of an error in a part's log, the driver's among them.
var graveLine = regexp.MustCompile(`\[ERROR\]|level=ERROR|Driver Failure`)

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
