// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/buntime/buntime/frontend/timing"
)

const (
	// lookupTimeout bounds one reading of a record, which measures 0.4 ms.
	lookupTimeout = 5 * time.Second
	// claimTimeout is how long a node may take to claim a session that is
	// starting; the API's deadline for session operations is 10 s.
	claimTimeout = 9 * time.Second
	// infoTimeout is how long a node may take to tell about a session.
	infoTimeout = time.Second
	// NodeWait is how long a request waits for a node agent that is not there: an upgrade of
	// the plugin took up to 4.6 s on two busy cores, and the API's deadline is 10 s.
	NodeWait = 8 * time.Second
	// cleanupTimeout bounds what must be done after the caller is gone.
	cleanupTimeout = 10 * time.Second
)

// Service creates, finds and ends sessions. All methods may be called from any
// goroutine; any number of Services may work on one Store.
type Service struct {
	Store     Store
	Scheduler Scheduler
	Node      Node
	// Objects has the sessions' snapshots; nil where the store's own expiry is to do.
	Objects Objects
	Log     *slog.Logger
	// Observer is told what becomes of sessions. Default: nobody.
	Observer Observer
	// ReapInterval is how often Run looks for what has no owner any more.
	ReapInterval time.Duration
	// Grace is how long a session may be starting, and a record be ahead of
	// its job, before Reap takes it for left behind.
	Grace time.Duration
	// Pool says how many slots are kept ready.
	Pool PoolSettings
	// Now is the clock.
	Now func() time.Time

	pool      *pool
	line      *line
	arrivals  *arrivals
	counts    counts
	batch     batch
	taking    taking
	cache     cache
	census    census
	places    places
	missing   missing
	nodesSeen nodesSeen
	flights   singleflight.Group
	reaping   sync.Mutex // which pass is of
	pass      *pass
	// Writes that no answer waits for.
	background sync.WaitGroup
}

// NewService makes a Service with the usual settings.
func NewService(store Store, scheduler Scheduler, node Node, log *slog.Logger) *Service {
	s := &Service{
		Store: store, Scheduler: scheduler, Node: node, Log: log, Observer: nobody{},
		ReapInterval: 10 * time.Second,
		Grace:        time.Minute,
		Now:          time.Now,
		pool:         newPool(),
		arrivals:     newArrivals(),
		pass:         newPass(),
	}
	s.line = newLine(DefaultStarts, func(shape Shape) *Slot {
		return s.pool.pick(shape, s.Scheduler.JobVersion(), s.Now())
	})
	return s
}

// DefaultStarts is how many jobs of new sessions a front-end starts at a time.
const DefaultStarts = 16

// SetReapMost changes how many sessions a round of the reaper reads, about. It is to
// be called before the first.
func (s *Service) SetReapMost(n int) { s.pass.most = n }

// SetStarts changes that. It is to be called before any create.
func (s *Service) SetStarts(n int) { s.line.free = n }

// Close waits for writes that are under way, each at most cleanupTimeout.
func (s *Service) Close() { s.background.Wait() }

// Get returns an account's session and what its node says about it. When the
// node does not answer in time, the record's last known values stand in.
// It is no activity and wakes nothing.
func (s *Service) Get(ctx context.Context, account, id string) (*Session, Info, error) {
	sess, err := s.own(ctx, account, id)
	if err != nil {
		return nil, Info{}, err
	}
	known := Info{State: sess.State.Public(), LastActive: sess.LastActive, NextTransition: &Transition{To: "expired", At: sess.Expires}}
	known.Durability = sess.durability(nil)
	if sess.State == StateDeepSleep {
		known.FilesCount = sess.Files
	}
	if !sess.Placed() {
		return sess, known, nil
	}
	defer timing.Start(ctx, "info")()
	ctx, cancel := context.WithTimeoutCause(ctx, infoTimeout, fmt.Errorf("node has not told about %s in %v", id, infoTimeout))
	defer cancel()
	info, err := s.Node.Info(ctx, sess)
	if err != nil {
		s.Forget(id)
		if asleep, serr := s.settle(context.WithoutCancel(ctx), sess, false); serr == nil && asleep.State == StateDeepSleep {
			return s.Get(context.WithoutCancel(ctx), account, id)
		}
		s.Log.WarnContext(ctx, "ask node about session", "session", id, "err", err)
		return sess, known, nil
	}
	info.State, info.Durability = info.State.Public(), sess.durability(info.Durability)
	if info.LastActive.Before(sess.LastActive) {
		info.LastActive = sess.LastActive
	}
	return sess, info, nil
}

