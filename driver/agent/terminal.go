// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"golang.org/x/sys/unix"

	"github.com/buntime/buntime/driver/guest/wire"
	"github.com/buntime/buntime/driver/sandbox"
)

// A terminal is a command with its input and output on a WebSocket. The first byte of
// a binary message says what the rest is; a text message is a JSON terminalWord.
const (
	terminalStdin  = 0
	terminalStdout = 1 // all output, if there is a terminal device
	terminalStderr = 2
)

// terminalWord is what is said beside input and output. From the client: "resize" with
// Rows and Cols, "signal" with Signal, to the command's process group, and "end": no
// more input. To the client: "exit", the last, with ExitCode.
type terminalWord struct {
	Type     string          `json:"type"`
	Rows     int             `json:"rows,omitempty"`
	Cols     int             `json:"cols,omitempty"`
	Signal   json.RawMessage `json:"signal,omitempty"`
	ExitCode *int            `json:"exitCode,omitempty"`
}

const (
	// sessionTerminals is how many a session may have at a time: each holds a
	// connection and up to some 500 KB of the plugin's memory.
	sessionTerminals = 16
	// maxTerminalMessage is in bytes, of a message from the client.
	maxTerminalMessage = 128 << 10
	// terminalHangUp is what a command has to end in whose terminal is gone.
	terminalHangUp = 2 * time.Second
	// terminalLook is how often it is looked whether something runs in a terminal.
	terminalLook = time.Second
	// terminalAlive is how often a silent connection has traffic all the same:
	// proxies cut those that have none, often after a minute.
	terminalAlive = 10 * time.Second
	// terminalWrite is how long a client may take nothing of a last word.
	terminalWrite = time.Second
	// maxReason is what a close frame has room for, in bytes.
	maxReason = 123
)

// shell is what runs if no command is named.
var shell = []string{"/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash; else exec sh -i; fi"}

var (
	errInterrupted = errors.New("the session is put to sleep; a new terminal wakes it")
	errWentToSleep = errors.New("the session went to sleep; a new terminal wakes it")
	errHungUp      = errors.New("the client is gone")
)

// terminal is one of a session's.
type terminal struct {
	s     *Session
	tty   bool
	shell bool // waits for its user when nothing else runs in it
	guest *guest
	group sandbox.Unit
	conn  *websocket.Conn

	// end ends it, with what the client is told.
	end context.CancelCauseFunc
	// leave is nil while the terminal is no use of the session.
	leave func()
}

// serveTerminal answers GET /v1/terminal, a WebSocket.
//
// The session is in use while a command runs that was named, and, with a shell, while
// something runs in that. A shell that waits for its user is none: what is typed and
// printed counts, so that the session may become idle, from which typing wakes it.
func (s *Session) serveTerminal(w http.ResponseWriter, r *http.Request) error {
	select {
	case s.terminals <- struct{}{}:
		defer func() { <-s.terminals }()
	default:
		return unavailable("the session has %d terminals, as many as there may be; close one", sessionTerminals)
	}
	leave, err := s.life.use("terminal")
	if err != nil {
		return notAwake(err)
	}
	t := &terminal{s: s, leave: leave}
	defer func() { t.use(false) }()
	ctx, end := context.WithCancelCause(s.ctx)
	defer end(nil)
	t.end = end
	over, err := s.addTerminal(t)
	if err != nil {
		return err
	}
	defer over()
	if err := t.start(r.Context(), r.URL.Query()); err != nil {
		return err
	}
	defer t.remove()
	t.conn, err = websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true}) // the token was right
	if err != nil {
		return nil //nolint:nilerr // it has answered
	}
	t.conn.SetReadLimit(maxTerminalMessage)
	t.run(ctx)
	return nil
}

// addTerminal makes t known until over is called, which the end of the session on this
// node waits for.
func (s *Session) addTerminal(t *terminal) (over func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, errGone
	}
	s.tasks.Add(1)
	s.open[t] = struct{}{}
	return func() {
		s.mu.Lock()
		delete(s.open, t)
		s.mu.Unlock()
		s.tasks.Done()
	}, nil
}

// closeTerminals ends all terminals: the session is put to sleep by force.
func (s *Session) closeTerminals() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for t := range s.open {
		t.end(errInterrupted)
	}
}

