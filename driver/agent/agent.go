// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package agent is the node agent: the data plane of all sandboxes of a node,
// in the process of the driver plugin. It implements the driver's Runtime over
// package sandbox, serves each session on its allocation's ports, and forwards
// the ports of ordinary jobs.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver"
	"github.com/buntime/buntime/driver/credentials"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/restorer"
	"github.com/buntime/buntime/driver/sandbox"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
	"github.com/buntime/buntime/driver/sandbox/network"
	"github.com/buntime/buntime/driver/snapshot"
	"github.com/buntime/buntime/driver/snapshot/backend"
	"github.com/buntime/buntime/driver/snapshot/store"
)

const (
	// hostCerts is where the host's certificates lie on Debian and its kin.
	hostCerts = "/etc/ssl/certs/ca-certificates.crt"
	// readyWorkspaces are kept made in advance: creation takes some 10 ms,
	// and a few bridge the gap while the next is made.
	readyWorkspaces = 4
	// orphanGrace is how long after its start the plugin waits for Nomad to
	// recover its tasks before it removes the sandboxes that none owns, and
	// sweepEvery how often these are looked for: together a minute, which is what
	// nothing without an owner outlives.
	orphanGrace = 50 * time.Second
	sweepEvery  = 10 * time.Second
)

// Agent implements driver.Runtime.
type Agent struct {
	config *driver.Config
	log    hclog.Logger
	node   *sandbox.Node

	snapshots  *snapshot.Repository
	closeStore func() error
	// restorer, unless it is nil, lets a workspace be in use before all of it is there.
	restorer *restorer.Client

	// apiTLS and previewTLS are of the sessions' listeners; nil: they speak plain HTTP.
	apiTLS, previewTLS *tls.Config

	cancel context.CancelFunc
	tasks  sync.WaitGroup

	archives chan struct{} // see Session.allArchives
	saves    chan struct{} // has one in it for each snapshot that nobody waits for
	stock    *stock

	mu        sync.Mutex
	instances map[*instance]struct{}
	settled   time.Time // when the last task was recovered, or the agent opened
}

// Open starts the node agent.
func Open(ctx context.Context, config *driver.Config, log hclog.Logger) (driver.Runtime, error) {
	return open(ctx, config, log, nil)
}