// Resolve returns an account's session with the place where it answers. A
// session that is starting is waited for.
func (s *Service) Resolve(ctx context.Context, account, id string) (*Session, error) {
	sess, err := s.own(ctx, account, id)
	if err != nil {
		return nil, err
	}
	return s.place(ctx, sess)
}

// Owns says with NoSession that an account has no such session.
func (s *Service) Owns(ctx context.Context, account, id string) error {
	_, err := s.own(ctx, account, id)
	return err
}

// ResolvePreview is Resolve for previews, which belong to whoever knows the id.
func (s *Service) ResolvePreview(ctx context.Context, id string) (*Session, error) {
	sess, err := s.lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	return s.place(ctx, sess)
}

// Forget makes the next call read the session's record again.
func (s *Service) Forget(id string) {
	s.cache.drop(id, s.Now())
	s.flights.Forget("read " + id)
}

// own is lookup for a session of the account. Another's does not exist for it.
func (s *Service) own(ctx context.Context, account, id string) (*Session, error) {
	sess, err := s.lookup(ctx, id)
	if err != nil {
		return nil, err
	}
	if sess.Account != account {
		return nil, NoSession(id)
	}
	return sess, nil
}

// lookup returns an unexpired session. Concurrent calls share one reading.
func (s *Service) lookup(ctx context.Context, id string) (*Session, error) {
	if !ValidID(id) {
		return nil, NoSession(id)
	}
	sess := s.cache.get(id, s.Now())
	if sess == nil {
		var err error
		if sess, err = s.read(ctx, id); err != nil {
			return nil, err
		}
	}
	if sess.Expired(s.Now()) {
		return nil, NoSession(id)
	}
	return sess, nil
}

func (s *Service) read(ctx context.Context, id string) (*Session, error) {
	defer timing.Start(ctx, "kv")()
	return s.readUntimed(ctx, id)
}

func (s *Service) readUntimed(ctx context.Context, id string) (*Session, error) {
	sess, err := share(ctx, &s.flights, "read "+id, lookupTimeout, func(ctx context.Context) (*Session, error) {
		asked := s.Now()
		sess, err := s.Store.Get(ctx, id)
		// What is starting is something else in a moment, and no node is known that
		// could tell.
		if err == nil && sess.State != StateStarting {
			s.cache.put(sess, asked, s.Now())
		}
		return sess, err
	})
	if errors.Is(err, ErrNotFound) {
		return nil, NoSession(id)
	}
	if err != nil {
		return nil, fmt.Errorf("read record of %s: %w", id, err)
	}
	return sess, nil
}

// place waits until it is known where a session answers.
func (s *Service) place(ctx context.Context, sess *Session) (*Session, error) {
	if sess.Placed() {
		return sess, nil
	}
	return s.wake(ctx, sess.ID)
}

// awaitClaim waits for the claim of a session that is starting, and notes it.
// The caller need not wait for the note: whoever misses it finds the claim.
func (s *Service) awaitClaim(ctx context.Context, sess *Session, since uint64) (*Session, error) {
	asked := s.Now()
	c, err := s.Store.WaitClaim(ctx, sess.ID, sess.Epoch, since)
	if err != nil {
		return nil, fmt.Errorf("wait for a node to claim %s: %w", sess.ID, err)
	}
	placed := sess.placed(c, s.Now())
	s.cache.put(placed, asked, s.Now())
	s.later(ctx, func(ctx context.Context) {
		n := *placed // its Version changes, and others hold placed by now
		if err := s.Store.Update(ctx, &n); err != nil && !errors.Is(err, ErrConflict) {
			s.Log.WarnContext(ctx, "note claim in record", "session", sess.ID, "err", err)
		}
	})
	return placed, nil
}

// later does what no answer waits for, with a time limit of its own.
func (s *Service) later(ctx context.Context, do func(context.Context)) {
	s.background.Go(func() {
		ctx, cancel := cleanup(ctx)
		defer cancel()
		do(ctx)
	})
}

// cleanup is a context for what must be done although the caller's is over.
func cleanup(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(context.WithoutCancel(ctx), cleanupTimeout, fmt.Errorf("clean-up not done in %v", cleanupTimeout))
}

// share does something once for all who ask for it at the same time. It goes
// on, at most for d, when one of them gives up.
func share[T any](ctx context.Context, g *singleflight.Group, name string, d time.Duration, do func(context.Context) (T, error)) (T, error) {
	ch := g.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), d, fmt.Errorf("%s: not done in %v", name, d))
		defer cancel()
		return do(ctx)
	})
	var none T
	select {
	case r := <-ch:
		if r.Err != nil {
			return none, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}
