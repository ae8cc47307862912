// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

// gateTimeout bounds Bun's way to the gate: 8 ms, 90 with a cold page cache, and
// some periods more where the session is out of CPU quota.
const gateTimeout = 20 * time.Second

// runner is a place for code to run in: cgroups, a directory, an environment,
// and mostly a Bun that waits in its gate.
type runner struct {
	id    string
	dir   string
	env   []string
	joins []int

	// bun is nil where only a fresh Bun will do.
	bun  *bun
	seen fingerprint
}

// bun is a Bun process with its gate.
type bun struct {
	proc    *process
	entry   *entry
	gate    *os.File // our end
	streams [2]*stream
	// x is what the streams pass output to.
	x *execution
}

// prepare starts a runner for req. It keeps joins.
func (s *server) prepare(req *wire.Request, joins []int) (*runner, error) {
	r := &runner{id: req.ID, dir: req.Dir, env: s.environment(req.Env), joins: joins}
	r.seen = takeFingerprint(r.dir, s.cfg.Workspace)
	if runsBefore(r.dir, r.env) || r.seen.reroutes || r.seen.unknown {
		return r, nil
	}
	e, err := s.newEntry(r.dir)
	if err != nil {
		return nil, err
	}
	b, err := s.startBun(r, newExecution(req), e, "", false)
	if err != nil {
		return nil, err
	}
	err = b.awaitGate()
	switch {
	case errors.Is(err, errNoGate):
		// Bun did not like what it found, such as its configuration: a fresh one
		// will tell that to who runs code.
		s.endBun(b)
		return r, nil
	case err != nil:
		s.endBun(b)
		return nil, err
	}
	b.entry.remove()
	r.bun = b
	return r, nil
}

// runsBefore tells whether Bun would run code of the session's before it comes
// to the gate, and so before somebody asks for it.
func runsBefore(dir string, env []string) bool {
	for _, kv := range env {
		name, _, _ := strings.Cut(kv, "=")
		if name == "BUN_OPTIONS" || name == "NODE_OPTIONS" || strings.HasPrefix(name, "BUN_INSPECT") {
			return true
		}
	}
	text, err := readConfig(dir + "/bunfig.toml")
	return strings.Contains(string(text), "preload") || err != nil && !errors.Is(err, unix.ENOENT)
}

// startBun starts Bun in the runner's place, with code in e, which is Bun's to
// close from then on, also with an error. Where the gate is open, Bun does not
// wait in it.
func (s *server) startBun(r *runner, x *execution, e *entry, code string, open bool) (b *bun, err error) {
	b = &bun{x: x, entry: e}
	var ends []*os.File // the process's
	defer func() {
		for _, f := range ends {
			f.Close()
		}
		if err != nil {
			b.close()
		}
	}()
	if err := b.entry.write(code); err != nil {
		return b, err
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return b, fmt.Errorf("create gate: %w", err)
	}
	if err := unix.SetNonblock(pair[0], true); err != nil {
		return b, fmt.Errorf("create gate: %w", err)
	}
	b.gate = os.NewFile(uintptr(pair[0]), "gate")
	theirs := os.NewFile(uintptr(pair[1]), "gate")
	ends = append(ends, theirs)
	for i, kind := range []wire.Kind{wire.KindStdout, wire.KindStderr} {
		st, w, err := newPipe(kind, x.pass)
		if err != nil {
			return b, err
		}
		b.streams[i], ends = st, append(ends, w)
	}
	if open {
		if err := b.open(); err != nil {
			return b, err
		}
	}
	b.proc, err = s.start(command{
		argv: []string{s.cfg.Bun, "run", "--install=fallback", "--preload", s.cfg.Gate, b.entry.path},
		env:  r.env, dir: r.dir, stdout: ends[1], stderr: ends[2], joins: r.joins, gate: theirs,
	})
	return b, err
}

// errNoGate says that Bun ended before it came to the gate.
var errNoGate = errors.New("the runner's Bun ended before it was ready")

// awaitGate waits until Bun has reached the gate.
func (b *bun) awaitGate() error {
	if err := b.gate.SetReadDeadline(time.Now().Add(gateTimeout)); err != nil {
		return err
	}
	var word [1]byte
	n, err := b.gate.Read(word[:])
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fmt.Errorf("the runner's Bun was not ready within %s", gateTimeout)
	case n != 1 || word[0] != gateReached:
		return errNoGate
	}
	return b.gate.SetReadDeadline(time.Time{})
}