// open is Open that leaves out some layers of the sandboxes', for tests.
func open(ctx context.Context, config *driver.Config, log hclog.Logger, without []sandbox.Layer) (*Agent, error) {
	trusted := hostCerts
	if _, err := os.Stat(trusted); err != nil {
		trusted = ""
	}
	apiTLS, previewTLS, metricsTLS, err := openTLS(config, log)
	if err != nil {
		return nil, err
	}
	node, err := sandbox.Open(sandbox.Config{
		StateDir:        config.StateDir,
		Rootfs:          config.Rootfs,
		Init:            config.Init,
		Bun:             config.Bun,
		CertFile:        trusted,
		Runsc:           config.Runsc,
		Network:         networkOf(config),
		FirstID:         config.IDs.First,
		LastID:          config.IDs.Last,
		ReadyWorkspaces: readyWorkspaces,
		ReadySize:       config.Defaults.DiskMB << 20,
		Without:         without,
	}, log)
	if err != nil {
		return nil, err
	}
	objects, closeStore, err := backend.Open(config.Store)
	if err != nil {
		return nil, errors.Join(err, node.Close())
	}
	snapshots, err := snapshot.New(store.Observed(objects, metrics.Store), snapshot.Config{})
	if err != nil {
		return nil, errors.Join(err, closeStore(), node.Close())
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &Agent{config: config, log: log, apiTLS: apiTLS, previewTLS: previewTLS, node: node, snapshots: snapshots, closeStore: closeStore, cancel: cancel, instances: make(map[*instance]struct{}), settled: time.Now(), archives: make(chan struct{}, nodeArchives), saves: make(chan struct{}, nodeSaves), stock: newStock(config.RunnerMemory)}
	a.openRestorer(ctx)
	a.tasks.Go(func() { a.sweep(ctx) })
	a.tasks.Go(func() { a.keepFavour(ctx) })
	if config.Metrics.Address != "" {
		a.tasks.Go(func() { metrics.Serve(ctx, config.Metrics, metricsTLS, census{a}, log.Named("metrics")) })
	}
	return a, nil
}

// openTLS reads the certificates for sessions' listeners, and for that of the metrics, where
// there are any. Who reads metrics has a token instead of a certificate.
func openTLS(config *driver.Config, log hclog.Logger) (forAPI, forPreviews, forMetrics *tls.Config, err error) {
	if config.TLS.None() {
		return nil, nil, nil, nil
	}
	certs, err := credentials.Open(config.TLS, func(err error) { log.Warn("goes on with the certificates that it had", "error", err) })
	if err != nil {
		return nil, nil, nil, fmt.Errorf("tls: %w", err)
	}
	visitors := []string{credentials.FrontEnd}
	if config.PreviewAccess == driver.AccessAny {
		visitors = append(visitors, credentials.Proxy)
	}
	return certs.Server(credentials.FrontEnd), certs.Server(visitors...), certs.Server(), nil
}

// checkTimeout bounds the look whether there can be a restorer, which takes some 10 ms.
const checkTimeout = 10 * time.Second

// openRestorer has a restorer run, if there can be one.
func (a *Agent) openRestorer(ctx context.Context) {
	c := restorer.Config{Path: a.config.Restorer, Env: driver.Environ(), StateDir: a.config.StateDir}
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	watchRestorer(&c)
	if err := c.Supported(ctx); err != nil {
		a.log.Info("sessions wake when all of their files are there", "because", err)
		return
	}
	a.restorer = restorer.New(c, a.log.Named("restorer"))
}

// networkOf is the sandboxes' network, with namespaces in store as workspaces.
func networkOf(config *driver.Config) network.Config {
	c := config.Network.Sandboxes()
	c.Ready = readyWorkspaces
	return c
}

// sweep removes what no task owns, once Nomad had time to recover its tasks,
// and tries again what could not be removed before.
func (a *Agent) sweep(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		a.mu.Lock()
		early := time.Since(a.settled) < orphanGrace
		a.mu.Unlock()
		if early {
			continue
		}
		limited, cancel := context.WithTimeoutCause(ctx, orphanGrace, errors.New("the sweep took too long"))
		if err := a.node.Sweep(limited); err != nil && ctx.Err() == nil {
			a.log.Warn("could not remove all that no task owns", "error", err)
		}
		cancel()
	}
}

// lastAnswers is how long requests under way may take when the plugin ends. go-plugin
// kills it 2 s after it was told to.
const lastAnswers = time.Second

// Close stops serving and leaves the sandboxes as they are. A request that is under way,
// and short, is answered: nobody else could say whether it was done.
func (a *Agent) Close() error {
	a.mu.Lock()
	open := make([]*instance, 0, len(a.instances))
	for i := range a.instances {
		open = append(open, i)
	}
	a.mu.Unlock()
	a.answerLast(open)
	a.cancel()
	for _, i := range open {
		i.let(errPluginStops)
		i.box.Close()
	}
	a.tasks.Wait()
	if a.restorer != nil {
		a.restorer.Close()
	}
	return errors.Join(a.node.Close(), a.closeStore())
}

// answerLast takes no more requests, and waits for those under way.
func (a *Agent) answerLast(open []*instance) {
	ctx, cancel := context.WithTimeout(context.Background(), lastAnswers)
	defer cancel()
	var all sync.WaitGroup
	defer all.Wait()
	for _, i := range open {
		i.serving.Lock()
		s := i.session
		i.serving.Unlock()
		if s == nil {
			continue
		}
		for _, srv := range s.servers {
			all.Go(func() { _ = srv.http.Shutdown(ctx) }) // what outlasts it is cut off
		}
	}
}

// errPluginStops ends what serves a sandbox, not the sandbox.
var errPluginStops = errors.New("the driver plugin is stopping")

// undoTimeout bounds the end of a sandbox that came up in vain. Sweep ends what is left.
const undoTimeout = 20 * time.Second

// Start implements driver.Runtime.
func (a *Agent) Start(ctx context.Context, task *driver.Task) (driver.Instance, error) {
	begin := time.Now()
	i, err := a.start(ctx, task)
	metrics.Start(kindOf(task)).Since(begin, err)
	if err != nil {
		return nil, err // and no interface that is not nil
	}
	return i, nil
}

