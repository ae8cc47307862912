// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
)

// The states of a session on its node.
const (
	lifeActive   = "active"
	lifeIdle     = "idle"     // its processes stand still
	lifeSleeping = "sleeping" // the same, and its workspace goes to the store
	lifeAsleep   = "deep-sleep"
	lifeGone     = "expired"
)

var (
	// errBusy is the answer to who wants a session to rest that somebody uses.
	errBusy = errors.New("the session is in use")
	// errAsleep is the answer to who comes when the session has left the node.
	errAsleep = errors.New("the session is asleep")
	// errAwaited ends a sleep that somebody came in the middle of.
	errAwaited = errors.New("somebody came")
)

// Transition is a change of state that comes by itself, if nothing happens before.
type Transition struct {
	To string `json:"to"`
	At string `json:"at"`
}

// schedule says when a session changes its state by itself. It is all there is to
// the timing, and has no clock.
type schedule struct {
	idleAfter  time.Duration // without activity; 0 is never
	sleepAfter time.Duration // the same
	expires    time.Time     // zero: never
}

// next is the next transition of a session in state that was active last at last,
// and is now if busy. The zero time says that none will come.
func (c schedule) next(state string, last time.Time, busy bool) (to string, at time.Time) {
	switch {
	case state == lifeActive && !busy && c.idleAfter > 0:
		to, at = lifeIdle, last.Add(c.idleAfter)
	case state == lifeIdle && c.sleepAfter > 0 && c.idleAfter > 0:
		to, at = lifeAsleep, last.Add(c.sleepAfter)
	}
	if !c.expires.IsZero() && (at.IsZero() || c.expires.Before(at)) {
		to, at = lifeGone, c.expires
	}
	return to, at
}

// freezer stops the processes of a session, and lets them go on.
type freezer interface {
	Freeze(ctx context.Context) error
	Thaw() error
}

// freezeTimeout bounds a freeze: 0.2 ms as a rule, longer where processes are deep
// in the kernel.
const freezeTimeout = 5 * time.Second

// life is what keeps a session awake and puts it to rest: it counts who is using
// it, stops its processes when nobody has for long enough, and has them going again
// before anybody who comes gets further.
type life struct {
	schedule
	freezer freezer
	log     hclog.Logger
	now     func() time.Time
	// after is time.AfterFunc; a test's clock has its own.
	after func(time.Duration, func()) stopper
	// note is told when the session was active last, once it is idle.
	note func(last time.Time)
	// sleepy is called when it has been idle for long enough to sleep. It calls
	// rest, and is called again some time after that has failed.
	sleepy func()
	// leaving is called before processes are stopped, and returning before they go
	// on: an error of it keeps them where they are.
	leaving   func()
	returning func() error
	// evict ends what users wait for, before a sleep by force.
	evict func()

	// transition is held while processes are stopped or let go, so that who comes
	// in the middle waits for the end of it.
	transition sync.Mutex

	mu     sync.Mutex // of what follows; never held for long
	state  string
	last   time.Time // of activity
	busy   map[string]int
	holds  int // what must not be stopped but is no activity
	inside int // users that are past wake
	left   *sync.Cond
	// evicting: the session is put to sleep by force, and its processes run until
	// those inside have left.
	evicting bool
	timer    stopper
	due      time.Time // when it is considered next
	closed   bool
	over     bool                    // it has left for good
	fails    int                     // sleeps that have failed in a row
	abort    context.CancelCauseFunc // of a sleep that who comes may end
}

// stopper is a timer that can be stopped.
type stopper interface{ Stop() bool }

func newLife(c schedule, f freezer, last time.Time, log hclog.Logger) *life {
	l := &life{
		schedule: c, freezer: f, log: log, now: time.Now, state: lifeActive, last: last, busy: make(map[string]int),
		after: func(d time.Duration, f func()) stopper { return time.AfterFunc(d, f) },
		note:  func(time.Time) {}, sleepy: func() {}, leaving: func() {}, returning: func() error { return nil }, evict: func() {},
	}
	l.left = sync.NewCond(&l.mu)
	return l
}

// begin starts the clock.
func (l *life) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arm(l.last.Add(l.idleAfter).Sub(l.now()))
}

// begins has the session active since now, and end at expires.
func (l *life) begins(expires time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last, l.expires = l.now(), expires
}

// arm has the session considered after d. Called with mu held.
func (l *life) arm(d time.Duration) {
	if l.timer != nil {
		l.timer.Stop()
	}
	if !l.closed && l.idleAfter > 0 {
		l.due = l.now().Add(max(d, 0))
		l.timer = l.after(max(d, 0), l.consider)
	}
}

// consider brings the session to the rest that it is due.
func (l *life) consider() {
	l.transition.Lock()
	defer l.transition.Unlock()
	last, idle := l.settle()
	if idle && l.freeze() == nil {
		l.note(last)
	}
}

// freeze stops the processes of a session whose state is idle already: who comes
// waits for the transition, which the caller holds.
func (l *life) freeze() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), freezeTimeout, errors.New("the processes did not stand still in time"))
	defer cancel()
	l.leaving()
	err := l.freezer.Freeze(ctx)
	if err != nil {
		l.log.Warn("could not make the session idle; trying again later", "error", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.state == lifeAsleep: // it has left meanwhile
		return errAsleep
	case err != nil:
		l.state = lifeActive
		l.arm(l.idleAfter)
		return err
	}
	if l.sleepAfter > 0 {
		l.arm(l.last.Add(l.sleepAfter).Sub(l.now()))
	}
	return nil
}

