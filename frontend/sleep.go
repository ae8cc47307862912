// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package frontend

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/buntime/buntime/driver/claim"
	"github.com/buntime/buntime/frontend/timing"
)

// awayTimeout is how long Sleep looks for a session that does not answer, pause how
// long between two looks.
const (
	awayTimeout = 5 * time.Second
	awayPause   = 100 * time.Millisecond
)

// Sleep brings an account's session to the state idle or deep-sleep, and returns
// once it is there. While somebody uses it that is CodeSessionBusy, unless force.
func (s *Service) Sleep(ctx context.Context, account, id string, state State, force bool) (*Session, error) {
	for begin := s.Now(); ; {
		sess, err := s.own(ctx, account, id)
		if err != nil {
			return nil, err
		}
		if sess.State == StateDeepSleep && state == StateDeepSleep {
			return sess, nil
		}
		if sess, err = s.place(ctx, sess); err != nil {
			return nil, err
		}
		rested, err := s.rest(ctx, sess, state, force)
		if err == nil {
			return rested, nil
		}
		if err := again(ctx, s.Now().Sub(begin), err); err != nil { // to tell it twice does no harm
			return nil, err
		}
	}
}

// again returns nil when it is time to try again what was tried for so long, and
// what a session's node did not answer to last.
func again(ctx context.Context, tried time.Duration, err error) error {
	if !errors.Is(err, ErrAway) {
		return err
	}
	if tried >= awayTimeout {
		return fmt.Errorf("%w; %w", Unsure("the session's node does not answer at the moment; try again"), err)
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(awayPause):
		return nil
	}
}

// rest tells a session's node once to bring it to a state. ErrAway says that the
// session does not answer there; what has become of it is noted then.
func (s *Service) rest(ctx context.Context, sess *Session, state State, force bool) (*Session, error) {
	attended, answered := s.Attend(ctx, sess)
	stop := timing.Start(ctx, "node")
	err := s.Node.Sleep(attended, sess, state, force)
	stop()
	answered()
	switch {
	case err == nil && state == StateDeepSleep:
		s.Forget(sess.ID)
		ctx, cancel := cleanup(ctx) // it sleeps, whoever waits for it
		defer cancel()
		return s.settle(ctx, sess, false)
	case err == nil:
		return sess, nil
	}
	return nil, s.away(ctx, sess, err)
}

// away notes, if err is ErrAway, what has become of a session that does not answer on
// its node: it may sleep already, or live elsewhere. It returns err, or why it could not.
func (s *Service) away(ctx context.Context, sess *Session, err error) error {
	if !errors.Is(err, ErrAway) {
		return err
	}
	s.Forget(sess.ID)
	if merr := s.Moved(ctx, sess); merr != nil {
		return merr
	}
	return err
}

// ResolveAwake is Resolve, but a session in deep sleep is ErrAsleep and stays so.
func (s *Service) ResolveAwake(ctx context.Context, account, id string) (*Session, error) {
	sess, err := s.own(ctx, account, id)
	if err != nil {
		return nil, err
	}
	if sess.State == StateDeepSleep {
		return nil, fmt.Errorf("look for %s: %w", id, ErrAsleep)
	}
	return s.place(ctx, sess)
}

// Moved is to be called when a session does not answer where its record has it. It
// looks what has become of it, and the next Resolve finds it. There is nothing to
// find as long as its node may be back in a moment.
func (s *Service) Moved(ctx context.Context, sess *Session) error {
	defer timing.Start(ctx, "moved")()
	_, err := s.moved(ctx, sess)
	return err
}

// moved is Moved, and says whether the session's epoch is over.
func (s *Service) moved(ctx context.Context, sess *Session) (bool, error) {
	now, err := share(ctx, &s.flights, "settle "+sess.ID, lookupTimeout, func(ctx context.Context) (*Session, error) {
		asleep, err := s.settle(ctx, sess, false)
		if !errors.Is(err, ErrNotFound) {
			return asleep, err
		}
		lost, err := s.lost(ctx, sess)
		if err != nil || !lost {
			return nil, err
		}
		if done, err := s.rescue(ctx, sess); err != nil || !done {
			return nil, err
		}
		return sess, nil
	})
	return now != nil, err
}

