// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/buntime/buntime/driver/guest/wire"
)

// onMain starts the main process of an ordinary job.
func (s *server) onMain(c *wire.Conn, req *wire.Request, fds []int) {
	x, err := s.startMain(req, fds)
	if err != nil {
		answer(c, failed(err))
		return
	}
	// Before anybody waits for its end, which closes all connections.
	answer(c, wire.Event{Event: wire.EventStarted, Pid: x.proc.pid})
	s.goDo(func() {
		<-x.proc.done
		s.stop(s.mainEnded(x.proc))
	})
}

// startMain starts a process that prints to the first two of fds.
func (s *server) startMain(req *wire.Request, fds []int) (*execution, error) {
	if len(fds) < 2 {
		closeAll(fds)
		return nil, errors.New("a main process needs descriptors for its output")
	}
	defer closeAll(fds[2:])
	stdout, stderr := os.NewFile(uintptr(fds[0]), "stdout"), os.NewFile(uintptr(fds[1]), "stderr")
	defer stdout.Close()
	defer stderr.Close()
	if len(req.Argv) == 0 {
		return nil, errors.New("no command given")
	}
	x := newExecution(req)
	s.mu.Lock()
	err := s.free(req.ID)
	if err == nil && s.main != nil {
		err = errors.New("the main process runs already")
	}
	if err == nil && s.cfg.Exit == nil {
		err = errors.New("this sandbox has no exit file")
	}
	if err == nil {
		s.units[req.ID] = nil
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	p, err := s.start(command{
		argv: req.Argv, env: s.environment(req.Env), dir: startDir(req.Dir), stdout: stdout, stderr: stderr, joins: fds[2:],
	})
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.units, req.ID)
	if err != nil {
		return nil, err
	}
	x.proc, x.startedAt = p, time.Now()
	s.main = x
	return x, nil
}

// mainEnded leaves word of the end and returns why Serve ends.
func (s *server) mainEnded(p *process) error {
	code, sig := p.code()
	b, err := json.Marshal(wire.Exit{Code: code, Signal: sig, At: time.Now().UnixMilli()})
	if err == nil {
		_, err = s.cfg.Exit.Write(b)
	}
	if err != nil {
		return fmt.Errorf("write exit file: %w", err)
	}
	return errMainEnded
}
