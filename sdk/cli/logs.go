// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"time"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
)

// history is where a session keeps its executions.
const history = ".buntime/executions"

// ran is an execution of a session's history.
type ran struct {
	ExecutionID string    `json:"executionId"`
	Modified    time.Time `json:"modified"`
}

func (a *app) newLogs() *cobra.Command {
	var follow, list bool
	cmd := &cobra.Command{
		Use:   "logs SESSION [EXECUTION]",
		Short: "Show the output of an execution, the latest if none is named",
		Long: `Show the output of an execution, the latest if none is named (of those in one second
it is any): all of it, byte for byte. With -f also what is printed from now on, until it ends. A session that
sleeps wakes.`,
		Example: `  buntime logs ses_abc
  buntime logs -f ses_abc exe_123
  buntime logs --list ses_abc`,
		Args: usage(cobra.RangeArgs(1, 2)), ValidArgsFunction: a.completeExecution,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, session := cmd.Context(), args[0]
			if list {
				return a.listExecutions(ctx, c, session)
			}
			id := ""
			if len(args) == 2 {
				id = args[1]
			} else {
				all, err := executions(ctx, c, session)
				if err != nil {
					return err
				}
				if len(all) == 0 {
					return fmt.Errorf("nothing was run in %s yet", session)
				}
				id = all[0].ExecutionID
			}
			return a.logs(ctx, c, session, id, follow)
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the execution ends")
	cmd.Flags().BoolVar(&list, "list", false, "list the executions instead, newest first")
	return cmd
}

func (a *app) logs(ctx context.Context, c *buntime.Client, session, id string, follow bool) error {
	r, err := c.Execution(ctx, session, id)
	if err != nil {
		return err
	}
	if a.format == formatJSON {
		return a.print(r, nil)
	}
	if !follow && r.State != "exited" { // what there is up to now
		_, outErr := io.WriteString(a.Out, r.Stdout)
		_, errErr := io.WriteString(a.Err, r.Stderr)
		if err := errors.Join(outErr, errErr); err != nil {
			return writing(err)
		}
		fmt.Fprintln(a.Err, "buntime: it runs on; -f follows it")
		return nil
	}
	_, err = a.follow(c.Output(ctx, session, id, "", "end"))
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// executions are those of a session's history, newest first.
func executions(ctx context.Context, c *buntime.Client, session string) ([]ran, error) {
	const page = 100
	all := []ran{}
	for offset := 0; ; offset += page {
		list, err := c.ListFiles(ctx, session, history, page, offset)
		if buntime.Is(err, "file_not_found") {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		for _, f := range list.Items {
			if f.Type == "directory" {
				all = append(all, ran{path.Base(f.Path), f.Modified})
			}
		}
		if offset+page >= list.Total {
			break
		}
	}
	slices.SortStableFunc(all, func(a, b ran) int { return b.Modified.Compare(a.Modified) })
	return all, nil
}

func (a *app) listExecutions(ctx context.Context, c *buntime.Client, session string) error {
	all, err := executions(ctx, c, session)
	if err != nil {
		return err
	}
	return a.print(map[string]any{"executions": all}, func() error {
		rows := make([][]string, 0, len(all))
		for _, e := range all {
			rows = append(rows, []string{e.ExecutionID, span(time.Since(e.Modified)) + " ago"})
		}
		return table(a.Out, []string{"EXECUTION", "CHANGED"}, rows)
	})
}

func (a *app) completeExecution(cmd *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) != 1 {
		return a.completeSession(false, "")(cmd, args, word)
	}
	c, err := a.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), completionTimeout)
	defer cancel()
	s, err := c.Info(ctx, args[0])
	if err != nil || s.State == "deep-sleep" { // a Tab wakes nobody
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := executions(ctx, c, args[0])
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var ids []cobra.Completion
	for _, e := range all {
		ids = append(ids, clean(e.ExecutionID))
	}
	return ids, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}