// savingTimeout is how long a node may be at stopping a task: the job's kill_timeout,
// and some seconds to come to it.
const savingTimeout = 45 * time.Second

// lost says whether nothing more will come of a session's epoch. Of one whose job is
// gone the scheduler knows nothing; if a node has had it, that node may be saving it,
// and has its time, from when it was first missed here.
func (s *Service) lost(ctx context.Context, sess *Session) (bool, error) {
	lost, err := s.Scheduler.Lost(ctx, sess.ID, sess.Epoch)
	if !errors.Is(err, ErrNotFound) {
		return lost, err
	}
	_, err = s.Store.Claim(ctx, sess.ID, sess.Epoch)
	if errors.Is(err, ErrNotFound) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return s.missing.since(life{sess.ID, sess.Epoch}, s.Now()) >= savingTimeout, nil
}

// missing has the lives whose jobs are gone, and when that was first seen.
type missing struct {
	mu   sync.Mutex
	seen map[life]time.Time
}

// since says for how long a life has been known to be missing.
func (m *missing) since(l life, now time.Time) time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if at, ok := m.seen[l]; ok {
		return now.Sub(at)
	}
	if m.seen == nil {
		m.seen = map[life]time.Time{}
	}
	for l, at := range m.seen { // what became of them is known by now
		if now.Sub(at) > 10*savingTimeout {
			delete(m.seen, l)
		}
	}
	m.seen[l] = now
	return 0
}

// settle notes in the record of a session that its epoch is over, if it is: its
// node has put it to sleep, or, with abandon, is given up. ErrNotFound if the
// session may still be where the record has it.
func (s *Service) settle(ctx context.Context, sess *Session, abandon bool) (*Session, error) {
	if !abandon {
		rest, err := s.Store.Rest(ctx, sess.ID, sess.Epoch)
		if err != nil {
			return nil, err
		}
		if !rest.Over() {
			return nil, fmt.Errorf("look whether %s sleeps: %w", sess.ID, ErrNotFound)
		}
	}
	// Also over a note that the session sleeps: whatever survives of the epoch must
	// not note anything more once there is another.
	rest, err := s.Store.Seal(ctx, sess.ID, sess.Epoch)
	if err != nil {
		return nil, err
	}
	lived, err := s.lived(ctx, sess, rest)
	if err != nil {
		return nil, err
	}
	s.Forget(sess.ID)
	for range conflicts {
		asleep := sess.asleep(rest, lived, s.Now())
		err = s.Store.Update(ctx, asleep)
		if err == nil {
			s.removeJob(ctx, asleep)
			return asleep, nil
		}
		if !errors.Is(err, ErrConflict) {
			break
		}
		fresh, err := s.Store.Get(ctx, sess.ID)
		if err != nil {
			return nil, fmt.Errorf("read record of %s: %w", sess.ID, err)
		}
		if fresh.Epoch != rest.Epoch || fresh.State == StateDeepSleep {
			return fresh, nil // somebody else came first
		}
		sess = fresh
	}
	return nil, fmt.Errorf("note that %s sleeps: %w", sess.ID, err)
}

