// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package consul

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend"
)

const (
	// service is the name in Consul's catalog under which each front-end has a TTL
	// check. It is no address to call: it has no port.
	service = "buntime-election"
	// lease is how long a front-end leads without a word from Consul, and how long
	// the agent waits for a word of the front-end. A session's own TTL would be 10 s
	// at least, and counts up to double.
	lease = 3 * time.Second
	// beatEvery leaves room for three beats that get lost.
	beatEvery = 750 * time.Millisecond
	// deregisterAfter is the least that Consul takes. Its agent looks every 30 s.
	deregisterAfter = time.Minute
	// lockDelay is what Consul adds to a lock's loss, 15 s by default, to be sure that
	// a leader has noticed. All that ours do bears two of them.
	lockDelay = time.Millisecond
	// delayPause is between two tries during a lockDelay, whose end is no event.
	delayPause = 10 * time.Millisecond
	// registerTimeout bounds a call of about 1 ms.
	registerTimeout = 10 * time.Second
	// openTimeout is how long the agent may take to tell the servers of a check: some
	// milliseconds, but when the last time has failed, as while Consul starts, it is
	// tried again after 15 to 30 s. To begin anew earlier would hold it up again.
	openTimeout = 45 * time.Second
	// withdrawTimeout bounds the end of a candidacy. What is not done by then expires.
	withdrawTimeout = 3 * time.Second
	// firstPause and lastPause are between two candidacies while Consul is away.
	firstPause = 500 * time.Millisecond
	lastPause  = 5 * time.Second
)

// Election implements frontend.Election by a lock in KV. Its Consul session hangs on
// a TTL check at the agent: the beats stay at the agent, and only the end of them is
// written. So all beats of a front-end have to go to the same agent.
type Election struct {
	key       string
	client    *api.Client
	transport *http.Transport
	log       *slog.Logger
}

var _ frontend.Election = (*Election)(nil)

// NewElection makes an Election among the front-ends with the same prefix. It does
// not connect yet.
func NewElection(c Config, log *slog.Logger) (*Election, error) {
	if c.Prefix == "" {
		c.Prefix = claim.DefaultPrefix
	}
	t := transport(electionConnections)
	client, err := newClient(c, t)
	if err != nil {
		return nil, err
	}
	return &Election{key: strings.Trim(c.Prefix, "/") + "/leader", client: client, transport: t, log: log}, nil
}

// Close closes idle connections.
func (e *Election) Close() { e.transport.CloseIdleConnections() }

// Lead implements frontend.Election.
func (e *Election) Lead(ctx context.Context, do func(context.Context)) {
	pause := firstPause
	for {
		begin := time.Now()
		err := e.stand(ctx, do)
		if ctx.Err() != nil {
			return
		}
		if time.Since(begin) > lastPause { // it was not for nothing
			pause = firstPause
		}
		e.log.Warn("stand for leader; trying again", "in", pause, "err", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

// candidate is a front-end that stands for leader, until it has led or can stand no
// more. Each has names of its own, so that what one has left cannot keep the next.
type candidate struct {
	*Election
	id      string // of its service and of its check
	session string
	leads   atomic.Bool
}

// stand waits for the lock, runs do while it is held, and says why that ended.
func (e *Election) stand(ctx context.Context, do func(context.Context)) error {
	c := &candidate{Election: e, id: service + "-" + strings.ToLower(rand.Text())}
	defer c.withdraw(ctx)
	ctx, cancel := context.WithCancelCause(ctx)
	var beats sync.WaitGroup
	defer beats.Wait()
	defer cancel(nil)

	begin := time.Now()
	if err := c.register(ctx); err != nil {
		return err
	}
	beats.Go(func() { cancel(c.beat(ctx, begin)) })
	if err := c.open(ctx); err != nil {
		return cause(ctx, err)
	}
	if err := c.acquire(ctx); err != nil {
		return cause(ctx, err)
	}
	e.log.Info("this front-end leads")
	do(ctx)
	cancel(errors.New("what the leader does has ended"))
	err := context.Cause(ctx)
	e.log.Info("this front-end leads no more", "why", err)
	return err
}

// cause is why a context ended, if it has, and otherwise err.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// register adds the check to the agent.
func (c *candidate) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, registerTimeout, fmt.Errorf("no answer in %v", registerTimeout))
	defer cancel()
	err := c.client.Agent().ServiceRegisterOpts(&api.AgentServiceRegistration{
		ID: c.id, Name: service,
		Check: &api.AgentServiceCheck{
			CheckID: c.id, Name: "front-end is alive", Status: api.HealthPassing,
			TTL: lease.String(), DeregisterCriticalServiceAfter: deregisterAfter.String(),
		},
	}, api.ServiceRegisterOpts{}.WithContext(ctx))
	if err != nil {
		return unavailable(cause(ctx, err), "register check %s", c.id)
	}
	return nil
}

// open makes the session, once the servers know the check.
func (c *candidate) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, openTimeout, fmt.Errorf("not known to Consul's servers in %v", openTimeout))
	defer cancel()
	q := (&api.QueryOptions{Filter: fmt.Sprintf("CheckID == %q", c.id), WaitTime: openTimeout}).WithContext(ctx)
	for {
		checks, meta, err := c.client.Health().Checks(service, q)
		if err != nil {
			return unavailable(cause(ctx, err), "wait for check %s", c.id)
		}
		if len(checks) > 0 {
			break
		}
		q.WaitIndex = max(meta.LastIndex, 1) // 0 would not block
	}
	var err error
	c.session, _, err = c.client.Session().Create(&api.SessionEntry{
		Name: service, Behavior: api.SessionBehaviorDelete, LockDelay: lockDelay,
		NodeChecks: []string{"serfHealth"}, ServiceChecks: []api.ServiceCheck{{ID: c.id}},
	}, new(api.WriteOptions).WithContext(ctx))
	if err != nil {
		return unavailable(cause(ctx, err), "make session of %s", c.id)
	}
	return nil
}

