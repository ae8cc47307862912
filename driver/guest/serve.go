// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package guest is the inside of a sandbox: its init, which starts, feeds,
// watches and reaps every process in it, and answers the node agent on a socket
// (package wire says how).
//
// Init is outside the session's limits and must stay small: it keeps no more
// than 1 MiB of output per execution and 8 MiB in all, and forgets what ended.
package guest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// Config is what init serves with.
type Config struct {
	// Env is the environment of every process.
	Env map[string]string
	// UID and GID of every process.
	UID, GID int
	// Bun and Gate are the paths of Bun and of the gate's module.
	Bun, Gate string
	// Workspace is the directory above which Bun finds nothing of the session's.
	Workspace string
	// MaxFiles is RLIMIT_NOFILE of every process.
	MaxFiles uint64
	// Seccomp, Landlock and Without are as Boot has them.
	Seccomp  []byte
	Landlock *wire.Landlock
	Without  []string
	// Ready, if not nil, is called once requests will be answered.
	Ready func() error `json:"-"`
	// Exit is where the end of the main process is written; nil where there
	// will be none.
	Exit *os.File
	// units are the cgroups of executions, where they are init's to make.
	units *units
}

const (
	// requestTimeout bounds how long a new connection may take to say what it
	// wants.
	requestTimeout = 10 * time.Second
	// leaveTimeout bounds how long a connection may stay after its last word.
	leaveTimeout = time.Minute
)

type server struct {
	cfg      Config
	reaper   *reaper
	null     *os.File
	entries  *entryNames
	confined confinement
	// stop ends Serve; nil is success.
	stop context.CancelCauseFunc

	mu      sync.Mutex
	closed  bool
	runners map[string]*runner    // nil while the runner starts
	units   map[string]*execution // nil while the execution starts
	past    []*execution          // ended and silent, oldest first
	main    *execution
	conns   map[*wire.Conn]bool
	running sync.WaitGroup
}

// Serve answers on l until ctx ends or the main process does, which is no error.
// It reaps all children of the calling process, so that nothing else in it can
// wait for one, and ends those that it started when it returns.
func Serve(ctx context.Context, cfg Config, l *net.UnixListener) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("open null device: %w", err)
	}
	defer null.Close()
	confined, err := newConfinement(cfg.Seccomp, cfg.Landlock, cfg.Without)
	if err != nil {
		return err
	}
	defer confined.close()
	s := &server{
		cfg: cfg, reaper: newReaper(), null: null, stop: stop, confined: confined,
		entries: &entryNames{taken: make(map[string]bool)},
		runners: make(map[string]*runner),
		units:   make(map[string]*execution),
		conns:   make(map[*wire.Conn]bool),
	}
	reaping, stopReaping := context.WithCancel(context.WithoutCancel(ctx))
	var reaper sync.WaitGroup
	reaper.Go(func() { s.reaper.run(reaping) })
	defer reaper.Wait()
	defer stopReaping()
	defer s.close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	s.goDo(growDescriptors)
	if cfg.Ready != nil {
		if err := cfg.Ready(); err != nil {
			return err
		}
	}
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() == nil {
				return fmt.Errorf("accept: %w", err)
			}
			if err := context.Cause(ctx); !errors.Is(err, context.Canceled) && !errors.Is(err, errMainEnded) {
				return err
			}
			return nil
		}
		s.goDo(func() { s.serve(wire.NewConn(c)) })
	}
}

// growDescriptors has the kernel make room for as many descriptors as init will
// ever need. It waits a grace period of RCU for that, 15 ms, which otherwise the
// execution that needs the 65th would.
func growDescriptors() {
	if fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 1023); err == nil {
		unix.Close(fd)
	}
}

// errMainEnded ends Serve with success.
var errMainEnded = errors.New("the main process has ended")

// goDo runs f in a goroutine that Serve waits for.
func (s *server) goDo(f func()) { s.running.Go(f) }