func (a *Agent) start(ctx context.Context, task *driver.Task) (*instance, error) {
	spec, err := specOf(task)
	if err != nil {
		return nil, err
	}
	kind, begin := kindOf(task), time.Now()
	doors, err := openDoors(ctx, task)
	if err != nil {
		return nil, err
	}
	if task.Claim != nil {
		// Front-ends know of it from now on: who comes early waits in the backlog.
		if err := task.Claim(ctx); err != nil {
			doors.close()
			return nil, err
		}
	}
	begin = metrics.Stage(kind, "claim", begin)
	if task.Session != nil {
		spec.Image = a.awaken(task)
	}
	box, err := a.node.Start(ctx, spec)
	if err != nil {
		doors.close()
		return nil, errors.Join(err, a.cameToNothing(ctx, task))
	}
	begin = metrics.Stage(kind, "sandbox", begin)
	i := a.newInstance(task, box)
	if err = i.open(ctx, doors, false); err == nil && task.Session == nil {
		err = i.startMain(ctx)
	}
	if err != nil {
		ending, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), undoTimeout, fmt.Errorf("not undone in %s", undoTimeout))
		defer cancel()
		return nil, errors.Join(err, i.Destroy(ending), a.cameToNothing(ctx, task))
	}
	metrics.Stage(kind, "serve", begin)
	return i, nil
}

// Recover implements driver.Runtime.
func (a *Agent) Recover(ctx context.Context, task *driver.Task, state []byte) (driver.Instance, error) {
	begin := time.Now()
	i, err := a.recover(ctx, task, state)
	metrics.Recovers.Since(begin, err)
	if err != nil {
		return nil, err
	}
	return i, nil
}

func (a *Agent) recover(ctx context.Context, task *driver.Task, state []byte) (*instance, error) {
	st, err := sandbox.UnmarshalState(state)
	if err != nil {
		return nil, err
	}
	box, err := a.node.Recover(ctx, st)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.settled = time.Now()
	a.mu.Unlock()
	i := a.newInstance(task, box)
	select {
	case <-box.Done():
		return i, nil
	default:
	}
	if box.Lacking() {
		i.goOn()
	}
	if err := i.reopen(ctx); err != nil {
		// What it holds is worth more than that nobody reaches it now.
		a.log.Warn("could not serve a sandbox again yet", "task", task.ID, "error", err)
		a.tasks.Go(func() { i.keepReopening() })
	}
	return i, nil
}

// specOf says what sandbox a task wants.
func specOf(task *driver.Task) (sandbox.Spec, error) {
	policy := network.Policy{Mode: network.ModeInternet}
	if p := task.Network; p != nil {
		var err error
		if policy, err = network.ParsePolicy(p.Mode, p.Allow); err != nil {
			return sandbox.Spec{}, fmt.Errorf("network: %w", err)
		}
	}
	spec := sandbox.Spec{
		Task:     task.ID,
		Hostname: "bun",
		Scope:    cgroup.Scope{Path: task.Cgroup, Cpuset: task.CpusetCgroup},
		Limits: cgroup.Limits{
			Memory:    task.Limits.Memory,
			CPUs:      task.Limits.CPUCores,
			CPUShares: task.Limits.CPUShares,
			Pids:      task.Limits.Pids,
		},
		Disk:   task.Limits.Disk,
		Files:  task.Limits.Files,
		Env:    task.Env,
		Policy: policy,
		Netns:  task.Netns,

		Isolation: sandbox.Isolation(task.Isolation),
	}
	if task.Cgroup == "" {
		spec.Scope = cgroup.OwnScope(task.AllocID + "." + task.Name)
	}
	if task.Session != nil {
		spec.Hostname = hostLabel(task.Session.ID)
		spec.Limits.CPUShares = sharesOf(task, true)
		return spec, nil
	}
	spec.Dirs = map[string]string{}
	for target, dir := range map[string]string{"/local": task.LocalDir, "/secrets": task.SecretsDir, "/alloc": task.AllocDir} {
		if dir != "" {
			spec.Dirs[target] = dir
		}
	}
	return spec, nil
}

