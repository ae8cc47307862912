// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox/cgroup"
)

// guestUnits are cgroups that init keeps in the sandbox's own kernel.
type guestUnits struct{ box *Sandbox }

type guestUnit struct {
	box *Sandbox
	id  string
}

func (inGVisor) units(s *Sandbox) Units { return guestUnits{s} }

// New names a unit; init makes it with the first process.
func (g guestUnits) New(id string) (Unit, error) { return guestUnit{g.box, id}, nil }

func (g guestUnits) Open(id string) (Unit, error) {
	ev, err := g.box.askUnits(wire.Request{Op: wire.OpUnits, ID: id})
	if err == nil && len(ev.Units) == 0 {
		err = os.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("open execution %s: %w", id, err)
	}
	return guestUnit{g.box, id}, nil
}

func (g guestUnits) List() ([]string, error) {
	list, err := g.Usage()
	ids := make([]string, len(list))
	for i, u := range list {
		ids[i] = u.ID
	}
	return ids, err
}

// Usage implements Inspector.
func (g guestUnits) Usage() ([]wire.Unit, error) {
	ev, err := g.box.askUnits(wire.Request{Op: wire.OpUnits})
	if err != nil {
		return nil, fmt.Errorf("list executions: %w", err)
	}
	return ev.Units, nil
}

// Inspect implements Inspector.
func (g guestUnits) Inspect(pids []int) ([]Process, error) {
	ev, err := g.box.askUnits(wire.Request{Op: wire.OpInspect, Pids: pids})
	if err != nil {
		return nil, fmt.Errorf("inspect processes: %w", err)
	}
	out := make([]Process, len(ev.Processes))
	for i, p := range ev.Processes {
		out[i] = Process{
			Pid: p.Pid, Parent: p.Parent, Inside: p.Pid, Command: p.Command, Started: time.UnixMilli(p.StartedAt),
			Memory: p.Memory, CPU: time.Duration(p.CPU), Ports: p.Ports,
		}
	}
	return out, nil
}

func (u guestUnit) ID() string                     { return u.id }
func (u guestUnit) JoinFiles() ([]*os.File, error) { return nil, nil }

func (u guestUnit) usage() (wire.Unit, error) {
	// Who is frozen cannot answer, and is as it was.
	if frozen, err := u.box.group.Frozen(); err == nil && frozen {
		return u.box.seen.get(u.id), nil
	}
	ev, err := u.box.askUnits(wire.Request{Op: wire.OpUnits, ID: u.id})
	if err != nil {
		// A session without CPU time to answer still has its processes.
		if last := u.box.seen.get(u.id); last.ID != "" && !u.box.ended() {
			return last, nil
		}
		return wire.Unit{}, fmt.Errorf("look at execution %s: %w", u.id, err)
	}
	if len(ev.Units) == 0 {
		return wire.Unit{}, nil // not begun, or removed
	}
	u.box.seen.put(ev.Units[0])
	return ev.Units[0], nil
}

// lastSeen is what units were like when they were last looked at.
type lastSeen struct {
	mu    sync.Mutex
	units map[string]wire.Unit
}

func (l *lastSeen) get(id string) wire.Unit {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.units[id]
}

func (l *lastSeen) put(unit wire.Unit) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.units == nil {
		l.units = make(map[string]wire.Unit)
	}
	l.units[unit.ID] = unit
}

func (l *lastSeen) forget(id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.units, id)
}

func (u guestUnit) Pids() ([]int, error) {
	w, err := u.usage()
	return w.Pids, err
}

func (u guestUnit) Stats() (cgroup.Stats, error) {
	w, err := u.usage()
	return cgroup.Stats{
		MemoryUsage: uint64(max(w.Memory, 0)), MemoryPeak: uint64(max(w.MemoryPeak, 0)), CPU: time.Duration(w.CPU),
	}, err
}

func (u guestUnit) Kill(ctx context.Context) error { return u.do(ctx, wire.OpKill) }
func (u guestUnit) Remove(ctx context.Context) error {
	u.box.seen.forget(u.id)
	return u.do(ctx, wire.OpRemove)
}

func (u guestUnit) do(ctx context.Context, op wire.Op) error {
	if u.box.ended() {
		return nil // and with it all units
	}
	ev, err := u.box.ask(ctx, wire.Request{Op: op, ID: u.id})
	if err == nil && ev.Event != wire.EventExited {
		err = errors.New(ev.Error)
	}
	if err != nil && u.box.ended() {
		return nil
	}
	if err != nil {
		return fmt.Errorf("%s execution %s: %w", op, u.id, err)
	}
	return nil
}

// unitsTimeout bounds a question about units. It waits for a session at the end
// of its CPU quota, whose init is under the quota too.
const unitsTimeout = 10 * time.Second

func (s *Sandbox) askUnits(req wire.Request) (wire.Event, error) {
	ctx, cancel := context.WithTimeoutCause(context.Background(), unitsTimeout, errors.New("init did not answer"))
	defer cancel()
	ev, err := s.ask(ctx, req)
	if err == nil && ev.Event == wire.EventFailed {
		err = errors.New(ev.Error)
	}
	return ev, err
}

func (s *Sandbox) ask(ctx context.Context, req wire.Request) (wire.Event, error) {
	c, err := s.Dial(ctx)
	if err != nil {
		return wire.Event{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })()
	ev, err := ask(c, req)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return ev, err
}

// ask sends one request and reads the first event.
func ask(c *wire.Conn, req wire.Request) (ev wire.Event, err error) {
	if err := c.WriteJSON(wire.KindRequest, req); err != nil {
		return ev, fmt.Errorf("send %s to init: %w", req.Op, err)
	}
	f, err := c.Read()
	if err != nil {
		return ev, fmt.Errorf("read init's answer to %s: %w", req.Op, err)
	}
	f.CloseFDs()
	if f.Kind != wire.KindEvent {
		return ev, fmt.Errorf("read init's answer to %s: unexpected frame %q", req.Op, f.Kind)
	}
	if err := json.Unmarshal(f.Payload, &ev); err != nil {
		return ev, fmt.Errorf("parse init's answer to %s: %w", req.Op, err)
	}
	return ev, nil
}