// start starts the command that q asks for.
func (t *terminal) start(ctx context.Context, q url.Values) error {
	t.tty, t.shell = q.Get("tty") != "false", len(q["command"]) == 0
	dir, err := t.s.prepareWorkspace(&ExecuteRequest{WorkingDir: q.Get("workingDir")})
	if err != nil {
		return err
	}
	req := wire.Request{Op: wire.OpExec, ID: newUnit(execUnit), Argv: q["command"], TTY: t.tty, Stdin: true, Dir: dir, Env: map[string]string{}}
	if t.shell {
		req.Argv = shell
	}
	for _, v := range q["env"] {
		name, value, _ := strings.Cut(v, "=")
		req.Env[name] = value
	}
	if t.group, err = t.s.box.Units().New(req.ID); err != nil {
		return unavailable("start the command: %v", err)
	}
	if t.guest, err = t.s.guest.requestIn(ctx, req, t.group); err == nil {
		var ev wire.Event
		if ev, err = t.guest.event(ctx); err == nil && ev.Event != wire.EventStarted {
			err = invalid("command", "start the command: %s", ev.Error)
		}
	}
	if err != nil {
		t.remove()
		if _, ok := errors.AsType[*Error](err); !ok {
			err = unavailable("start the command: %v", err)
		}
		return err
	}
	rows, _ := strconv.Atoi(q.Get("rows"))
	cols, _ := strconv.Atoi(q.Get("cols"))
	t.resize(rows, cols)
	return nil
}

// remove ends what still runs.
func (t *terminal) remove() {
	if t.guest != nil {
		t.guest.Close()
	}
	t.s.remove(t.group)
}

// run passes input and output on until either side ends, or ctx.
func (t *terminal) run(ctx context.Context) {
	// Not ctx: when a Read's ends the connection is cut, and there is a last word to say.
	reading, stop := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	defer tasks.Wait()
	defer stop()
	defer func() { _ = t.conn.CloseNow() }()

	tasks.Go(func() { t.end(t.receive(reading)) })
	tasks.Go(func() { t.keepAlive(reading) })
	ended := make(chan error, 1)
	code := 0
	tasks.Go(func() {
		ended <- t.guest.stream(func(st stream, p []byte) { t.print(reading, st, p) }, func(ev wire.Event) bool {
			code = ev.Code
			return ev.Event == wire.EventExited
		})
	})
	defer t.guest.Close()

	err := t.attend(ctx, ended)
	if err == nil {
		t.tell(terminalWord{Type: "exit", ExitCode: &code})
	}
	t.use(false) // before the client says that it has understood
	t.bye(err)
}

// attend waits for the end of the command, nil, or of the terminal.
func (t *terminal) attend(ctx context.Context, ended <-chan error) error {
	look := time.NewTicker(terminalLook)
	defer look.Stop()
	for {
		select {
		case err := <-ended:
			if err != nil { // init is gone
				return t.over(errEnded)
			}
			return nil
		case <-look.C:
			t.look()
		case <-ctx.Done():
			t.hangUp(ended)
			return t.over(context.Cause(ctx))
		}
	}
}

// over is err, or that the session went to sleep, after which it ends here as well.
func (t *terminal) over(err error) error {
	if errors.Is(err, errEnded) && t.s.life.slept() {
		return errWentToSleep
	}
	return err
}

// look makes the terminal a use of the session as long as something runs in it.
func (t *terminal) look() {
	if t.s.life.resting() {
		return // nothing runs
	}
	busy := !t.shell || !t.tty
	if !busy {
		pids, err := t.group.Pids()
		busy = err == nil && len(pids) > 1
	}
	t.use(busy)
}

// use makes the terminal a use of the session, or takes that back.
func (t *terminal) use(wanted bool) {
	switch {
	case wanted && t.leave == nil:
		t.leave, _ = t.s.life.useMore("terminal") // asleep: what runs ends by itself
	case !wanted && t.leave != nil:
		t.leave()
		t.leave = nil
	}
}

// hangUp tells the command that its terminal is gone, and gives it some time to end.
func (t *terminal) hangUp(ended <-chan error) {
	t.use(true) // what stands still does not hear it
	// Input may be waiting for a command that does not read. Init does the same to
	// who loses the connection, which is what comes of it then.
	_ = t.guest.SetWriteDeadline(time.Now().Add(terminalWrite))
	if t.guest.sendJSON(wire.KindSignal, wire.Signal{Signal: int(unix.SIGHUP)}) != nil {
		return
	}
	select {
	case <-ended: //nolint:errcheck // it has, in whatever way
	case <-time.After(terminalHangUp):
	}
}

