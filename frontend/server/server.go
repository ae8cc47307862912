// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/relay"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/driver/snapshot/backend"
	"github.com/buntime/buntime/driver/snapshot/store"
	"github.com/buntime/buntime/driver/tracing"
	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/api"
	"github.com/buntime/buntime/frontend/audit"
	"github.com/buntime/buntime/frontend/consul"
	"github.com/buntime/buntime/frontend/keys"
	"github.com/buntime/buntime/frontend/logging"
	"github.com/buntime/buntime/frontend/metrics"
	"github.com/buntime/buntime/frontend/node"
	"github.com/buntime/buntime/frontend/nomad"
	"github.com/buntime/buntime/frontend/preview"
	"github.com/buntime/buntime/jobs"
)

// parts are what a front-end is made of.
type parts struct {
	store     *consul.Store
	election  *consul.Election
	scheduler *nomad.Scheduler
	nodes     *node.Client
	sessions  *frontend.Service
	keys      *keys.Ring
	api       *api.Server
	handler   *preview.Handler
	metrics   *metrics.Metrics
	audit     *audit.Log
	// closeStore lets go of the object store; nil where there is none.
	closeStore func() error
}

func assemble(c Config, log *slog.Logger) (*parts, error) {
	p := &parts{nodes: node.NewClient([]byte(c.NodeSecret)), metrics: metrics.New()}
	p.nodes.Failed = p.metrics.NodeFailed
	c.Consul.Measure, c.Nomad.Measure = p.metrics.Consul, p.metrics.Nomad
	var err error
	c.Consul.Fail, c.Nomad.Fail = complain(log, "Consul"), complain(log, "Nomad")
	var nodeTLS *credentials.Certificates
	if files := c.NodeTLS.files(); !files.None() {
		if nodeTLS, err = credentials.Open(files, complain(log, "nodes")); err != nil {
			return nil, fmt.Errorf("node_tls: %w", err)
		}
		p.nodes.Secure(nodeTLS)
		c.Nomad.NodeTLS = true
	}
	if p.store, err = consul.NewStore(c.Consul); err != nil {
		return nil, err
	}
	if p.election, err = consul.NewElection(c.Consul, log); err != nil {
		return nil, err
	}
	if p.scheduler, err = nomad.NewScheduler(c.Nomad, jobs.Session, c.domain()); err != nil {
		return nil, err
	}
	p.sessions = frontend.NewService(p.store, p.scheduler, p.nodes, log)
	p.sessions.Observer = p.metrics
	p.metrics.Register(state{p.sessions})
	if c.Store.Named() {
		objects, closer, err := backend.Open(c.Store)
		if err != nil {
			return nil, err
		}
		p.closeStore = closer
		repository, err := snapshot.New(store.Observed(objects, p.metrics.Store), snapshot.Config{})
		if err != nil {
			return nil, errors.Join(err, closer())
		}
		p.sessions.Objects = repository
	}
	p.sessions.Pool = c.Pool.settings()
	p.sessions.SetStarts(c.Pool.Starts)
	p.sessions.ReapInterval = time.Duration(c.ReapInterval)
	file, err := keys.NewFile(c.Keys)
	if err != nil {
		return nil, err
	}
	p.keys = keys.NewRing(file, p.store, log)
	p.metrics.Register(staleKeys(p.keys))
	if p.audit, err = audit.Open(c.Audit, p.metrics.AuditLost.Inc, func(err error) { log.Error("events are missing in the audit log", "err", err) }); err != nil {
		return nil, err
	}
	p.api, err = api.New(api.Config{
		Sessions: p.sessions, Node: p.nodes, Keys: p.keys,
		BaseURL: c.BaseURL, PreviewScheme: c.PreviewScheme, PreviewDomain: c.PreviewDomain, Secret: []byte(c.NodeSecret), Log: log,
		Metrics: p.metrics, Audit: p.audit,
	})
	if err != nil {
		return nil, err
	}
	p.handler = preview.New(preview.Config{
		Sessions: p.sessions, Secret: []byte(c.NodeSecret), TLS: nodeTLS, Scheme: c.PreviewScheme, Domain: c.PreviewDomain, Log: log,
		Observe: p.metrics.Preview,
	}, p.api)
	return p, nil
}

