// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
)

// watcherPatience is how long a watcher that does not read may hold an
// execution up before it is dropped.
const watcherPatience = 10 * time.Second

// The states of an execution, as OpList and OpAttach name them.
const (
	statePrepared = "prepared"
	stateRunning  = "running"
	stateExited   = "exited"
)

// execution is a first process, what it and its descendants print, and who
// looks at it.
type execution struct {
	id, label string
	argv      []string
	proc      *process
	startedAt time.Time
	streams   [2]*stream

	evaluated atomic.Bool
	end       atomic.Pointer[wire.Event] // EventExited, once it was passed on
	offset    atomic.Int64               // bytes of output so far
	heldSize  atomic.Int64               // bytes that wait for a journal
	released  atomic.Bool

	// passing is held while output and events are passed on, so that all see
	// them in one order. That may take watcherPatience.
	passing  sync.Mutex
	room     *sync.Cond // a journal came, or patience ended
	watchers []*wire.Conn
	journal  *journal
	held     held
	// hopeless says that output was dropped for want of a journal: the next does
	// not wait.
	hopeless bool
}

func newExecution(req *wire.Request) *execution {
	x := &execution{id: req.ID, label: req.Label, argv: req.Argv}
	x.room = sync.NewCond(&x.passing)
	return x
}

// silent tells whether nothing more can be printed.
func (x *execution) silent() bool {
	for _, st := range x.streams {
		select {
		case <-st.done:
		default:
			return false
		}
	}
	return true
}

// pass gives a piece of output to the watchers and to the journal. Without a
// journal it keeps the piece, and waits where that is too much.
func (x *execution) pass(kind wire.Kind, buf []byte) {
	data := buf[wire.HeaderSize:]
	x.passing.Lock()
	defer x.passing.Unlock()
	x.offset.Add(int64(len(data)))
	x.tell(func(c *wire.Conn) error { return c.WriteInPlace(kind, buf) })
	if x.journal == nil && x.held.size+len(data) > holdLimit {
		x.awaitRoom(holdLimit - len(data))
	}
	if x.journal != nil {
		x.journal.append(kind, data)
		return
	}
	x.held.add(kind, data)
	x.heldSize.Store(int64(x.held.size))
}

// awaitRoom returns when there is a journal, or no more than size is held.
func (x *execution) awaitRoom(size int) {
	if !x.hopeless {
		late := false
		timer := time.AfterFunc(holdPatience, func() {
			x.passing.Lock()
			defer x.passing.Unlock()
			late = true
			x.room.Broadcast()
		})
		defer timer.Stop()
		for x.journal == nil && !late && !x.released.Load() {
			x.room.Wait()
		}
	}
	if x.journal == nil {
		x.hopeless = true
		x.held.dropTo(size)
	}
}

// tell sends something to all watchers and drops those that fail. Called with
// passing held.
func (x *execution) tell(send func(*wire.Conn) error) {
	kept := x.watchers[:0]
	for _, c := range x.watchers {
		_ = c.SetWriteDeadline(time.Now().Add(watcherPatience))
		if send(c) == nil {
			kept = append(kept, c)
		}
	}
	clear(x.watchers[len(kept):])
	x.watchers = kept
}

// event passes an event on.
func (x *execution) event(ev wire.Event) {
	x.passing.Lock()
	defer x.passing.Unlock()
	x.eventLocked(ev)
}

func (x *execution) eventLocked(ev wire.Event) {
	if x.end.Load() != nil {
		return // exited is the last word
	}
	switch ev.Event {
	case wire.EventEvaluated:
		x.evaluated.Store(true)
	case wire.EventExited:
		x.end.Store(&ev)
	}
	x.tell(func(c *wire.Conn) error { return c.WriteJSON(wire.KindEvent, ev) })
	if ev.Event == wire.EventExited {
		x.tell(lastWord)
		x.watchers = nil
	}
}

// started tells c that x runs and lets it watch. It ends what begin began.
func (x *execution) started(c *wire.Conn) {
	defer x.passing.Unlock()
	x.watchers = append(x.watchers, c)
	x.eventLocked(wire.Event{Event: wire.EventStarted, Pid: x.proc.pid})
}

// attach lets c follow from here on, after what it cannot find in a journal.
func (x *execution) attach(c *wire.Conn) {
	x.passing.Lock()
	defer x.passing.Unlock()
	ev := wire.Event{Event: wire.EventAttached, Pid: x.proc.pid, State: stateRunning}
	end := x.end.Load()
	if end != nil {
		ev.State, ev.Code, ev.Signal = stateExited, end.Code, end.Signal
	}
	if x.journal != nil {
		ev.Offset = x.journal.written
	}
	_ = c.SetWriteDeadline(time.Now().Add(watcherPatience))
	send := func(kind wire.Kind, v any) { _ = c.WriteJSON(kind, v) } // an error closes c
	send(wire.KindEvent, ev)
	x.held.each(func(kind wire.Kind, data []byte) { _ = c.Write(kind, data) })
	if x.evaluated.Load() {
		send(wire.KindEvent, wire.Event{Event: wire.EventEvaluated})
	}
	if end != nil {
		send(wire.KindEvent, *end)
		_ = lastWord(c) // an error closes c
		return
	}
	x.watchers = append(x.watchers, c)
}

// lastWord says that nothing more will be sent, and that the agent should not
// stay for long.
func lastWord(c *wire.Conn) error {
	_ = c.SetReadDeadline(time.Now().Add(leaveTimeout))
	return c.CloseWrite()
}

// leave takes a watcher that is gone off the list.
func (x *execution) leave(c *wire.Conn) {
	x.passing.Lock()
	defer x.passing.Unlock()
	for i, w := range x.watchers {
		if w == c {
			x.watchers = append(x.watchers[:i], x.watchers[i+1:]...)
			return
		}
	}
}

// give writes what was held to the journal and all further output with it. The
// descriptors are the execution's from now on.
func (x *execution) give(fds []int) error {
	j, err := newJournal(fds)
	if err != nil {
		closeAll(fds)
		return err
	}
	x.passing.Lock()
	defer x.passing.Unlock()
	if x.journal != nil {
		j.close()
		return errors.New("the execution has a journal")
	}
	x.journal = j
	x.held.each(j.append)
	x.held = held{}
	x.heldSize.Store(0)
	x.room.Broadcast()
	return nil
}

// release notes that nobody will look again: there is nothing to wait for.
func (x *execution) release() {
	x.released.Store(true)
	x.passing.Lock()
	defer x.passing.Unlock()
	x.room.Broadcast()
}

// drain passes on what was printed until now.
func (x *execution) drain() {
	for _, st := range x.streams {
		st.drain()
	}
}

// forget lets go of what the execution holds. Nothing is printed any more.
func (x *execution) forget() {
	x.passing.Lock()
	defer x.passing.Unlock()
	if x.journal != nil {
		x.journal.close()
		x.journal = &journal{broken: errors.New("forgotten")}
	}
	x.held = held{}
}

// listed is the execution's entry in a list.
func (x *execution) listed() wire.Execution {
	e := wire.Execution{
		ID: x.id, Label: x.label, State: stateRunning, Pid: x.proc.pid, Argv: x.argv,
		StartedAt: x.startedAt.UnixMilli(), Evaluated: x.evaluated.Load(), Offset: x.offset.Load(),
	}
	if end := x.end.Load(); end != nil {
		e.State, e.Code, e.Signal = stateExited, end.Code, end.Signal
	}
	return e
}

// closeStreams ends the reading of output.
func (x *execution) closeStreams() {
	for _, st := range x.streams {
		st.file.Close()
	}
}
