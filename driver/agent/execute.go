// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/metrics"
	"github.com/buntime/buntime/driver/sandbox"
)

// ExecuteRequest is the body of POST /v1/execute.
type ExecuteRequest struct {
	ExecutionID string            `json:"executionId"`
	Code        *string           `json:"code,omitempty"`
	Command     *string           `json:"command,omitempty"`
	Files       []FileContent     `json:"files,omitempty"`
	Env         map[string]string `json:"env,omitempty"`
	// Timeout is in seconds.
	Timeout    float64 `json:"timeout,omitempty"`
	WorkingDir string  `json:"workingDir,omitempty"`
	Stream     bool    `json:"stream,omitempty"`

	request string // the id of the request, for the log
}

// FileContent is a file to write before the execution starts.
type FileContent struct {
	Path    string `json:"path"`
	Content string `json:"content"`
}

const (
	// defaultTimeout is an execution's when the request names none (api.md).
	defaultTimeout = 30 * time.Second
	// killTimeout bounds the end of a process tree after SIGKILL. A process in
	// uninterruptible disk sleep may take its time.
	killTimeout = 10 * time.Second
	// quickEnd is how long an execution may run before its journal is begun
	// beside it: a shorter one is written down as a whole after its answer.
	quickEnd = 20 * time.Millisecond
)

// execute starts what req asks for, or is errGone where it has not and will not: the
// session is put to sleep by force, and whatever was not there to be interrupted when
// that began can run in the next life. The execution runs on whatever becomes of
// ctx, which only bounds the start.
func (s *Session) execute(ctx context.Context, req ExecuteRequest) (*execution, error) {
	dir, err := s.prepareWorkspace(&req)
	if err != nil {
		return nil, err
	}
	timeout := defaultTimeout
	if req.Timeout > 0 {
		timeout = time.Duration(req.Timeout * float64(time.Second))
	}
	l := label{ExecutionID: req.ExecutionID, Request: req.request, Code: req.Code != nil}
	for _, f := range req.Files {
		name, _ := clean("files", f.Path)
		l.FilesWritten = append(l.FilesWritten, name)
	}
	if l.Code {
		return s.runCode(ctx, req, l, dir, timeout)
	}
	return s.runCommand(ctx, req, l, dir, timeout)
}

// prepareWorkspace writes the request's files and returns the absolute
// directory to run in.
func (s *Session) prepareWorkspace(req *ExecuteRequest) (string, error) {
	for i, f := range req.Files {
		if _, err := s.files.write(fmt.Sprintf("files[%d].path", i), f.Path, []byte(f.Content)); err != nil {
			return "", err
		}
	}
	dir, err := clean("workingDir", req.WorkingDir)
	if err != nil {
		return "", err
	}
	if dir == "." {
		return workspaceDir, nil
	}
	st, err := s.files.root.Stat(dir)
	if err != nil {
		return "", invalid("workingDir", "%s", asError(fileError("workingDir", req.WorkingDir, err)).Message)
	}
	if !st.IsDir() {
		return "", invalid("workingDir", "%q is a file, not a directory", req.WorkingDir)
	}
	return path.Join(workspaceDir, dir), nil
}

// runCode hands the code to a runner. A runner that turns out unusable (it
// died, or what Bun read at its start has changed) has run nothing: the next
// one, started for this code, takes its place.
func (s *Session) runCode(ctx context.Context, req ExecuteRequest, l label, dir string, timeout time.Duration) (*execution, error) {
	for attempt := 0; ; attempt++ {
		run, err := s.runners.take(ctx, dir)
		if err != nil {
			return nil, unavailable("start Bun: %v", err)
		}
		e := s.newExecution(l, run.unit, run.group, timeout)
		e.cpuBefore = run.cpu
		if known, added := s.add(e); !added {
			s.writes.end(e.written)
			s.goDo(func() { s.runners.discard(run) })
			return known, nil
		}
		if s.life.resting() {
			s.forget(e)
			s.goDo(func() { s.runners.discard(run) })
			return nil, errGone
		}
		err = s.start(ctx, e, wire.Request{Op: wire.OpRun, ID: run.unit, Code: req.Code, Env: req.Env}, *req.Code)
		if err == nil {
			return e, nil
		}
		s.forget(e)
		s.goDo(func() { s.runners.discard(run) })
		if !errors.Is(err, errStale) || attempt == maxStale {
			return nil, err
		}
		metrics.Stale.Inc()
	}
}

// maxStale bounds how often code changes runners: as many as may be ready and
// two started for it.
const maxStale = manyRunners + 2

// errStale says that a runner could not take code and has run nothing.
var errStale = errors.New("the runner is out of date")