// lived says whether a node may have had, in an epoch that is over, more than what
// was there before.
func (s *Service) lived(ctx context.Context, sess *Session, rest claim.Rest) (bool, error) {
	switch {
	case rest.Asleep && rest.Snapshot.IsZero(): // it says that it had nothing
		return false, nil
	case !rest.Snapshot.IsZero(), sess.Placed():
		return true, nil
	}
	_, err := s.Store.Claim(ctx, sess.ID, sess.Epoch)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// removeJob removes, in the background, the job of an epoch that is over.
func (s *Service) removeJob(ctx context.Context, asleep *Session) {
	s.later(ctx, func(ctx context.Context) {
		if err := s.Scheduler.Stop(ctx, asleep.ID, asleep.Epoch); err != nil {
			s.Log.WarnContext(ctx, "remove job of sleeping session; the reaper will try again", "session", asleep.ID, "err", err)
		}
	})
}

// asleep is a copy of the record of a session whose epoch is over. In one that never
// lived nothing was lost, and what was known before it is still true.
func (s *Session) asleep(rest claim.Rest, lived bool, now time.Time) *Session {
	n := *s
	n.State, n.Since, n.Claim = StateDeepSleep, now, claim.Claim{}
	if rest.LastActive.After(n.LastActive) {
		n.LastActive = rest.LastActive.Truncate(time.Second)
	}
	if !rest.Snapshot.IsZero() {
		n.Files, n.Checkpoint = rest.Files, rest.Snapshot.Taken.UTC().Truncate(time.Second)
	}
	if n.Failures++; !rest.Snapshot.IsZero() {
		n.Failures = 0
	}
	if lived {
		// A node that was given up may have had more than it had stored.
		n.Lost = !rest.Asleep
	}
	return &n
}

// wakeTimeout is how long a wake may take: a placement, and the restoring of some
// gigabytes at worst.
const wakeTimeout = 60 * time.Second

// LastSnapshot is the epoch of the last snapshot that was noted in the epochs before
// one; 0 if there was none.
func LastSnapshot(rests []claim.Rest, before uint64) (epoch uint64) {
	for _, rest := range rests {
		if rest.Epoch < before && !rest.Snapshot.IsZero() {
			epoch = max(epoch, rest.Epoch)
		}
	}
	return epoch
}

// prune removes, in the background, what a session's lives have left behind that
// came before the one it has woken from.
func (s *Service) prune(ctx context.Context, sess *Session) {
	if sess.Epoch <= firstEpoch+1 {
		return
	}
	s.later(ctx, func(ctx context.Context) {
		if err := s.Store.Prune(ctx, sess.ID, sess.Epoch-1); err != nil {
			s.Log.WarnContext(ctx, "remove what is left of earlier lives; the next wake will", "session", sess.ID, "err", err)
		}
	})
}

// lookEvery is how often who waits for a claim looks whether there will be one.
const lookEvery = time.Second

// wake returns a session once a node has claimed it, and begins its next life if it
// sleeps. Of all who ask for that, here and at other front-ends, one does it.
func (s *Service) wake(ctx context.Context, id string) (*Session, error) {
	defer timing.Start(ctx, "wake")()
	return share(ctx, &s.flights, "wake "+id, wakeTimeout, func(ctx context.Context) (*Session, error) {
		begin := s.Now()
		for {
			sess, err := s.Store.Get(ctx, id)
			if errors.Is(err, ErrNotFound) {
				return nil, NoSession(id)
			}
			if err != nil {
				return nil, fmt.Errorf("read record of %s: %w", id, err)
			}
			switch {
			case sess.Expired(s.Now()):
				return nil, NoSession(id)
			case sess.Placed():
				return sess, nil
			case sess.State == StateDeepSleep:
				if err := s.pace(ctx, sess); err != nil {
					return nil, err
				}
				n := sess.next(s.Now())
				err := s.Store.Update(ctx, n)
				s.Forget(id)
				if err == nil {
					return s.startAgain(ctx, n)
				}
				if !errors.Is(err, ErrConflict) {
					return nil, fmt.Errorf("note that %s wakes: %w", id, err)
				}
			default:
				if s.Now().Sub(begin) >= claimTimeout {
					return nil, s.notStarted(ctx, sess)
				}
				placed, err := s.awaitOther(ctx, sess)
				if placed != nil || err != nil {
					return placed, err
				}
			}
		}
	})
}

const (
	// firstWait and lastWait are how long after a life of which nothing came the next
	// may begin: with the object store down each would cost a placement for nothing.
	firstWait = time.Second
	lastWait  = 30 * time.Second
)

// wait is how long the session has to sleep after it came to sleep last.
func (s *Session) wait() time.Duration {
	if s.Failures == 0 {
		return 0
	}
	return min(firstWait<<min(s.Failures-1, 10), lastWait)
}

// pace holds up a wake for as long as it is too early after one that has failed; if
// that is long, it says so.
func (s *Service) pace(ctx context.Context, sess *Session) error {
	wait := min(sess.Since.Add(sess.wait()).Sub(s.Now()), lastWait) // the clock may be another's
	switch {
	case wait <= 0:
		return nil
	case wait > firstWait:
		e := Unavailable("the session could not be woken a moment ago; try again in %.0f s", math.Ceil(wait.Seconds()))
		e.RetryAfter = wait
		return e
	}
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(wait):
		return nil
	}
}

