// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// What is kept of ended executions that the agent has not released: so many, and
// so many bytes of their output.
const (
	keepPast      = 64
	keepPastBytes = 8 << 20
)

// decode parses a request and checks what every operation relies on.
func decode(payload []byte) (*wire.Request, error) {
	var req wire.Request
	if err := json.Unmarshal(payload, &req); err != nil {
		return nil, fmt.Errorf("parse request: %w", err)
	}
	if len(req.ID) > 200 {
		return nil, fmt.Errorf("an id of %d bytes", len(req.ID))
	}
	if req.Dir != "" {
		if !path.IsAbs(req.Dir) {
			return nil, fmt.Errorf("directory %q is not absolute", req.Dir)
		}
		req.Dir = path.Clean(req.Dir)
	}
	for name := range req.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") {
			return nil, fmt.Errorf("%q cannot name an environment variable", name)
		}
	}
	return &req, nil
}

// environment is that of the sandbox with extra, which wins, in order of names.
func (s *server) environment(extra map[string]string) []string {
	all := maps.Clone(s.cfg.Env)
	if all == nil {
		all = make(map[string]string)
	}
	maps.Copy(all, extra)
	env := make([]string, 0, len(all))
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

var errNoID = errors.New("no id given")

// free tells why nothing can start under id, if so. Called with mu held, until
// the place is taken.
func (s *server) free(id string) error {
	if id == "" {
		return errNoID
	}
	if _, known := s.runners[id]; known {
		return fmt.Errorf("a runner %s is there already", id)
	}
	if _, known := s.units[id]; known || s.main != nil && s.main.id == id {
		return fmt.Errorf("an execution %s is there already", id)
	}
	if s.closed {
		return errClosing
	}
	return nil
}

func (s *server) onPrepare(c *wire.Conn, req *wire.Request, joins []int) {
	s.mu.Lock()
	err := s.free(req.ID)
	if err == nil {
		s.runners[req.ID] = nil
	}
	s.mu.Unlock()
	if err != nil {
		closeAll(joins)
		answer(c, failed(err))
		return
	}
	if req.Dir == "" {
		req.Dir = "/"
	}
	r, err := s.prepare(req, joins)
	s.mu.Lock()
	_, wanted := s.runners[req.ID] // or discarded, or init ends
	switch {
	case err != nil:
		delete(s.runners, req.ID)
	case wanted:
		s.runners[req.ID] = r
	}
	s.mu.Unlock()
	ready := wire.Event{Event: wire.EventReady}
	switch {
	case err != nil:
		closeAll(joins)
		answer(c, failed(err))
		return
	case !wanted:
		s.discard(r)
		answer(c, failed(errors.New("the runner was discarded")))
		return
	case r.bun != nil:
		ready.Pid = r.bun.proc.pid
	}
	answer(c, ready)
}

func (s *server) onDiscard(c *wire.Conn, req *wire.Request) {
	s.mu.Lock()
	r, known := s.runners[req.ID]
	delete(s.runners, req.ID)
	s.mu.Unlock()
	if !known {
		answer(c, failed(fmt.Errorf("no runner %q waits", req.ID)))
		return
	}
	ev := wire.Event{Event: wire.EventExited, Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL)}
	if r != nil {
		s.discard(r)
		if r.bun != nil {
			ev = r.bun.gone(ev)
		}
	}
	answer(c, ev)
}

// killPatience bounds the wait for the end of a process that was killed. One in
// a frozen cgroup ends when that is thawed.
const killPatience = 10 * time.Second

// gone returns ended once b, which was killed, is.
func (b *bun) gone(ended wire.Event) wire.Event {
	select {
	case <-b.proc.done:
		ended.Pid = b.proc.pid
		return ended
	case <-time.After(killPatience):
		return failed(fmt.Errorf("runner %d was killed and is there after %s: is its cgroup frozen?", b.proc.pid, killPatience))
	}
}

func (s *server) onRun(c *wire.Conn, req *wire.Request, joins []int) {
	x, err := s.startRun(req, joins)
	if err != nil {
		ev := failed(err)
		ev.Stale = errors.Is(err, errNoRunner)
		answer(c, ev)
		return
	}
	x.started(c)
	s.serveWatcher(c, x)
}

// errNoRunner says that there is nothing to run code in.
var errNoRunner = errors.New("no such runner waits")

