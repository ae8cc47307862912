// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
)

// recover takes over what runs in the sandbox after a restart of the plugin.
// Init tells what there is; its word counts only within the session's own
// cgroups, which cannot be forged from inside.
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
		g, err := s.box.Group().OpenExecution(x.ID)
		if err != nil {
			continue // its processes are gone
		}
		listed[x.ID], found[x.ID] = x, newRecovered(l, x, g, s.limit)
	}
	// Runners are cheaper to replace than to know again: who waited has read
	// its working directory at a time that nobody remembers. All that before any
	// execution is followed, which starts new ones.
	units, err := s.box.Group().Executions()
	if err != nil {
		return fmt.Errorf("list the session's cgroups: %w", err)
	}
	for _, unit := range units {
		if found[unit] != nil {
			continue
		}
		if g, err := s.box.Group().OpenExecution(unit); err == nil {
			s.remove(g)
		}
	}
	for unit, e := range found {
		if err := s.adopt(ctx, listed[unit], e); err != nil {
			s.log.Warn("could not follow an execution again", "execution", e.ExecutionID, "error", err)
		}
	}
	return nil
}

// adopt follows an execution from where its journal ends.
func (s *Session) adopt(ctx context.Context, x wire.Execution, e *execution) error {
	s.add(e)
	e.journal = s.journal.of(e.label, "")
	e.journal.given = true
	e.begun(x.Pid)
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
	// What was printed before comes from the journal, as far as it goes.
	_ = s.journal.replay(e.ExecutionID, 0, ev.Offset, func(p piece) error {
		e.output.add(p.stream, p.data)
		return nil
	})
	e.output.skipTo(ev.Offset)
	e.timer = time.AfterFunc(time.Until(e.Deadline), func() { s.timeOut(e) })
	if x.Evaluated {
		if _, listens := s.listening(s.pids(e)); listens {
			e.background()
		}
	}
	s.follow(e, c)
	if x.Evaluated {
		s.goDo(func() { s.awaitListening(e) })
	}
	return nil
}