// lead is what the front-end does that leads.
func (p *parts) lead(ctx context.Context) {
	p.metrics.Leads.Set(1)
	defer p.metrics.Leads.Set(0)
	p.sessions.Run(ctx)
}

// complain is for files that have become useless: what was read before goes on.
func complain(log *slog.Logger, whose string) func(error) {
	return func(err error) { log.Warn("goes on with the credentials that it had", "for", whose, "err", err) }
}

func (p *parts) close(log *slog.Logger) {
	p.sessions.Close()
	if p.closeStore != nil {
		_ = p.closeStore() // nothing is written through it
	}
	p.handler.Close()
	p.nodes.Close()
	p.scheduler.Close()
	p.election.Close()
	p.store.Close()
	if err := p.audit.Close(); err != nil {
		log.Warn("end", "err", err)
	}
}

// Run serves until the context ends, then lets requests under way finish.
func Run(ctx context.Context, c Config, log *slog.Logger) error {
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	return Serve(ctx, c, l, log)
}

// traceTimeout bounds the sending of the last traces.
const traceTimeout = 3 * time.Second

// Serve is Run on a listener, which it closes.
func Serve(ctx context.Context, c Config, l net.Listener, log *slog.Logger) error {
	untrace, err := tracing.Start(ctx, "buntime-frontend", func(err error) { log.Warn("traces cannot be sent", "err", err) })
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer func() {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), traceTimeout, fmt.Errorf("not done in %v", traceTimeout))
		defer cancel()
		if err := untrace(ctx); err != nil {
			log.Warn("the last traces were not sent", "err", err)
		}
	}()
	log = slog.New(logging.Handler(log.Handler()))
	p, err := assemble(c, log)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	defer p.close(log)

	watching, unwatch := context.WithCancel(context.WithoutCancel(ctx)) // for requests under way, too
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		p.sessions.WatchPool(watching)
	}()
	defer func() { unwatch(); <-watched }()
	// Another may lead while requests under way here are finished.
	standing, withdraw := context.WithCancel(ctx)
	withdrawn := make(chan struct{})
	go func() {
		defer close(withdrawn)
		p.election.Lead(standing, p.lead)
	}()
	defer func() { withdraw(); <-withdrawn }()
	following, forget := context.WithCancel(context.WithoutCancel(ctx)) // as long as requests are served
	followed := make(chan struct{})
	go func() {
		defer close(followed)
		p.keys.Run(following)
	}()
	defer func() { forget(); <-followed }()

	proxies, err := door.ParseNetworks(c.TrustedProxies)
	if err != nil {
		return errors.Join(fmt.Errorf("trusted_proxies: %w", err), l.Close())
	}
	limits := door.Limits{
		Head: time.Duration(c.ReadHeaderTimeout), Idle: time.Duration(c.IdleTimeout), Stall: time.Duration(c.StallTimeout),
	}
	p.handler.Proxies = proxies
	srv := relay.NewServer(door.NewServer(door.Behind(proxies, p.lastAnswers()), limits, slog.NewLogLogger(log.Handler(), slog.LevelDebug)), limits, p.relay)
	l = door.Limit(l, p.metrics.Room(door.Room{All: c.Connections.Total, Each: c.Connections.PerClient, Exempt: proxies}))
	if files := c.TLS.files(); !files.None() {
		certs, err := credentials.Open(files, complain(log, "clients"))
		if err != nil {
			return errors.Join(fmt.Errorf("tls: %w", err), l.Close())
		}
		l = tls.NewListener(l, certs.Server())
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	log.Info("serving", "address", l.Addr().String(), "url", c.BaseURL, "previews", c.PreviewScheme+"://ses-….", "domain", c.PreviewDomain)
	tell(log, daemon.SdNotifyReady)
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	tell(log, daemon.SdNotifyStopping)
	return p.shutDown(context.WithoutCancel(ctx), c, srv, log)
}