// startRun starts what req asks for. The execution is known from then on.
func (s *server) startRun(req *wire.Request, joins []int) (*execution, error) {
	s.mu.Lock()
	var r *runner
	var err error
	if req.Code != nil {
		if r = s.runners[req.ID]; r == nil {
			err = errNoRunner
		} else {
			delete(s.runners, req.ID)
		}
	}
	if err == nil {
		err = s.free(req.ID)
	}
	if err == nil {
		s.units[req.ID] = nil
	}
	s.mu.Unlock()
	if err != nil {
		closeAll(joins)
		if r != nil {
			s.discard(r)
		}
		return nil, err
	}
	var x *execution
	if r != nil {
		closeAll(joins) // the runner has its own
		x, err = s.run(r, req)
	} else {
		x, err = s.runCommand(req, joins)
	}
	if err != nil {
		s.mu.Lock()
		delete(s.units, req.ID)
		s.mu.Unlock()
		return nil, err
	}
	return x, nil
}

// runCommand starts a command as an execution.
func (s *server) runCommand(req *wire.Request, joins []int) (*execution, error) {
	defer closeAll(joins)
	if len(req.Argv) == 0 {
		return nil, errors.New("no command given")
	}
	x := newExecution(req)
	out, outW, err := newPipe(wire.KindStdout, x.pass)
	if err != nil {
		return nil, err
	}
	defer outW.Close()
	errs, errW, err := newPipe(wire.KindStderr, x.pass)
	if err != nil {
		out.file.Close()
		return nil, err
	}
	defer errW.Close()
	x.streams = [2]*stream{out, errs}
	p, err := s.start(command{
		argv: req.Argv, env: s.environment(req.Env), dir: startDir(req.Dir), stdout: outW, stderr: errW, joins: joins,
	})
	if err != nil {
		x.closeStreams()
		return nil, err
	}
	s.begin(x, p)
	s.goDo(func() {
		<-p.done
		s.ended(x)
	})
	return x, nil
}

// startDir is where a process starts that nobody named a directory for.
func startDir(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// begin makes x known as running p, and passes its output on once started was
// called, so that the first watcher misses nothing.
func (s *server) begin(x *execution, p *process) {
	x.passing.Lock()
	x.proc, x.startedAt = p, time.Now()
	s.mu.Lock()
	s.units[x.id] = x
	s.mu.Unlock()
	for _, st := range x.streams {
		s.goDo(func() {
			st.pump()
			s.settle(x)
		})
	}
}

// ended passes on what the first process of x left, and its exit.
func (s *server) ended(x *execution) {
	x.drain()
	s.cfg.units.note(x)
	code, sig := x.proc.code()
	x.event(wire.Event{Event: wire.EventExited, Pid: x.proc.pid, Code: code, Signal: sig})
	s.settle(x)
}

// settle forgets x, or what is older, once x has ended and nothing can print any
// more.
func (s *server) settle(x *execution) {
	if x.end.Load() == nil || !x.silent() {
		return
	}
	var forgotten []*execution
	defer func() {
		for _, old := range forgotten {
			old.forget() // may wait, so without the lock
		}
	}()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.units[x.id] != x {
		return
	}
	if !slices.Contains(s.past, x) {
		s.past = append(s.past, x)
	}
	var bytes int64
	for _, old := range s.past {
		bytes += old.heldSize.Load()
	}
	kept := s.past[:0]
	for i, old := range s.past {
		if !old.released.Load() && len(s.past)-i+len(kept) <= keepPast && bytes <= keepPastBytes {
			kept = append(kept, old)
			continue
		}
		bytes -= old.heldSize.Load()
		delete(s.units, old.id)
		forgotten = append(forgotten, old)
	}
	clear(s.past[len(kept):])
	s.past = kept
}

func (s *server) onAttach(c *wire.Conn, req *wire.Request) {
	s.mu.Lock()
	x := s.units[req.ID]
	s.mu.Unlock()
	if x == nil {
		answer(c, failed(fmt.Errorf("no execution %q", req.ID)))
		return
	}
	x.attach(c)
	s.serveWatcher(c, x)
}

// serveWatcher takes what the agent says about x until it closes.
func (s *server) serveWatcher(c *wire.Conn, x *execution) {
	defer x.leave(c)
	for {
		f, err := c.Read()
		if err != nil {
			return
		}
		switch f.Kind {
		case wire.KindSignal:
			s.signalFirst(x.proc, f.Payload)
		case wire.KindJournal:
			_ = x.give(f.FDs) // a second one is of no use
			f.FDs = nil
		case wire.KindReleased:
			x.release()
			s.settle(x)
		}
		f.CloseFDs()
	}
}

// signalFirst sends the signal that a frame asks for to p's group.
func (s *server) signalFirst(p *process, payload []byte) {
	var sig wire.Signal
	if json.Unmarshal(payload, &sig) == nil && sig.Signal > 0 && sig.Signal <= 64 {
		s.reaper.signalGroup(p, syscall.Signal(sig.Signal))
	}
}
