// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package api

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/buntime/buntime/frontend"
	"github.com/buntime/buntime/frontend/node"
)

func (s *Server) terminalRoutes(api huma.API) {
	add(api, huma.Operation{
		OperationID: "openTerminal", Method: http.MethodGet, Path: "/sessions/{id}/terminal", Tags: []string{"sessions"},
		Summary: "Open a terminal, or run a command with its input, on a WebSocket",
		Description: "The first byte of a binary message is 0 for input, 1 for output and 2 for standard error, which is apart only with tty=false. A message has at most 128 KB. " +
			"Text messages are JSON: the client sends {\"type\": \"resize\", \"rows\", \"cols\"}, {\"type\": \"signal\", \"signal\"} (to the command's process group) and {\"type\": \"end\"} (of the input), " +
			"and gets {\"type\": \"exit\", \"exitCode\"} last. Another end is said in the reason of the close frame. " +
			"When the connection ends, the command gets SIGHUP, and what runs then yet is killed. " +
			"The session is in use while a command runs that was named, or something that was started in the shell; a shell that waits for its user lets the session become idle, and what is typed wakes it. " +
			"The output is not kept: POST /execute has that.",
		DefaultStatus: http.StatusSwitchingProtocols,
		Responses:     map[string]*huma.Response{"101": {Description: "The WebSocket is open."}},
		Errors:        []int{http.StatusNotFound},
	}, s.openTerminal)
}

type terminalInput struct {
	ID         string   `path:"id" doc:"The session's id."`
	Command    []string `query:"command,explode" doc:"A program and its arguments, one parameter for each; a shell if left out."`
	TTY        bool     `query:"tty" default:"true" doc:"Whether it has a terminal device, or pipes."`
	Rows       int      `query:"rows" minimum:"1" maximum:"65535" default:"24" doc:"The size of the terminal."`
	Cols       int      `query:"cols" minimum:"1" maximum:"65535" default:"80"`
	Env        []string `query:"env,explode" doc:"Variables, each as NAME=value."`
	WorkingDir string   `query:"workingDir" doc:"A directory in the workspace."`
	Upgrade
}

// Upgrade is the part of an input that makes it a WebSocket's.
type Upgrade struct {
	header http.Header
	// protocol is the subprotocol that is agreed on, or "".
	protocol string
}

// Resolve implements huma.Resolver.
func (u *Upgrade) Resolve(ctx huma.Context) []error {
	r, _ := humago.Unwrap(ctx)
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		return []error{frontend.Invalid("Upgrade", "this is a WebSocket, and the request does not ask for one")}
	}
	u.header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}
	for _, name := range []string{"Sec-Websocket-Key", "Sec-Websocket-Version"} {
		u.header[name] = r.Header[name]
	}
	if slices.Contains(subprotocols(r.Header), terminalProtocol) {
		u.protocol = terminalProtocol
	}
	return nil
}

func (s *Server) openTerminal(ctx context.Context, in *terminalInput) (*raw, error) {
	q := url.Values{
		"command": in.Command, "env": in.Env, "tty": {strconv.FormatBool(in.TTY)},
		"rows": {strconv.Itoa(in.Rows)}, "cols": {strconv.Itoa(in.Cols)},
	}
	if err := in.check(q); err != nil {
		return nil, err
	}
	a, err := s.call(ctx, call{
		session: in.ID, within: fileTimeout, late: tooLate(fileTimeout),
		request: node.Request{Method: http.MethodGet, Path: "/v1/terminal", Query: q, Header: in.header},
	})
	if err != nil {
		return nil, err
	}
	conn, ok := a.Body.(io.ReadWriteCloser)
	if a.StatusCode != http.StatusSwitchingProtocols || !ok {
		return a.pass(), nil
	}
	return &raw{func(hc huma.Context) {
		defer a.cancel(nil)
		_, w := humago.Unwrap(hc)
		if in.protocol != "" {
			w.Header().Set("Sec-Websocket-Protocol", in.protocol)
		}
		if out, ok := ctx.Value(writerContext{}).(*writer); ok {
			out.status = http.StatusSwitchingProtocols
			s.record(out) // now, and not when it is closed
		}
		switchTo(ctx, w, a.Response, conn, &s.leaving)
	}}, nil
}

// check refuses what cannot be run, as execute does, and adds the directory.
func (in *terminalInput) check(q url.Values) error {
	for _, word := range in.Command {
		if strings.IndexByte(word, 0) >= 0 {
			return frontend.Invalid("command", "command has a NUL byte")
		}
	}
	env := executeRequest{Env: map[string]string{}}
	for _, v := range in.Env {
		name, value, ok := strings.Cut(v, "=")
		if !ok {
			return frontend.Invalid("env", "env %.100q is not of the form NAME=value", v)
		}
		env.Env[name] = value
	}
	if err := env.checkEnv(); err != nil || in.WorkingDir == "" {
		return err
	}
	dir, err := cleanPath("workingDir", in.WorkingDir)
	q.Set("workingDir", dir)
	return err
}

// switchTo answers a client with a node's 101, and passes bytes on both ways until
// either side closes, or the front-end is to end, which the client is told.
func switchTo(ctx context.Context, w http.ResponseWriter, res *http.Response, inside io.ReadWriteCloser, l *leaving) {
	defer l.enter()()
	defer inside.Close()
	outside, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		logger(ctx).Error("take over a connection", "err", err)
		return
	}
	defer outside.Close()
	_ = outside.SetDeadline(time.Time{}) // those of requests
	head := http.Response{
		StatusCode: res.StatusCode, ProtoMajor: 1, ProtoMinor: 1, Header: w.Header(),
	}
	for _, name := range []string{"Connection", "Upgrade", "Sec-Websocket-Accept"} {
		head.Header[name] = res.Header[name]
	}
	if head.Write(buffered) != nil || buffered.Flush() != nil {
		return
	}
	out := &frames{to: outside}
	done := make(chan struct{}, 2)
	go func() { // ends with the connections, which the other way's end closes
		_, _ = io.Copy(inside, buffered)
		done <- struct{}{}
	}()
	go func() {
		_, _ = io.Copy(out, inside)
		done <- struct{}{}
	}()
	defer context.AfterFunc(l.ctx, func() {
		out.finish(restarting)
		inside.Close()
	})()
	<-done
	inside.Close()
	outside.Close()
	<-done
}
