// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/buntime/buntime/driver/door"
	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox"
)

// recover takes over what runs in the sandbox after a restart of the plugin.
// Init tells what it knows of; what counts are the session's cgroups, which
// cannot be forged from inside.
func (s *Session) recover(ctx context.Context) error {
	list, err := s.guest.ask(ctx, wire.Request{Op: wire.OpList}, nil)
	if err != nil {
		return fmt.Errorf("list what runs in the session: %w", err)
	}
	found := make(map[string]*execution)
	listed := make(map[string]wire.Execution)
	for _, x := range list.Executions {
		var l label
		if x.State == "prepared" || json.Unmarshal([]byte(x.Label), &l) != nil || l.ExecutionID == "" {
			continue
		}
		if !door.ValidRequestID(l.Request) { // it comes from inside
			l.Request = ""
		}
		g, err := s.box.Units().Open(x.ID)
		if err != nil {
			continue // ended, with all that came of it
		}
		listed[x.ID], found[x.ID] = x, newRecovered(l, x, g, s.limit)
		s.countKills(found[x.ID])
	}
	// Runners are cheaper to replace than to know again: who waited has read
	// its working directory at a time that nobody remembers. All that before any
	// execution is followed, which starts new ones.
	units, err := s.box.Units().List()
	if err != nil {
		return fmt.Errorf("list the session's cgroups: %w", err)
	}
	for _, unit := range units {
		if found[unit] != nil {
			continue
		}
		g, err := s.box.Units().Open(unit)
		if err != nil {
			continue
		}
		if strings.HasPrefix(unit, commandUnit+"-") {
			s.keepOrphan(unit, g)
		} else {
			s.remove(g)
		}
	}
	for unit, e := range found {
		if err := s.adopt(ctx, listed[unit], e); err != nil {
			s.logOf(e).Warn("could not follow an execution again", "error", err)
			s.remove(e.group)
		}
	}
	return nil
}

// keepOrphan takes over the processes that a command left behind which init
// remembers no more.
func (s *Session) keepOrphan(unit string, g sandbox.Unit) {
	e := newExecution(label{ExecutionID: unit, StartedAt: time.Now()}, unit, g, s.limit)
	e.state = stateExited
	e.output.close()
	close(e.answered)
	close(e.recorded)
	close(e.ended)
	s.add(e)
	s.retire(e)
}

// replayTimeout bounds the reading of a journal when the plugin starts: Nomad
// restores one task after the other.
const replayTimeout = 2 * time.Second

// adopt follows an execution from where its journal ends.
func (s *Session) adopt(ctx context.Context, x wire.Execution, e *execution) error {
	c, err := s.guest.request(ctx, wire.Request{Op: wire.OpAttach, ID: x.ID}, nil)
	if err != nil {
		return err
	}
	ev, err := c.event(ctx)
	if err == nil && ev.Event != wire.EventAttached {
		err = fmt.Errorf("attach: %s", ev.Error)
	}
	if err != nil {
		c.Close()
		return err
	}
	e.journal = s.journal.of(e.label, "")
	e.journal.recovered = true
	e.journal.given = ev.Offset > 0
	e.begun(x.Pid)
	s.add(e)
	// What was printed before comes from the journal, as far as it goes.
	brief, cancel := context.WithTimeout(ctx, replayTimeout)
	defer cancel()
	_ = s.journal.replay(brief, e.ExecutionID, 0, ev.Offset, func(p piece) error {
		e.output.add(p.stream, p.data)
		return nil
	})
	e.output.skipTo(ev.Offset)
	if s.wasBackground(ctx, x, e) {
		e.background()
	} else {
		e.timer = time.AfterFunc(time.Until(e.Deadline), func() { s.timeOut(e) })
	}
	s.follow(e, c)
	if x.Evaluated {
		s.goDo(func() { s.awaitListening(e) })
	}
	return nil
}

// wasBackground tells whether e was answered as a server that stays: it listens,
// or it lives on past its time, which only such an execution does.
func (s *Session) wasBackground(ctx context.Context, x wire.Execution, e *execution) bool {
	if !x.Evaluated || x.State != "running" {
		return false
	}
	if time.Now().After(e.Deadline) {
		return true
	}
	_, listens := s.listening(ctx, s.pids(e))
	return listens
}