// runCommand runs a shell.
func (s *Session) runCommand(ctx context.Context, req ExecuteRequest, l label, dir string, timeout time.Duration) (*execution, error) {
	unit := newUnit(commandUnit)
	g, err := s.box.Units().New(unit)
	if err != nil {
		return nil, fmt.Errorf("create cgroup of a command: %w", err)
	}
	l.Command = *req.Command
	e := s.newExecution(l, unit, g, timeout)
	if known, added := s.add(e); !added {
		s.writes.end(e.written)
		s.remove(g)
		return known, nil
	}
	if s.life.resting() {
		s.forget(e)
		s.remove(g)
		return nil, errGone
	}
	err = s.start(ctx, e, wire.Request{
		Op: wire.OpRun, ID: unit, Argv: []string{"/bin/sh", "-c", *req.Command}, Env: req.Env, Dir: dir,
	}, *req.Command)
	if err != nil {
		s.forget(e)
		s.remove(g)
		return nil, err
	}
	return e, nil
}

// start sends the request to init and follows the execution from then on.
func (s *Session) start(ctx context.Context, e *execution, req wire.Request, source string) error {
	req.Label = encodeLabel(e.label)
	var c *guest
	var err error
	if req.Code != nil {
		c, err = s.guest.request(ctx, req, nil) // the runner has joined its cgroup
	} else {
		c, err = s.guest.requestIn(ctx, req, e.group)
	}
	if err != nil {
		return unsure("reach the sandbox: %v", err)
	}
	ev, err := c.event(ctx)
	switch {
	case err != nil:
		c.Close()
		return unsure("start the execution: %v", err)
	case ev.Event == wire.EventFailed && ev.Stale:
		c.Close()
		return errStale
	case strings.Contains(ev.Error, unix.ENOSPC.Error()):
		c.Close()
		return fileError("code", "the code to run", unix.ENOSPC)
	case ev.Event != wire.EventStarted && e.endedAs(reasonInterrupted):
		// The session goes to sleep. Nothing of the code has run, so it can in the
		// next life.
		c.Close()
		return errGone
	case ev.Event != wire.EventStarted:
		c.Close()
		return fmt.Errorf("start the execution: %s", ev.Error)
	}
	e.event(ev)
	e.timer = time.AfterFunc(time.Until(e.Deadline), func() { s.timeOut(e) })
	e.journal = s.journal.of(e.label, source)
	s.follow(e, c)
	return nil
}

// follow reads what init says of e until its first process is gone.
func (s *Session) follow(e *execution, c *guest) {
	// A server that stays keeps nobody awake: what uses it does.
	leave := s.occupy(e)
	s.goDo(func() {
		defer close(e.recorded)
		s.awaitDelivered(e)
		leave()
		s.runners.answered()
		if r := e.lookup(); r.State == stateBackground {
			e.journal.begin(e, c)
			e.journal.keepAnswer(e)
		} else if r.State == stateExited {
			s.record(e, r)
		}
	})
	begin := time.AfterFunc(time.Until(e.StartedAt.Add(quickEnd)), func() {
		s.goDo(func() { e.journal.begin(e, c) })
	})
	s.goDo(func() {
		defer c.Close()
		stop := context.AfterFunc(s.ctx, func() { c.Close() })
		defer stop()
		err := c.stream(e.output.add, func(ev wire.Event) bool {
			switch ev.Event {
			case wire.EventEvaluated:
				s.goDo(func() { s.awaitListening(e) })
			case wire.EventExiting:
				s.runners.ended() // before anybody can come who has the answer
			}
			return e.event(ev)
		})
		begin.Stop()
		if err == nil {
			s.awaitDelivered(e)
		}
		switch {
		case err != nil:
		case len(s.pids(e)) > 0:
			e.journal.begin(e, c) // what it left behind may print yet
		default:
			_ = c.Write(wire.KindReleased, nil) // init may forget it; if this is lost, it will in time
		}
		if err != nil && s.ctx.Err() != nil {
			return // this process lets go; the execution stays, init keeps its output
		}
		if err != nil {
			if !s.life.gone() { // else it ended with the session
				s.logOf(e).Warn("lost an execution", "error", err)
			}
			e.endedBy(lossReason(e))
			e.finish(128+9, 9)
		}
		e.output.close()
		close(e.ended)
		<-e.recorded
		s.settle(e)
	})
}

// deliverPatience bounds how long an answer may take to its caller before what is
// left to do begins beside it: it is a write to a socket, as a rule.
const deliverPatience = 10 * time.Millisecond

// awaitDelivered returns when e is answered and its caller has the answer. On a
// machine without a core to spare, the caller would wait for what else is done then.
func (s *Session) awaitDelivered(e *execution) {
	select {
	case <-e.answered:
	case <-s.ctx.Done():
		return
	}
	late := time.NewTimer(deliverPatience)
	defer late.Stop()
	select {
	case <-e.delivered:
	case <-late.C:
	case <-s.ctx.Done():
	}
}

