// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
)

func (a *app) newExec() *cobra.Command {
	var flags executeFlags
	var code, file, dir string
	var tty bool
	cmd := &cobra.Command{
		Use:   "exec SESSION [-- COMMAND...]",
		Short: "Run a command, or code, in a session",
		Long: `Run a command, or code, in a session. Its output comes as it is printed, and its
exit code is that of buntime. One word is a line for a shell; several are a
program and its arguments.

A connection that breaks is made again, and nothing of the output is lost or
comes twice. Ctrl-C kills what runs. With -i it has standard input, and with -t
a terminal too; both end with the connection.`,
		Example: `  buntime exec ses_abc -- bun test
  buntime exec ses_abc 'ls | wc -l'
  buntime exec ses_abc --code 'console.log(6 * 7)'
  buntime exec ses_abc -f script.ts
  cat data.csv | buntime exec -i ses_abc -- sort -u
  buntime exec -it ses_abc -- vi notes.txt`,
		Args: atLeast(1), ValidArgsFunction: a.completeSession(false, ""),
		Annotations: map[string]string{passesCode: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := a.executeRequest(flags)
			if err != nil {
				return err
			}
			words := args[1:]
			chosen := 0
			for _, is := range []bool{len(words) > 0, code != "", file != ""} {
				if is {
					chosen++
				}
			}
			if chosen != 1 {
				return usagef("say what to run: a command behind --, or --code, or -f")
			}
			if file != "" {
				text, err := a.readFile(file)
				if err != nil {
					return err
				}
				code = string(text)
			}
			r.SessionID, r.Code, r.WorkingDir = args[0], code, dir
			c, err := a.client()
			if err != nil {
				return err
			}
			if flags.input || tty {
				if code != "" || r.Timeout != 0 || a.format == formatJSON {
					return usagef("-i and -t take a command, and neither --code, -f, --timeout nor -o json")
				}
				if len(words) == 1 {
					words = []string{"sh", "-c", words[0]}
				}
				return a.attach(cmd.Context(), c, args[0], buntime.TerminalRequest{Command: words, Pipes: !tty, Env: r.Env, WorkingDir: dir})
			}
			if r.Command = quote(words); len(words) == 1 {
				r.Command = words[0]
			}
			if a.format == formatJSON {
				return a.executeJSON(cmd, c, r)
			}
			last, err := a.execute(cmd.Context(), c, r)
			if err == nil && last.Result.Background {
				fmt.Fprintf(a.Err, "buntime: it goes on in the background; see it with buntime logs -f %s\n", args[0])
			}
			return err
		},
	}
	flags.register(cmd)
	cmd.Flags().StringVar(&code, "code", "", "a TypeScript or JavaScript module instead of a command")
	cmd.Flags().StringVarP(&file, "file", "f", "", "a file of here with such a module; - for standard input")
	cmd.Flags().StringVarP(&dir, "workdir", "w", "", "a directory in the workspace to run in")
	cmd.Flags().BoolVarP(&tty, "tty", "t", false, "with a terminal device")
	return cmd
}

// executeJSON prints the whole result when it is there.
func (a *app) executeJSON(cmd *cobra.Command, c *buntime.Client, r buntime.ExecuteRequest) error {
	out, err := c.Execute(cmd.Context(), r)
	if err != nil {
		return a.outOfMemory(err)
	}
	if err := a.print(out, nil); err != nil {
		return err
	}
	if out.ExitCode != 0 {
		return exited(out.ExitCode)
	}
	return nil
}

func (a *app) newShell() *cobra.Command {
	var env []string
	var dir string
	cmd := &cobra.Command{
		Use: "shell SESSION", Aliases: []string{"sh"},
		Short: "Open a shell in a session",
		Long: `Open a shell in a session, with a terminal of this one's size. A session that
sleeps wakes. While something runs in the shell the session stays awake; a shell
that waits for you lets it become idle, and the next key has it going again.
Enter ~ . ends it, as with ssh. What runs in it ends with it.`,
		Example: `  buntime shell ses_abc`,
		Args:    exactly(1), ValidArgsFunction: a.completeSession(false, ""),
		Annotations: map[string]string{passesCode: "yes"},
		RunE: func(cmd *cobra.Command, args []string) error {
			variables, err := a.environment(env)
			if err != nil {
				return err
			}
			if _, ok := terminal(a.In); !ok {
				return errors.New("a shell wants a terminal, which standard input is not; use buntime exec -i " + args[0] + " -- sh")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.attach(cmd.Context(), c, args[0], buntime.TerminalRequest{Env: variables, WorkingDir: dir})
		},
	}
	cmd.Flags().StringArrayVarP(&env, "env", "e", nil, "NAME=VALUE, or NAME for the one of here; may come often")
	cmd.Flags().StringVarP(&dir, "workdir", "w", "", "a directory in the workspace to begin in")
	return cmd
}
