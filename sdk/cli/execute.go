// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
)

// cleanUp is what has to be done within after an interrupt.
const cleanUp = 15 * time.Second

// executeFlags are those of run and exec.
type executeFlags struct {
	env     []string
	timeout string
	input   bool
}

func (f *executeFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringArrayVarP(&f.env, "env", "e", nil, "NAME=VALUE, or NAME for the one of here; may come often")
	cmd.Flags().StringVar(&f.timeout, "timeout", "", "how long it may take, as 90s or 5m; the session's if left out")
	cmd.Flags().BoolVarP(&f.input, "interactive", "i", false, "pass standard input on; a cut connection ends it then")
}

// environment reads the variables.
func (a *app) environment(texts []string) (map[string]string, error) {
	out := make(map[string]string, len(texts))
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok {
			value = a.Getenv(name)
		}
		if name == "" {
			return nil, usagef("--env: %q has no name", text)
		}
		out[name] = value
	}
	return out, nil
}

func (a *app) executeRequest(f executeFlags) (r buntime.ExecuteRequest, err error) {
	if r.Env, err = a.environment(f.env); err != nil {
		return r, err
	}
	if f.timeout != "" {
		if r.Timeout, err = seconds(f.timeout); err != nil {
			return r, usagef("--timeout: %w", err)
		}
	}
	return r, nil
}

// execute runs r with its output as it comes, and returns as an error what it came to:
// nil, or its exit code. An interrupt kills it.
func (a *app) execute(ctx context.Context, c *buntime.Client, r buntime.ExecuteRequest) (last buntime.Event, err error) {
	id := ""
	r.Started = func(execution string) { id = execution }
	last, err = a.follow(c.ExecuteStream(ctx, r))
	last.ExecutionID = first(last.ExecutionID, id) // it may have printed nothing
	switch {
	case ctx.Err() != nil:
		a.kill(ctx, c, r.SessionID, last.ExecutionID)
		return last, context.Cause(ctx)
	case err != nil:
		return last, a.outOfMemory(err)
	}
	return last, a.result(last.Result)
}

// follow writes events to standard output and standard error, byte for byte.
func (a *app) follow(events iter.Seq2[buntime.Event, error]) (last buntime.Event, err error) {
	for e, err := range events {
		if err != nil {
			return last, err
		}
		id := last.ExecutionID
		last = e
		if last.ExecutionID == "" {
			last.ExecutionID = id
		}
		to := a.Out
		if e.Stream == "stderr" {
			to = a.Err
		}
		if _, err := io.WriteString(to, e.Data); err != nil {
			return last, writing(err)
		}
	}
	return last, nil
}

// writing is an error of standard output: who reads it no more is no failure of ours.
func writing(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return signalled(syscall.SIGPIPE)
	}
	return fmt.Errorf("write output: %w", err)
}

// result says what an execution came to.
func (a *app) result(r *buntime.Result) error {
	switch {
	case r == nil:
		return errors.New("the execution has no result")
	case r.TimedOut:
		fmt.Fprintln(a.Err, "buntime: it took too long, and was ended; --timeout gives it more time")
	case r.Reason == "killed" || r.Reason == "interrupted":
		fmt.Fprintln(a.Err, "buntime: it was ended from outside:", r.Reason)
	}
	if r.ExitCode != 0 {
		return exited(r.ExitCode)
	}
	return nil
}

// codeKilled is the exit code of who was killed, as for want of memory.
const codeKilled = exitSignals + int(syscall.SIGKILL)

// outOfMemory makes that error the end of code, which it is.
func (a *app) outOfMemory(err error) error {
	if !buntime.Is(err, "memory_limit_exceeded") {
		return err
	}
	fmt.Fprintln(a.Err, "buntime:", clean(err.Error()))
	return exited(codeKilled)
}

// kill ends an execution whose output nobody reads any more.
func (a *app) kill(ctx context.Context, c *buntime.Client, session, execution string) {
	if execution == "" {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	list, err := c.Processes(ctx, session)
	for _, p := range list {
		if p.ExecutionID == execution && err == nil {
			_, err = c.Kill(ctx, session, p.PID, "")
		}
	}
	if err != nil && !buntime.Is(err, "session_not_found") {
		fmt.Fprintln(a.Err, "buntime: the execution may run on:", clean(err.Error()))
	}
}

// attach runs a command with its input. With a terminal device it has this one.
func (a *app) attach(ctx context.Context, c *buntime.Client, session string, r buntime.TerminalRequest) error {
	in := a.In
	if !r.Pipes {
		restore, err := a.rawTerminal(&r)
		if err != nil {
			return err
		}
		defer restore()
		in = &escape{Reader: a.In}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	t, err := c.Terminal(ctx, session, r)
	if err != nil {
		return err
	}
	defer t.Close()
	if !r.Pipes {
		defer a.watchSize(ctx, t)()
	}
	go func() { // ends with the connection, or with the process: nobody can take a read back
		_, err := io.Copy(t, in)
		switch {
		case errors.Is(err, errEscaped):
			cancel(errEscaped)
		case err == nil:
			_ = t.CloseInput() // fails when the command is over
		}
	}()
	code, err := t.Copy(a.Out, a.Err)
	switch {
	case errors.Is(context.Cause(ctx), errEscaped):
		return errEscaped
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return writingOr(err)
	case code != 0:
		return exited(code)
	}
	return nil
}

func writingOr(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return writing(err)
	}
	return err
}

// readFile reads a file of here, or standard input for -.
func (a *app) readFile(name string) ([]byte, error) {
	if name == "-" {
		text, err := io.ReadAll(a.In)
		if err != nil {
			return nil, fmt.Errorf("read standard input: %w", err)
		}
		return text, nil
	}
	return os.ReadFile(name)
}

// quote makes words a line for a shell that is these words.
func quote(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = w
		if w == "" || strings.Trim(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:=@,+%") != "" {
			out[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
		}
	}
	return strings.Join(out, " ")
}