// lossReason is why an execution ended of which init will tell no more: with the
// whole sandbox, where the kernel ended that for its memory.
func lossReason(e *execution) string {
	if e.hostKills != nil && e.hostKills() > e.killsBefore {
		return reasonOOM
	}
	return reasonInterrupted
}

// occupy keeps the session awake for e until it is answered.
func (s *Session) occupy(e *execution) (leave func()) {
	select {
	case <-e.answered: // before a restart of the plugin
		return func() {}
	default:
	}
	leave, err := s.life.useMore("execution " + e.ExecutionID)
	if err != nil { // it was awake to get here, so this is the kernel's fault
		s.logOf(e).Error("could not keep the session awake for an execution", "error", err)
		return func() {}
	}
	return leave
}

// settle does what is left after an execution's end: journal, left-over
// processes, memory.
func (s *Session) settle(e *execution) {
	r := e.lookup()
	if cutShort(r) {
		s.kill(e)
	}
	s.record(e, r)
	s.retire(e)
	s.releaseEmpty(e)
}

// record writes an ended execution's result down, and once more should anything
// have changed since: a last line that was printed while it tore itself down.
func (s *Session) record(e *execution, r Result) {
	if err := e.journal.finish(e, r); err != nil {
		s.logOf(e).Warn("could not write the history of an execution", "error", err)
	}
}

// recordWait bounds how long who looks at the workspace waits for the history
// of answered executions to be there: fractions of a millisecond.
const recordWait = 2 * time.Second

// awaitRecords returns when the history has all executions that were answered.
func (s *Session) awaitRecords(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, recordWait)
	defer cancel()
	for _, e := range s.all() {
		select {
		case <-e.answered:
		default:
			continue
		}
		select {
		case <-e.recorded:
		case <-ctx.Done():
			return
		}
	}
}

// cutShort tells of an execution of whose processes none may stay: it ran out of
// time or memory, or was killed.
func cutShort(r Result) bool {
	switch r.Reason {
	case reasonTimeout, reasonOOM, reasonKilled, reasonInterrupted:
		return true
	}
	return false
}

// timeOut ends an execution that used up its time.
func (s *Session) timeOut(e *execution) {
	if e.endedBy(reasonTimeout) {
		s.kill(e)
	}
}

// kill ends all processes of e.
func (s *Session) kill(e *execution) {
	ctx, cancel := context.WithTimeoutCause(s.ctx, killTimeout, errors.New("processes outlived SIGKILL"))
	defer cancel()
	if err := e.group.Kill(ctx); err != nil && s.ctx.Err() == nil {
		s.logOf(e).Error("could not end an execution", "error", err)
	}
}

// answer waits for the execution's answer. A client that goes away does not
// end the execution.
func (s *Session) answer(ctx context.Context, e *execution) (Result, error) {
	select {
	case <-e.answered:
	case <-ctx.Done():
		return Result{}, context.Cause(ctx)
	case <-s.ctx.Done():
		return Result{}, unsure("%v", context.Cause(s.ctx))
	}
	if e.journal != nil && e.journal.recovered {
		if r, err := s.journal.answer(e.ExecutionID); err == nil {
			return r, nil
		}
	}
	r := e.told()
	if cutShort(r) {
		s.kill(e) // the answer says that nothing of it is left
	}
	return s.judge(r)
}

// outOfMemory is the answer to an execution that ran over the session's memory
// limit, with what it did until then.
func (s *Session) outOfMemory(r Result) *Error {
	limit := fmt.Sprintf("%dMB", s.MemoryLimit>>20)
	if s.MemoryLimit%(1<<30) == 0 {
		limit = fmt.Sprintf("%dGB", s.MemoryLimit>>30)
	}
	return &Error{
		Status: 507, Code: "memory_limit_exceeded",
		Message: fmt.Sprintf("Session exceeded %s memory limit", limit),
		Details: map[string]any{"result": r},
	}
}

// logOf is the log of what happens to an execution, with the request that it came with.
func (s *Session) logOf(e *execution) hclog.Logger {
	return s.log.With("execution", e.ExecutionID, "request", e.Request)
}

// newExecution begins the clock of an execution.
func (s *Session) newExecution(l label, unit string, g sandbox.Unit, timeout time.Duration) *execution {
	l.StartedAt = time.Now()
	l.Deadline = l.StartedAt.Add(timeout)
	e := newExecution(l, unit, g, s.limit)
	s.countKills(e)
	e.writes, e.written = s.writes, s.writes.begin()
	return e
}