// open lets Bun pass the gate.
func (b *bun) open() error {
	if _, err := b.gate.Write([]byte{1}); err != nil {
		return fmt.Errorf("open gate: %w", err)
	}
	return nil
}

// close lets go of everything but the process.
func (b *bun) close() {
	if b.entry != nil {
		b.entry.close()
	}
	if b.gate != nil {
		b.gate.Close()
	}
	for _, st := range b.streams {
		if st != nil {
			st.file.Close()
		}
	}
}

// endBun ends a Bun that no code will run in.
func (s *server) endBun(b *bun) {
	s.reaper.signalGroup(b.proc, unix.SIGKILL)
	b.close()
}

// discard ends a runner.
func (s *server) discard(r *runner) {
	if r.bun != nil {
		s.endBun(r.bun)
	}
	closeAll(r.joins)
}

// run makes r run the code of req. The runner is used up, also with an error.
func (s *server) run(r *runner, req *wire.Request) (*execution, error) {
	defer closeAll(r.joins)
	env := s.environment(req.Env)
	if req.Dir == "" {
		req.Dir = r.dir
	}
	b := r.bun
	if b == nil || !b.proc.alive() || req.Dir != r.dir || !slices.Equal(env, r.env) || !r.seen.holds() {
		return s.runFresh(r, env, req)
	}
	b.x.label = req.Label
	if err := b.entry.write(*req.Code); err != nil {
		s.endBun(b)
		return nil, err
	}
	if b.open() != nil {
		return s.runFresh(r, env, req) // it has just died, and has run nothing
	}
	s.follow(b.x, b)
	return b.x, nil
}

// runFresh runs the code of req in a fresh Bun.
func (s *server) runFresh(r *runner, env []string, req *wire.Request) (*execution, error) {
	old := r.bun
	var e *entry
	if old != nil && old.entry.in(req.Dir) {
		e, old.entry = old.entry, nil // it never read it
	}
	if old != nil {
		// Not before the fresh one runs: to give back a Bun's memory takes as long
		// as its start, and the machine may have one core to spare.
		defer s.endBun(old)
	}
	r.env, r.dir = env, req.Dir
	if e == nil {
		var err error
		if e, err = s.newEntry(r.dir); err != nil {
			return nil, err
		}
	}
	b, err := s.startBun(r, newExecution(req), e, *req.Code, true)
	if err != nil {
		return nil, err
	}
	s.follow(b.x, b)
	return b.x, nil
}

// follow makes an execution of b.
func (s *server) follow(x *execution, b *bun) {
	x.streams = b.streams
	s.begin(x, b.proc)
	s.goDo(func() { s.listen(x, b) })
	s.goDo(func() {
		<-b.proc.done
		b.entry.close()
		b.gate.Close()
		s.ended(x)
	})
}

// listen takes what the gate tells. It stops at the first word that makes no
// sense: the process may write what it likes.
func (s *server) listen(x *execution, b *bun) {
	for {
		var word [1]byte
		if n, err := b.gate.Read(word[:]); n != 1 || err != nil {
			return
		}
		switch {
		case word[0] == gateReached && !x.evaluated.Load(): // of a fresh Bun
		case word[0] == gateEvaluated && !x.evaluated.Load():
			x.drain() // who is answered for it has all that was printed before
			x.event(wire.Event{Event: wire.EventEvaluated})
		case word[0] == gateExiting:
			s.exiting(x, b)
			return
		default:
			return
		}
	}
}

// exiting tells of the exit as soon as nothing can follow it: Bun takes 3 ms to
// give its memory back. Its word alone would not do, for Bun prints and runs
// handlers of the program's after it; the kernel says when the process has
// called exit, and with which code.
func (s *server) exiting(x *execution, b *bun) {
	code, ok := awaitExit(b.proc.pid)
	if !ok {
		return // the reaper has the last word
	}
	b.entry.remove()
	x.drain()
	x.event(wire.Event{Event: wire.EventExiting, Pid: b.proc.pid, Code: code})
}