// newSession makes a session on a sandbox and serves it.
func (a *Agent) newSession(task *driver.Task, box *sandbox.Sandbox) (*Session, error) {
	if len(a.config.NodeSecret) == 0 {
		return nil, errors.New("the plugin's configuration has no node_secret, so no front-end can be told from anybody else; set it as in the front-end's")
	}
	root, err := box.Workspace().Root()
	if err != nil {
		return nil, fmt.Errorf("open workspace: %w", err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &files{root: root, uid: workspaceOwner}
	events := uint64(closedEvents)
	if box.Isolation() == sandbox.IsolationGVisor {
		events = changedEvents
	}
	w, err := watchWrites(root, events)
	if err != nil {
		root.Close()
		cancel(err)
		return nil, err
	}
	s := &Session{
		SessionConfig: SessionConfig{
			ID: task.Session.ID, Epoch: task.Session.Epoch, Alloc: task.AllocID,
			API: task.API, Preview: task.Preview, MemoryLimit: task.Limits.Memory,
		},
		log: a.log.With("session", task.Session.ID), box: box, guest: guestHost{box}, files: f,
		journal: &history{files: f, known: -1, limit: task.Limits.Disk / historyPart}, writes: w, limit: answerLimit,
		ctx: ctx, cancel: cancel,
		executions: make(map[string]*execution),
		archives:   make(chan struct{}, sessionArchives), allArchives: a.archives,
		terminals: make(chan struct{}, sessionTerminals), open: make(map[*terminal]struct{}),
	}
	s.life = newLife(schedule{
		idleAfter: a.config.Life.IdleAfter, sleepAfter: a.config.Life.SleepAfter, expires: task.Session.ExpiresAt,
	}, watched{box.Group()}, notedActivity(box), s.log)
	s.keeper = newKeeper(s, a.snapshots, task.Rests, a.config.Life.CheckpointEvery)
	s.keeper.turns = a.saves
	s.life.note, s.life.leaving, s.life.returning, s.life.evict = s.noteActivity, s.lookAround, s.keeper.retract, s.interrupt
	s.runners = newRunners(s, a.stock, task.Limits)
	s.apps = s.newAppPool()
	s.goDo(w.run)
	if in, ok := box.Units().(sandbox.Inspector); ok && s.MemoryLimit > 0 {
		s.goDo(func() { s.keepMemory(in) })
	}
	s.goDo(s.tidy)
	return s, nil
}

// doors are the listeners of a session.
type doors struct {
	api, preview net.Listener
}

// openDoors listens on a session's addresses; an ordinary job has none.
func openDoors(ctx context.Context, task *driver.Task) (d doors, err error) {
	if task.Session == nil {
		return d, nil
	}
	ctx, cancel := context.WithTimeout(ctx, portPatience)
	defer cancel()
	if d.api, err = listenSoon(ctx, task.API); err == nil {
		d.preview, err = listenSoon(ctx, task.Preview)
	}
	if err != nil {
		d.close()
		return doors{}, fmt.Errorf("listen for the session: %w", err)
	}
	return d, nil
}

// portPatience is how long a port may still be another allocation's: Nomad gives
// the ports of one that is to stop away before it has.
const portPatience = 5 * time.Second

// listenSoon listens on addr, and waits while somebody else does.
func listenSoon(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	for {
		l, err := lc.Listen(ctx, "tcp", addr)
		if !errors.Is(err, syscall.EADDRINUSE) {
			return l, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (d doors) close() {
	for _, l := range []net.Listener{d.api, d.preview} {
		if l != nil {
			l.Close()
		}
	}
}

const (
	// answerLimit is how much of each stream an answer holds (api.md).
	answerLimit = 1 << 20
	// nodeSaves is how many snapshots that nobody waits for a node takes at a time:
	// checkpoints, and those of sessions that go to sleep by themselves. One has some
	// 5 MB of the plugin's memory, and sessions that were made together are due together.
	nodeSaves = 4
	// historyPart of the disk is what the history of executions may take.
	historyPart = 4
	// workspaceOwner owns, on disk, what is the session's.
	workspaceOwner = 1000
)
