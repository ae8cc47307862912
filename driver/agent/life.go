// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/buntime/buntime/driver/sandbox"
)

// The states of a session on its node.
const (
	lifeActive = "active"
	lifeIdle   = "idle" // its processes stand still
	lifeGone   = "expired"
)

// Transition is a change of state that comes by itself, if nothing happens before.
type Transition struct {
	To string `json:"to"`
	At string `json:"at"`
}

// schedule says when a session changes its state by itself. It is all there is to
// the timing, and has no clock.
type schedule struct {
	idleAfter time.Duration // without activity; 0 is never
	expires   time.Time     // zero: never
}

// next is the next transition of a session in state that was active last at last,
// and is now if busy. The zero time says that none will come.
func (c schedule) next(state string, last time.Time, busy bool) (to string, at time.Time) {
	if state == lifeActive && !busy && c.idleAfter > 0 {
		to, at = lifeIdle, last.Add(c.idleAfter)
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

	// transition is held while processes are stopped or let go, so that who comes
	// in the middle waits for the end of it.
	transition sync.Mutex

	mu     sync.Mutex // of what follows; never held for long
	state  string
	last   time.Time // of activity
	busy   map[string]int
	holds  int // what must not be stopped but is no activity
	timer  stopper
	closed bool
}

// stopper is a timer that can be stopped.
type stopper interface{ Stop() bool }

func newLife(c schedule, f freezer, last time.Time, log hclog.Logger) *life {
	return &life{
		schedule: c, freezer: f, log: log, now: time.Now, state: lifeActive, last: last, busy: make(map[string]int),
		after: func(d time.Duration, f func()) stopper { return time.AfterFunc(d, f) },
		note:  func(time.Time) {},
	}
}

// begin starts the clock.
func (l *life) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.arm(l.last.Add(l.idleAfter).Sub(l.now()))
}

// arm has the session considered after d. Called with mu held.
func (l *life) arm(d time.Duration) {
	if l.timer != nil {
		l.timer.Stop()
	}
	if !l.closed && l.idleAfter > 0 {
		l.timer = l.after(max(d, 0), l.consider)
	}
}

// consider makes the session idle if it has been unused for long enough.
func (l *life) consider() {
	l.transition.Lock()
	defer l.transition.Unlock()
	last, idle := l.settle()
	if !idle {
		return
	}
	ctx, cancel := context.WithTimeoutCause(context.Background(), freezeTimeout, errors.New("the processes did not stand still in time"))
	defer cancel()
	if err := l.freezer.Freeze(ctx); err != nil {
		l.log.Warn("could not make the session idle; trying again later", "error", err)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.state = lifeActive
		l.arm(l.idleAfter)
		return
	}
	l.note(last)
}

// settle makes the state idle if it has to be: from then on who comes waits for
// the end of the transition.
func (l *life) settle() (last time.Time, idle bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	unused := l.now().Sub(l.last)
	switch {
	case l.closed || l.state != lifeActive:
		return l.last, false
	case len(l.busy) > 0 || l.holds > 0:
		l.arm(l.idleAfter) // whose end is activity
		return l.last, false
	case unused < l.idleAfter:
		l.arm(l.idleAfter - unused)
		return l.last, false
	}
	l.state = lifeIdle
	return l.last, true
}

// use marks the session as used for a reason until leave is called, and returns
// once its processes run.
func (l *life) use(why string) (leave func(), err error) {
	l.mu.Lock()
	l.busy[why]++
	l.last = l.now()
	l.mu.Unlock()
	leave = sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.busy[why]--; l.busy[why] == 0 {
			delete(l.busy, why)
		}
		l.last = l.now()
	})
	if err := l.wake(); err != nil {
		leave()
		return nil, err
	}
	return leave, nil
}

// touch is use for a moment.
func (l *life) touch() error {
	l.mu.Lock()
	l.last = l.now()
	l.mu.Unlock()
	return l.wake()
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

// wake lets the processes go on if they stand still.
func (l *life) wake() error {
	l.mu.Lock()
	running := l.state == lifeActive
	l.mu.Unlock()
	if running {
		return nil
	}
	l.transition.Lock()
	defer l.transition.Unlock()
	l.mu.Lock()
	running = l.state == lifeActive
	l.mu.Unlock()
	if running {
		return nil
	}
	if err := l.freezer.Thaw(); err != nil {
		return fmt.Errorf("wake the session: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = lifeActive
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
	if to, at := l.next(l.state, l.last, len(l.busy) > 0); !at.IsZero() {
		next = &Transition{To: to, At: timestamp(at)}
	}
	return l.state, l.last, reasons, next
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

// lifeNote is what a later process of the plugin has to know of a session's life.
// Whether its processes stand still it asks the kernel.
type lifeNote struct {
	LastActive time.Time `json:"lastActive"`
}

const lifeFile = "life.json"

func (s *Session) noteActivity(last time.Time) {
	b, err := json.Marshal(lifeNote{LastActive: last})
	if err == nil {
		err = s.box.Keep(lifeFile, b)
	}
	if err != nil {
		s.log.Warn("could not note when the session was active last", "error", err)
	}
}

// notedActivity is what an earlier process noted, now if it did not.
func notedActivity(box *sandbox.Sandbox) time.Time {
	var note lifeNote
	b, err := box.Kept(lifeFile)
	if err != nil || json.Unmarshal(b, &note) != nil || note.LastActive.IsZero() {
		return time.Now()
	}
	return note.LastActive
}