// receive passes on what the client sends, and returns why it does not any more.
func (t *terminal) receive(ctx context.Context) error {
	for {
		kind, p, err := t.conn.Read(ctx)
		if err != nil {
			return errHungUp
		}
		if t.s.life.touch() != nil {
			continue // asleep: the command is over, which is found elsewhere
		}
		switch {
		case kind == websocket.MessageText:
			err = t.obey(p)
		case len(p) < 1 || p[0] != terminalStdin:
			err = errors.New("a binary message begins with a 0, for input")
		default:
			for p = p[1:]; err == nil && len(p) > 0; p = p[min(len(p), wire.MaxData):] {
				if t.guest.Write(wire.KindStdin, p[:min(len(p), wire.MaxData)]) != nil {
					return errHungUp // the command is over, which is found elsewhere
				}
			}
		}
		if err != nil {
			return badMessage{err}
		}
	}
}

// badMessage is a client that does not speak as it should.
type badMessage struct{ error }

func (t *terminal) obey(p []byte) error {
	var word terminalWord
	if err := json.Unmarshal(p, &word); err != nil {
		return fmt.Errorf("parse message: %w", err)
	}
	switch word.Type {
	case "resize":
		t.resize(word.Rows, word.Cols)
	case "end":
		_ = t.guest.Write(wire.KindStdin, nil) // fails when the command is over
	case "signal":
		sig, err := parseSignal(word.Signal)
		if err != nil || sig == 0 {
			return fmt.Errorf("signal %s is unknown", word.Signal)
		}
		_ = t.guest.sendJSON(wire.KindSignal, wire.Signal{Signal: int(sig)}) // the same
	default:
		return fmt.Errorf("message of type %q is unknown", word.Type)
	}
	return nil
}

// resize tells the terminal its size, if that is one.
func (t *terminal) resize(rows, cols int) {
	const most = 1<<16 - 1
	if t.tty && rows > 0 && cols > 0 && rows <= most && cols <= most {
		_ = t.guest.sendJSON(wire.KindResize, wire.Size{Rows: uint16(rows), Cols: uint16(cols)}) // fails when the command is over
	}
}

// print sends output to the client, at its pace. It is activity.
func (t *terminal) print(ctx context.Context, s stream, p []byte) {
	_ = t.s.life.touch() // asleep: it is over
	message := append(make([]byte, 0, len(p)+1), terminalStdout)
	if s == stderr {
		message[0] = terminalStderr
	}
	// A client that is gone is found by receive.
	_ = t.conn.Write(ctx, websocket.MessageBinary, append(message, p...))
}

func (t *terminal) tell(word terminalWord) {
	body, _ := json.Marshal(word) // a struct of plain fields
	ctx, cancel := context.WithTimeout(context.Background(), terminalWrite)
	defer cancel()
	_ = t.conn.Write(ctx, websocket.MessageText, body)
}

// keepAlive has the connection look alive to who is in between, and finds a client
// that is gone while its input waits for the command to read. Whether it answers is not
// looked at: it may be stopped for as long as its user likes.
func (t *terminal) keepAlive(ctx context.Context) {
	tick := time.NewTicker(terminalAlive)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			once, cancel := context.WithTimeout(ctx, terminalAlive/2)
			err := t.conn.Ping(once)
			late := once.Err() != nil
			cancel()
			if err != nil && !late {
				t.end(errHungUp)
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// bye tells the client why the terminal is over; nil is that the command is.
func (t *terminal) bye(err error) {
	status, reason := websocket.StatusGoingAway, ""
	if bad, ok := errors.AsType[badMessage](err); ok {
		status, reason = websocket.StatusPolicyViolation, bad.Error()
	} else if err == nil {
		status = websocket.StatusNormalClosure
	} else {
		reason = err.Error()
	}
	said := make(chan struct{})
	go func() { // ends when run has closed the connection
		defer close(said)
		_ = t.conn.Close(status, reason[:min(len(reason), maxReason)])
	}()
	select {
	case <-said:
	case <-time.After(terminalWrite):
	}
}
