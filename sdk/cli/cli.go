// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

// Package cli is the command line, buntime.
//
// What a session says is hostile. Names, paths, commands and metadata are
// printed without their control characters (clean); the output of programs is
// printed as it is, as ssh and docker do: it is what the user asked to see, and
// a full-screen program cannot do without its escape sequences.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

// Std is what a command line reads and writes.
type Std struct {
	In       io.Reader
	Out, Err io.Writer
	// Getenv reads the environment.
	Getenv func(string) string

	retryDelay time.Duration // the client's own if 0
}

// app is what all commands share.
type app struct {
	Std
	settings
	format string // of answers: table or json
	rate   rate
}

// New makes the command tree.
func New(std Std) *cobra.Command { return newRoot(&app{Std: std}) }

func newRoot(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "buntime",
		Short: "Use isolated Bun sessions from a terminal",
		Long: `Use isolated Bun sessions from a terminal.

The API's address and the key come from --url and --key, from BUNTIME_BASE_URL
and BUNTIME_API_KEY, or from what buntime login has kept, in this order.

Exit codes: that of the code with run, exec and shell, where 124 is a time-out,
128 and the signal's number a death by signal, and 125 says that buntime itself
could not do it. Other commands: 1 if it could not be done, 2 if the command
line makes no sense.`,
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.format != formatTable && a.format != formatJSON {
				return usageError{fmt.Errorf("the output %q is neither table nor json", a.format)}
			}
			return nil
		},
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&a.flagURL, "url", "", "address of the API (BUNTIME_BASE_URL)")
	f.StringVar(&a.flagKey, "key", "", "API key; other users of this machine can see it here, better use BUNTIME_API_KEY")
	f.StringVarP(&a.format, "output", "o", formatTable, "table or json: the API's own words")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formatTable, formatJSON}, cobra.ShellCompDirectiveNoFileComp))
	root.AddCommand(
		a.newRun(), a.newSessions(), a.newExec(), a.newShell(), a.newCp(), a.newLogs(), a.newOpen(), a.newTop(), a.newKeys(),
		a.newMCP(), a.newLogin(), a.newLogout(),
	)
	return root
}

// The exit codes of what is no code's own.
const (
	exitFailed  = 1
	exitUsage   = 2
	exitOwn     = 125 // of run, exec and shell
	exitSignals = 128 // and the signal
)

// Main runs a command line and returns its exit code.
func Main(args []string, std Std) int {
	ctx, stop := interrupted(context.Background())
	defer stop()
	root := New(std)
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	return exitCode(std, cmd, err)
}

// interrupted is done with the first signal that ends buntime, as its cause. The second
// ends it at once. A pipe that is read no more is an error of writing, and no signal.
func interrupted(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Ignore(syscall.SIGPIPE)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() {
		defer signal.Stop(signals)
		select {
		case s := <-signals:
			cancel(signalled(s.(syscall.Signal)))
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

// exitCode says what came of a command, on standard error if that is needed.
func exitCode(std Std, cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[exited](err); ok {
		return int(e)
	}
	if e, ok := errors.AsType[signalled](err); ok {
		return exitSignals + int(e)
	}
	fmt.Fprintln(std.Err, "buntime:", clean(explain(err)))
	usage := isUsage(err)
	if usage {
		fmt.Fprintf(std.Err, "See %s --help.\n", cmd.CommandPath())
	}
	switch {
	case cmd.Annotations[passesCode] != "":
		return exitOwn
	case usage:
		return exitUsage
	}
	return exitFailed
}

// passesCode marks commands whose exit code is that of the code they run.
const passesCode = "passes the exit code of code"

// exited is the end of a command whose code has ended with that exit code, and has
// said itself what there is to say.
type exited int

func (e exited) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// signalled is the end by a signal to buntime.
type signalled syscall.Signal

func (s signalled) Error() string { return syscall.Signal(s).String() }

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }
