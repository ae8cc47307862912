// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package mcp

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	buntime "github.com/buntime/buntime/sdk/go"
)

const (
	// progressEvery is how often output is told at most, and stillEvery how often that
	// it still runs.
	progressEvery = 100 * time.Millisecond
	stillEvery    = 10 * time.Second
	// longestProgress is how much of the output one notification has, in bytes.
	longestProgress = 4 << 10
	// killTimeout bounds the end of what was cancelled.
	killTimeout = 20 * time.Second
)

// RunResult is the structured result of execute_code and run_command.
type RunResult struct {
	SessionID     string   `json:"sessionId"`
	Stdout        string   `json:"stdout"`
	Stderr        string   `json:"stderr"`
	ExitCode      int      `json:"exitCode"`
	Reason        string   `json:"reason,omitempty" jsonschema:"why it ended: exit, signal, killed or interrupted"`
	Background    bool     `json:"background" jsonschema:"it keeps running as a server"`
	PID           int      `json:"pid"`
	ExecutionID   string   `json:"executionId"`
	ExecutionTime float64  `json:"executionTime" jsonschema:"in milliseconds"`
	MemoryUsed    int64    `json:"memoryUsed" jsonschema:"at its peak, in bytes"`
	FilesWritten  []string `json:"filesWritten"`
	LeftOut       LeftOut  `json:"leftOut" jsonschema:"bytes cut out of the middle of each stream; the whole is in .buntime/executions/<executionId>/"`
}

// LeftOut counts the bytes that a result has not.
type LeftOut struct {
	Stdout int64 `json:"stdout"`
	Stderr int64 `json:"stderr"`
}

// how is what execute_code and run_command have in common.
type how struct {
	Timeout    int               `json:"timeout,omitempty" jsonschema:"seconds after which it is killed; 30 by default, the account's plan sets the most (30 to 300)"`
	WorkingDir string            `json:"workingDir,omitempty" jsonschema:"a directory in /workspace, which is the default"`
	Env        map[string]string `json:"env,omitempty" jsonschema:"environment variables for this run"`
}

type executeCode struct {
	Code string `json:"code" jsonschema:"a TypeScript or JavaScript module: top-level await works, and so do imports of npm packages and of files in the workspace. Print what you want to see."`
	how
	Session
}

type runCommand struct {
	Command string `json:"command" jsonschema:"a line for a POSIX shell. What is left behind with & keeps running: redirect its output to a file."`
	how
	Session
}

func (t tools) addExecutions() {
	add(t, mcp.Tool{
		Name: "execute_code", Title: "Run TypeScript or JavaScript", Annotations: open(hints(false, true, false)),
		Description: "Run TypeScript or JavaScript with Bun in the session, as a new process in /workspace. Returns what it printed, its exit code and the files it wrote. " +
			"Code that starts a server (Bun.serve) returns once it listens, and the server keeps running. Files and servers stay for later calls; variables do not.",
	}, func(c *call, ctx context.Context, in executeCode) (*answer[RunResult], error) {
		return c.run(ctx, buntime.ExecuteRequest{Code: in.Code}, in.how)
	})
	add(t, mcp.Tool{
		Name: "run_command", Title: "Run a shell command", Annotations: open(hints(false, true, false)),
		Description: "Run a shell command in the session, in /workspace. bun, bunx, node (Bun's) and the usual Unix tools are there. Returns what it printed and its exit code. " +
			"For what takes long, start it with `cmd > log.txt 2>&1 &` and read log.txt later.",
	}, func(c *call, ctx context.Context, in runCommand) (*answer[RunResult], error) {
		return c.run(ctx, buntime.ExecuteRequest{Command: in.Command}, in.how)
	})
}

func (c *call) run(ctx context.Context, r buntime.ExecuteRequest, h how) (*answer[RunResult], error) {
	r.SessionID, r.Timeout, r.WorkingDir, r.Env = c.session, h.Timeout, h.WorkingDir, h.Env
	result, err := c.follow(ctx, r)
	if err != nil {
		return nil, c.failed(err)
	}
	text, out := render(result, c.session)
	switch {
	case result.TimedOut:
		return nil, toldf("call again with a larger timeout (seconds), if the plan allows, or run it in the background: run_command with `cmd > log.txt 2>&1 &`, then read log.txt. Its processes are gone, the files it wrote are there.",
			"%s\nIt was not done after %s and was killed (timeout).", text, duration(result.ExecutionTime))
	case result.Reason == "oom":
		return nil, toldf(advice(&buntime.Error{Code: "memory_limit_exceeded"}, false), "%s\nIt was killed because the session has no more memory (memory_limit_exceeded).", text)
	}
	return &answer[RunResult]{text: text, out: out}, nil
}

// failed adds what an execution had printed to the error that it ended with.
func (c *call) failed(err error) error {
	e, ok := errors.AsType[*buntime.Error](err)
	if !ok {
		return err
	}
	partial := e.Partial()
	if partial == nil {
		return err
	}
	text, _ := render(partial, c.session)
	return toldf(advice(e, false), "%s\n%s (%s)", text, e.Message, e.Code)
}

// follow runs something, tells of its output, and kills it if the call is cancelled.
func (c *call) follow(ctx context.Context, r buntime.ExecuteRequest) (*buntime.Result, error) {
	// Who cancels wants it killed, for which its id is needed; so it is begun in any case.
	running, leave := context.WithCancel(context.WithoutCancel(ctx))
	defer leave()
	started, events := make(chan string, 1), make(chan moment)
	r.Started = func(id string) { started <- id }
	go func() {
		defer close(events)
		for e, err := range c.client.ExecuteStream(running, r) {
			select {
			case events <- moment{e, err}:
			case <-running.Done():
				return
			}
		}
	}()
	p := c.progress(ctx)
	defer p.stop()
	for {
		select {
		case m, ok := <-events:
			switch {
			case !ok:
				return nil, errors.New("the events of the execution have no end")
			case m.err != nil:
				return nil, m.err
			case m.event.Result != nil:
				p.last()
				return m.event.Result, nil
			}
			p.add(strings.ToValidUTF8(m.event.Data, "\ufffd"))
		case <-p.due():
			p.flush()
		case <-ctx.Done():
			return nil, c.abandon(running, r.SessionID, started, events)
		case <-c.cancelled:
			return nil, c.abandon(running, r.SessionID, started, events)
		}
	}
}

// moment is what a stream of events brings.
type moment struct {
	event buntime.Event
	err   error
}

// abandon kills what was cancelled and waits for its end.
func (c *call) abandon(ctx context.Context, session string, started <-chan string, events <-chan moment) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout, errors.New("the cancelled execution could not be killed in time"))
	defer cancel()
	cancelled := told("The call was cancelled, and what it ran was killed.")
	for {
		select {
		case id := <-started:
			if err := kill(ctx, c.client, session, id); err != nil {
				return err
			}
		case m, ok := <-events:
			if !ok || m.err != nil || m.event.Result != nil {
				return cancelled
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// kill ends all processes of an execution.
func kill(ctx context.Context, client *buntime.Client, session, execution string) error {
	processes, err := client.Processes(ctx, session)
	if err != nil {
		return err
	}
	for _, p := range processes {
		if p.ExecutionID != execution {
			continue
		}
		if _, err := client.Kill(ctx, session, p.PID, ""); err != nil {
			return err
		}
	}
	return nil
}

// progress tells the client of output as it comes, if it has asked for that.
type progress struct {
	call  *call
	ctx   context.Context
	token any
	begin time.Time
	text  strings.Builder
	left  int
	timer *time.Timer
}

func (c *call) progress(ctx context.Context) *progress {
	p := &progress{call: c, ctx: ctx, token: c.request.Params.GetProgressToken(), begin: time.Now()}
	if p.token != nil {
		p.timer = time.NewTimer(stillEvery)
	}
	return p
}

func (p *progress) due() <-chan time.Time {
	if p.timer == nil {
		return nil
	}
	return p.timer.C
}

func (p *progress) stop() {
	if p.timer != nil {
		p.timer.Stop()
	}
}

func (p *progress) add(text string) {
	if p.timer == nil {
		return
	}
	if p.text.Len() == 0 {
		p.timer.Reset(progressEvery)
	}
	if room := longestProgress - p.text.Len(); len(text) > room {
		p.left += len(text) - room
		text = text[:room]
	}
	p.text.WriteString(text)
}

// last tells what has come, if anything has.
func (p *progress) last() {
	if p.text.Len() > 0 {
		p.flush()
	}
}

// flush tells what has come since the last time, or that it still runs.
func (p *progress) flush() {
	if p.timer == nil {
		return
	}
	text := strings.ToValidUTF8(p.text.String(), "")
	if p.left > 0 {
		text += "…"
	}
	// Who does not get it misses nothing of the result. Progress has to grow: it is time.
	_ = p.call.request.Session.NotifyProgress(p.ctx, &mcp.ProgressNotificationParams{
		ProgressToken: p.token, Progress: time.Since(p.begin).Seconds(), Message: text,
	})
	p.text.Reset()
	p.left = 0
	p.timer.Reset(stillEvery)
}