// settle makes the state idle if it has to be, and sees to it that an idle
// session sleeps.
func (l *life) settle() (last time.Time, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	unused := l.now().Sub(l.last)
	switch {
	case l.closed:
	case l.state == lifeIdle && l.sleepAfter > 0:
		if unused < l.sleepAfter {
			l.arm(l.sleepAfter - unused)
			break
		}
		l.arm(backoff(l.fails)) // unless it sleeps then
		go l.sleepy()
	case l.state != lifeActive:
	case len(l.busy) > 0 || l.holds > 0:
		l.arm(l.idleAfter) // whose end is activity
	case unused < l.idleAfter:
		l.arm(l.idleAfter - unused)
	default:
		l.state = lifeIdle
		return l.last, true
	}
	return l.last, false
}

// backoff is the pause after so many failures to sleep in a row: the store may be
// away for hours, and the session is safe where it is.
func backoff(fails int) time.Duration { return min(10*time.Second<<min(fails, 10), 5*time.Minute) }

// slept says whether the session has left the node to sleep, not for good.
func (l *life) slept() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == lifeAsleep && !l.over
}

// gone says whether the session has left the node: what is done to its files here
// does not count any more.
func (l *life) gone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state == lifeAsleep
}

// idleNow makes the session idle at once, unless it is in use.
func (l *life) idleNow() error {
	l.awaitUnused()
	l.transition.Lock()
	defer l.transition.Unlock()
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		return errAsleep
	case l.state == lifeIdle:
		l.mu.Unlock()
		return nil
	case len(l.busy) > 0:
		l.mu.Unlock()
		return errBusy
	}
	l.state = lifeIdle
	last := l.last
	l.mu.Unlock()
	if err := l.freeze(); err != nil {
		return err
	}
	l.note(last)
	return nil
}

// resting says whether the session is on its way to rest, or there. Who is inside
// learns by it that it was put to sleep by force.
func (l *life) resting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state != lifeActive
}

// restedSince is when the session was active last, if it is idle: the processes of
// one that says the same again have stood still meanwhile. Zero is not idle.
func (l *life) restedSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != lifeIdle {
		return time.Time{}
	}
	return l.last
}

// use marks the session as used for a reason until leave is called, and returns
// once its processes run.
func (l *life) use(why string) (leave func(), err error) { return l.enter(why, false) }

// useMore is use by who uses the session already. It does not wait for the end of
// a sleep by force, which waits for who is inside to leave.
func (l *life) useMore(why string) (leave func(), err error) { return l.enter(why, true) }

func (l *life) enter(why string, inside bool) (leave func(), err error) {
	l.mu.Lock()
	l.busy[why]++
	l.last = l.now()
	l.mu.Unlock()
	entered := false
	leave = sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.busy[why]--; l.busy[why] == 0 {
			delete(l.busy, why)
		}
		l.last = l.now()
		if entered {
			l.inside--
		}
		l.left.Broadcast()
	})
	if err := l.wake(inside); err != nil {
		leave()
		return nil, err
	}
	l.mu.Lock()
	entered = l.state == lifeActive || inside && l.evicting // or it was put to sleep by force since wake
	if entered {
		l.inside++
	}
	l.mu.Unlock()
	if !entered {
		leave()
		return nil, errAsleep
	}
	return leave, nil
}

// touch is useMore for a moment.
func (l *life) touch() error {
	l.mu.Lock()
	l.last = l.now()
	l.mu.Unlock()
	return l.wake(true)
}

// hold keeps the processes running without being activity. It does not wake them.
func (l *life) hold() (release func()) {
	l.mu.Lock()
	l.holds++
	l.mu.Unlock()
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.holds--
	})
}

// wake lets the processes go on if they stand still, for who comes or is inside.
func (l *life) wake(inside bool) error {
	l.mu.Lock()
	running := l.state == lifeActive || inside && l.evicting
	if l.abort != nil {
		l.abort(errAwaited)
	}
	l.mu.Unlock()
	if running {
		return nil
	}
	l.transition.Lock()
	defer l.transition.Unlock()
	l.mu.Lock()
	state := l.state
	l.mu.Unlock()
	switch state {
	case lifeActive:
		return nil
	case lifeAsleep:
		return errAsleep
	}
	if err := l.returning(); err != nil {
		return fmt.Errorf("wake the session: %w", err)
	}
	if err := l.freezer.Thaw(); err != nil {
		return fmt.Errorf("wake the session: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state == lifeAsleep { // it has left meanwhile
		return errAsleep
	}
	l.state, l.fails = lifeActive, 0
	l.arm(l.idleAfter)
	return nil
}

// look tells the state without touching it.
func (l *life) look() (state string, last time.Time, reasons []string, next *Transition) {
	l.mu.Lock()
	defer l.mu.Unlock()
	reasons = make([]string, 0, len(l.busy))
	for why := range l.busy {
		reasons = append(reasons, why)
	}
	slices.Sort(reasons)
	state = l.state
	if state == lifeSleeping {
		state = lifeIdle // until it is over
	}
	if to, at := l.next(state, l.last, len(l.busy) > 0); !at.IsZero() {
		if to != lifeGone && l.due.After(at) {
			at = l.due // a try before has failed
		}
		next = &Transition{To: to, At: timestamp(at)}
	}
	return state, l.last, reasons, next
}

// end is when the session ends; the zero time is never.
func (l *life) end() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.expires
}

// putOff changes that.
func (l *life) putOff(expires time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expires = expires
}

// close stops the clock and leaves everything as it is.
func (l *life) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if l.timer != nil {
		l.timer.Stop()
	}
}
