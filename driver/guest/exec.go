// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package guest

import (
	"encoding/json"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
)

const (
	// hangUpPatience is what a command has to end in once its connection is gone.
	hangUpPatience = 5 * time.Second
	// stdinQueue is how many frames of input wait for a command that does not
	// read. More are left in the socket.
	stdinQueue = 16
	// hungUpEvery is how often the connection is looked at while its frames are
	// left there: that it closed cannot be read then.
	hungUpEvery = time.Second
	// terminalPatience bounds the wait for the end of a terminal's output, which
	// passes through a queue of the kernel's. Something in the background may
	// hold the terminal open.
	terminalPatience = 100 * time.Millisecond
)

// session is a command with its input and output on a connection.
type session struct {
	s       *server
	conn    *wire.Conn
	proc    *process
	streams []*stream
	// stdin is where input goes: a pipe or the terminal; nil where none will come.
	stdin    *os.File
	input    chan []byte
	terminal *os.File // nil without
}

func (s *server) onExec(c *wire.Conn, req *wire.Request, joins []int) {
	e, err := s.startExec(c, req, joins)
	if err != nil {
		answer(c, failed(err))
		return
	}
	answer(c, wire.Event{Event: wire.EventStarted, Pid: e.proc.pid})
	_ = c.SetWriteDeadline(time.Time{}) // see pass
	for _, st := range e.streams {
		s.goDo(st.pump)
	}
	if e.stdin != nil {
		s.goDo(e.feed)
	}
	s.goDo(e.finish)
	e.read()
	if e.proc.alive() {
		s.reaper.signalGroup(e.proc, unix.SIGHUP)
		select {
		case <-e.proc.done:
		case <-time.After(hangUpPatience):
			s.reaper.signalGroup(e.proc, unix.SIGKILL) // finish waits for the end
		}
	}
}

// startExec starts the command of req.
func (s *server) startExec(c *wire.Conn, req *wire.Request, joins []int) (_ *session, err error) {
	defer closeAll(joins)
	if len(req.Argv) == 0 {
		return nil, errors.New("no command given")
	}
	e := &session{s: s, conn: c, input: make(chan []byte, stdinQueue)}
	cmd := command{argv: req.Argv, env: s.environment(req.Env), dir: startDir(req.Dir), joins: joins, tty: req.TTY}
	var theirs []*os.File
	if req.TTY {
		theirs, err = e.openTerminal(&cmd)
	} else {
		theirs, err = e.openPipes(&cmd, req.Stdin)
	}
	if err == nil {
		e.proc, err = s.start(cmd)
	}
	for _, f := range theirs {
		f.Close()
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// openPipes gives the command pipes and returns the ends that are the command's.
func (e *session) openPipes(cmd *command, stdin bool) (theirs []*os.File, err error) {
	if stdin {
		if cmd.stdin, e.stdin, err = pipe(1); err != nil {
			return theirs, err
		}
		theirs = append(theirs, cmd.stdin)
	}
	for _, out := range []struct {
		kind wire.Kind
		file **os.File
	}{{wire.KindStdout, &cmd.stdout}, {wire.KindStderr, &cmd.stderr}} {
		st, w, err := newPipe(out.kind, e.pass)
		if err != nil {
			return theirs, err
		}
		*out.file = w
		theirs = append(theirs, w)
		e.streams = append(e.streams, st)
	}
	return theirs, nil
}

// openTerminal gives the command a new terminal.
func (e *session) openTerminal(cmd *command) (theirs []*os.File, err error) {
	main, sub, err := openTerminal(e.s.cfg.UID)
	if err != nil {
		return nil, err
	}
	cmd.stdin, cmd.stdout, cmd.stderr = sub, sub, sub
	theirs = append(theirs, sub)
	st, err := newStream(wire.KindStdout, main, e.pass)
	if err != nil {
		main.Close()
		return theirs, err
	}
	e.terminal, e.stdin, e.streams = main, main, []*stream{st}
	return theirs, nil
}

// close lets go of a command that did not start.
func (e *session) close() {
	for _, st := range e.streams {
		st.file.Close()
	}
	if e.stdin != nil {
		e.stdin.Close()
	}
}

// pass sends output on, at the pace of the reader: a terminal may be stopped for
// as long as its user likes. That nobody reads any more shows in read.
func (e *session) pass(kind wire.Kind, buf []byte) { _ = e.conn.WriteInPlace(kind, buf) }

// read takes frames until the connection ends.
func (e *session) read() {
	defer close(e.input)
	ended := false // the input
	for {
		f, err := e.conn.Read()
		if err != nil {
			return
		}
		f.CloseFDs()
		switch f.Kind {
		case wire.KindStdin:
			if e.stdin == nil || ended {
				break
			}
			ended = len(f.Payload) == 0
			if !e.queue(append([]byte(nil), f.Payload...)) {
				return
			}
		case wire.KindResize:
			var size wire.Size
			if e.terminal != nil && json.Unmarshal(f.Payload, &size) == nil {
				resize(e.terminal, size)
			}
		case wire.KindSignal:
			e.s.signalFirst(e.proc, f.Payload)
		}
	}
}

// queue hands input to feed. It is false when the connection is gone.
func (e *session) queue(p []byte) bool {
	for {
		select {
		case e.input <- p:
			return true
		case <-e.proc.done:
			return true // nobody reads it
		case <-time.After(hungUpEvery):
			if e.conn.HungUp() {
				return false
			}
		}
	}
}

// feed writes input until its end, an empty piece, or the command's.
func (e *session) feed() {
	for p := range e.input {
		switch {
		case len(p) > 0:
			_, _ = e.stdin.Write(p) // fails when nobody will read it
		case e.terminal != nil:
			_, _ = e.stdin.Write([]byte{4}) // what Ctrl-D types
		default:
			e.stdin.Close()
		}
	}
	if e.terminal == nil {
		e.stdin.Close()
	}
}

// finish passes on the end of the command, and what it printed before.
func (e *session) finish() {
	<-e.proc.done
	if e.terminal != nil {
		select {
		case <-e.streams[0].done:
		case <-time.After(terminalPatience):
		}
	} else if e.stdin != nil {
		e.stdin.Close() // feed may wait for somebody to read
	}
	for _, st := range e.streams {
		st.drain()
		st.file.Close() // what stays in the background prints to nobody
	}
	code, sig := e.proc.code()
	_ = e.conn.WriteJSON(wire.KindEvent, wire.Event{Event: wire.EventExited, Pid: e.proc.pid, Code: code, Signal: sig})
	_ = lastWord(e.conn)
}