// close ends everything that was started.
func (s *server) close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	runners := s.runners
	s.runners = nil
	s.mu.Unlock()
	for _, r := range runners {
		if r != nil {
			s.discard(r)
		}
	}
	s.reaper.close()
	s.mu.Lock()
	for _, x := range s.units {
		if x != nil {
			x.closeStreams() // a descendant may hold the other ends
		}
	}
	s.mu.Unlock()
	s.running.Wait()
}

// serve answers one connection.
func (s *server) serve(c *wire.Conn) {
	defer c.Discard()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.conns[c] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
	_ = c.SetReadDeadline(time.Now().Add(requestTimeout))
	f, err := c.Read()
	if err != nil {
		return // nobody is there to be told
	}
	_ = c.SetReadDeadline(time.Time{})
	if f.Kind != wire.KindRequest {
		f.CloseFDs()
		answer(c, failed(fmt.Errorf("a connection begins with a request, not with a frame %q", f.Kind)))
		return
	}
	req, err := decode(f.Payload)
	if err != nil {
		f.CloseFDs()
		answer(c, failed(err))
		return
	}
	s.answer(c, req, f.FDs)
}

// answer does what req asks for. The descriptors are its to close.
func (s *server) answer(c *wire.Conn, req *wire.Request, fds []int) {
	fds, err := s.joinUnit(req, fds)
	if err != nil {
		closeAll(fds)
		answer(c, failed(err))
		return
	}
	switch req.Op {
	case wire.OpPrepare:
		s.onPrepare(c, req, fds)
		return
	case wire.OpRun:
		s.onRun(c, req, fds)
		return
	case wire.OpExec:
		s.onExec(c, req, fds)
		return
	case wire.OpMain:
		s.onMain(c, req, fds)
		return
	}
	closeAll(fds)
	switch req.Op {
	case wire.OpPing:
		answer(c, wire.Event{Event: wire.EventPong})
	case wire.OpAttach:
		s.onAttach(c, req)
	case wire.OpList:
		answer(c, wire.Event{Event: wire.EventList, Executions: s.list()})
	case wire.OpSignal:
		answer(c, sendSignal(req.Pid, req.Signal))
	case wire.OpDiscard:
		s.onDiscard(c, req)
	case wire.OpDial:
		s.onDial(c, req)
	case wire.OpUnits, wire.OpKill, wire.OpRemove:
		answer(c, s.cfg.units.answer(req))
	case wire.OpInspect:
		answer(c, wire.Event{Event: wire.EventProcesses, Processes: inspect(req.Pids)})
	default:
		answer(c, failed(fmt.Errorf("unknown operation %q", req.Op)))
	}
}

// answer sends one event. Where that fails, nobody looks any more.
func answer(c *wire.Conn, ev wire.Event) {
	_ = c.SetWriteDeadline(time.Now().Add(watcherPatience))
	_ = c.WriteJSON(wire.KindEvent, ev)
}

// failed is the event that tells of err.
func failed(err error) wire.Event {
	ev := wire.Event{Event: wire.EventFailed, Error: err.Error()}
	switch {
	case errors.Is(err, unix.ENOENT):
		ev.Code = 127
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOEXEC):
		ev.Code = 126
	}
	return ev
}

func sendSignal(pid, sig int) wire.Event {
	// 1 is init, 0 and -1 are everybody.
	if pid >= -1 && pid <= 1 || sig < 0 || sig > 64 {
		return failed(fmt.Errorf("no signal %d to process %d", sig, pid))
	}
	if err := unix.Kill(pid, unix.Signal(sig)); err != nil {
		return failed(fmt.Errorf("signal process %d: %w", pid, err))
	}
	return wire.Event{Event: wire.EventSignalled}
}

// list returns what there is, by id.
func (s *server) list() []wire.Execution {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]wire.Execution, 0, len(s.runners)+len(s.units)+1)
	for id, r := range s.runners {
		e := wire.Execution{ID: id, State: statePrepared}
		if r != nil && r.bun != nil {
			e.Pid = r.bun.proc.pid
		}
		out = append(out, e)
	}
	for _, x := range s.units {
		if x != nil {
			out = append(out, x.listed())
		}
	}
	if s.main != nil {
		out = append(out, s.main.listed())
	}
	slices.SortFunc(out, func(a, b wire.Execution) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return out
}