// acquire waits for the lock. api.Lock would do the same, but waits 5 s for the end
// of any lock delay and knows no context.
func (c *candidate) acquire(ctx context.Context) error {
	for {
		held, _, err := c.client.KV().Acquire(&api.KVPair{Key: c.key, Value: who(), Session: c.session}, new(api.WriteOptions).WithContext(ctx))
		if err != nil {
			return unavailable(err, "acquire %s", c.key)
		}
		if held {
			c.leads.Store(true)
			return nil
		}
		if err := c.awaitFree(ctx); err != nil {
			return err
		}
	}
}

// awaitFree waits until nobody holds the lock, or that has just been so.
func (c *candidate) awaitFree(ctx context.Context) error {
	for index := uint64(0); ; {
		q := (&api.QueryOptions{WaitIndex: index, WaitTime: pollLimit}).WithContext(ctx)
		pair, meta, err := c.client.KV().Get(c.key, q)
		switch {
		case err != nil:
			return unavailable(err, "wait for %s", c.key)
		case pair != nil && pair.Session != "":
			index = max(meta.LastIndex, 1)
			continue
		case index > 0:
			return nil
		}
		select { // free, and not to be had: the lock delay
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(delayPause):
			return nil
		}
	}
}

// who is what the lock says of its holder, for people.
func who() []byte {
	host, err := os.Hostname()
	if err != nil {
		host = "a host without a name"
	}
	return fmt.Appendf(nil, "process %d on %s", os.Getpid(), host)
}

// beat keeps the check passing, and the leader sure that it leads. It returns when
// that has not worked for a lease; last is when it last did.
func (c *candidate) beat(ctx context.Context, last time.Time) error {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		begin := time.Now()
		if begin.Sub(last) >= lease { // this process was stopped for a while
			return fmt.Errorf("beat %s: nothing done for %v", c.id, begin.Sub(last))
		}
		err := c.once(ctx, last.Add(lease))
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil:
			last = begin
		case errors.Is(err, errLost), time.Since(last)+beatEvery >= lease: // or else the next would come too late
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// errLost says that Consul does not have any more what a candidate needs.
var errLost = errors.New("lost")

// once is one beat.
func (c *candidate) once(ctx context.Context, deadline time.Time) error {
	ctx, cancel := context.WithDeadlineCause(ctx, deadline, fmt.Errorf("no answer in %v", lease))
	defer cancel()
	q := new(api.QueryOptions).WithContext(ctx)
	// The same words each time: the agent tells the servers of nothing new.
	err := c.client.Agent().UpdateTTLOpts(c.id, "", api.HealthPassing, q)
	if status, ok := errors.AsType[api.StatusError](err); ok && status.Code == http.StatusNotFound {
		return fmt.Errorf("beat %s: check %w: %w", c.id, errLost, err)
	}
	if err != nil {
		return unavailable(cause(ctx, err), "beat %s", c.id)
	}
	if !c.leads.Load() {
		return nil
	}
	pair, _, err := c.client.KV().Get(c.key, q)
	if err != nil {
		return unavailable(cause(ctx, err), "look at %s", c.key)
	}
	if pair == nil || pair.Session != c.session {
		return fmt.Errorf("look at %s: lock %w", c.key, errLost)
	}
	return nil
}

// withdraw lets go of the lock and leaves nothing in Consul. The session goes first,
// and with it the lock: somebody may be waiting.
func (c *candidate) withdraw(ctx context.Context) {
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), withdrawTimeout, fmt.Errorf("no answer in %v", withdrawTimeout))
	defer cancel()
	var err error
	if c.session != "" {
		if _, derr := c.client.Session().Destroy(c.session, new(api.WriteOptions).WithContext(ctx)); derr != nil {
			err = fmt.Errorf("destroy session: %w", derr)
		}
	}
	derr := c.client.Agent().ServiceDeregisterOpts(c.id, new(api.QueryOptions).WithContext(ctx))
	if status, ok := errors.AsType[api.StatusError](derr); derr != nil && (!ok || status.Code != http.StatusNotFound) {
		err = errors.Join(err, fmt.Errorf("deregister check: %w", derr))
	}
	if err != nil {
		c.log.Warn("withdraw from election; the rest expires by itself", "candidate", c.id, "err", err)
	}
}
