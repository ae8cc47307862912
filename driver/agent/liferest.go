// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"time"
)

// leavePatience is what users have to leave a session in that is put to sleep by
// force, and whose executions were ended.
const leavePatience = 5 * time.Second

// how says in what way a session is put to sleep.
type how int

const (
	asked  how = iota // unless somebody uses it
	bySelf            // the same if nobody has for long enough; who comes in the middle ends it
	forced            // whoever uses it finds its processes standing still
)

// rest stops the processes and does save, after which the session is asleep here
// for good. While that takes place, who comes waits. When save fails the session is
// idle. One that is in use is errBusy, unless forced.
func (l *life) rest(ctx context.Context, way how, save func(context.Context) error) error {
	if way == asked {
		l.awaitUnused()
	}
	l.transition.Lock()
	defer l.transition.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	was, err := l.beginRest(way, cancel)
	if err != nil {
		return err
	}
	if way == forced {
		l.evict()
		l.awaitLeave()
		l.mu.Lock()
		l.evicting = false
		l.mu.Unlock()
	}
	if was == lifeActive {
		l.leaving()
		frozen, stop := context.WithTimeoutCause(ctx, freezeTimeout, errors.New("the processes did not stand still in time"))
		err = l.freezer.Freeze(frozen) // or lets them go again
		stop()
	}
	frozen := err == nil
	if frozen {
		err = save(ctx)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.abort = nil
	switch {
	case l.state == lifeAsleep: // it has left meanwhile
		return errAsleep
	case err == nil:
		l.state, l.closed = lifeAsleep, true
		if l.timer != nil {
			l.timer.Stop()
		}
	case frozen:
		l.state = lifeIdle // whoever waits thaws it
		l.fails++
		l.arm(backoff(l.fails))
	default:
		l.state = was
		l.arm(l.idleAfter)
	}
	return err
}

// beginRest makes the state sleeping: from then on who comes waits.
func (l *life) beginRest(way how, abort context.CancelCauseFunc) (was string, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was = l.state
	switch {
	case was == lifeAsleep:
		return was, errAsleep
	case l.closed:
		return was, errPluginStops
	case len(l.busy) > 0 && way != forced:
		return was, errBusy
	case way == bySelf && (was != lifeIdle || l.now().Sub(l.last) < l.sleepAfter):
		return was, errBusy // somebody came since it was due
	}
	l.state = lifeSleeping
	l.evicting = way == forced && was == lifeActive
	if way == bySelf {
		l.abort = abort
	}
	return was, nil
}

// leave has the session gone from here at once, with nothing stored, whatever transition
// is under way. Who is inside is cut off when the sandbox ends.
func (l *life) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state, l.closed, l.over = lifeAsleep, true, true
	if l.abort != nil {
		l.abort(errAsleep)
	}
	if l.timer != nil {
		l.timer.Stop()
	}
}

// awaitLeave waits until all who came before have left, or had time to.
func (l *life) awaitLeave() { l.await(leavePatience, func() bool { return l.inside == 0 }) }

// answerPatience is what a request may take to be over here once its answer is on
// its way: who has it may ask for the next thing before.
const answerPatience = 250 * time.Millisecond

// awaitUnused waits until nobody uses the session, or they had time to finish.
func (l *life) awaitUnused() { l.await(answerPatience, func() bool { return len(l.busy) == 0 }) }

// await waits until what leaving users change is so, but not for longer than d.
func (l *life) await(d time.Duration, done func() bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	late := false
	timer := time.AfterFunc(d, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		late = true
		l.left.Broadcast()
	})
	defer timer.Stop()
	for !done() && !late {
		l.left.Wait()
	}
}