// awaitOther waits for the claim of a session that another front-end, or another
// request, has begun to start. It returns nothing when it is time to look at the
// record again: that front-end may have undone it, or died half-way.
func (s *Service) awaitOther(ctx context.Context, sess *Session) (*Session, error) {
	limited, cancel := context.WithTimeout(ctx, lookEvery)
	defer cancel()
	placed, err := s.awaitClaim(limited, sess, 0)
	if err == nil || limited.Err() == nil || ctx.Err() != nil {
		return placed, err
	}
	if s.Now().Sub(sess.Since) < claimTimeout {
		return nil, nil
	}
	lost, err := s.lost(ctx, sess)
	if err != nil || !lost {
		return nil, err
	}
	if done, err := s.rescue(ctx, sess); err != nil || done {
		return nil, err
	}
	return nil, s.notStarted(ctx, sess) // there is nothing to start it from
}

// next is the record of a session's next life.
func (s *Session) next(now time.Time) *Session {
	n := *s
	n.Epoch++
	n.State, n.Since, n.Claim, n.LastActive = StateStarting, now, claim.Claim{}, now.UTC().Truncate(time.Second)
	return &n
}

// startAgain runs the job of a session's next life.
func (s *Service) startAgain(ctx context.Context, sess *Session) (*Session, error) {
	begin := s.Now()
	placed, err := s.startJob(ctx, sess)
	s.Observer.Woke(s.Now().Sub(begin), outcome(ctx, err))
	if err == nil {
		s.prune(ctx, sess)
		return placed, nil
	}
	// It sleeps as before, and the next request tries again.
	undo, cancel := cleanup(ctx)
	defer cancel()
	if serr := s.unwake(undo, sess); serr != nil {
		s.Log.WarnContext(ctx, "undo wake; the next request or the reaper will", "session", sess.ID, "err", serr)
	}
	return nil, err
}

// unwake undoes a wake that no node has answered.
func (s *Service) unwake(ctx context.Context, sess *Session) error {
	if _, err := s.Store.Claim(ctx, sess.ID, sess.Epoch); !errors.Is(err, ErrNotFound) {
		return err // one has, at the last moment
	}
	_, err := s.settle(ctx, sess, true)
	return err
}

// startJob runs the session's job, and waits until a node has claimed the session.
func (s *Service) startJob(ctx context.Context, sess *Session) (*Session, error) {
	limited, cancel := context.WithTimeoutCause(ctx, claimTimeout, fmt.Errorf("session %s has not started in %v", sess.ID, claimTimeout))
	defer cancel()
	// It may be there already: Nomad had taken it, and the answer was lost.
	if err := s.Scheduler.Start(limited, sess); err != nil && !errors.Is(err, ErrExists) {
		return nil, fmt.Errorf("start job of %s: %w", sess.ID, err)
	}
	placed, err := s.awaitPlace(limited, sess, 0)
	if err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return nil, s.notStarted(ctx, sess)
	}
	return placed, err
}
