// Copyright (c) The Buntime Authors
// SPDX-License-Identifier: MPL-2.0

package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	buntime "github.com/buntime/buntime/sdk/go"
)

func (a *app) newSessions() *cobra.Command {
	cmd := &cobra.Command{
		Use: "sessions", Aliases: []string{"session", "s"},
		Short: "Make, list and end sessions",
		Example: `  session=$(buntime sessions create --ttl 1h --metadata user=ada)
  buntime sessions list
  buntime sessions delete $session`,
	}
	cmd.AddCommand(a.newCreate(), a.newList(), a.newInfo(), a.newSleep(), a.newExtend(), a.newDelete())
	return cmd
}

// sessionFlags are what a new session is to be.
type sessionFlags struct {
	ttl      string
	metadata []string
	limits   buntime.LimitsRequest
}

func (s *sessionFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&s.ttl, "ttl", "", "how long it lives: 1h, 30m, or seconds")
	f.StringArrayVar(&s.metadata, "metadata", nil, "NAME=VALUE to find it by; may come often")
	f.IntVar(&s.limits.Memory, "memory", 0, "memory in MB")
	f.Float64Var(&s.limits.CPU, "cpu", 0, "cores")
	f.IntVar(&s.limits.Disk, "disk", 0, "disk in MB")
}

func (s *sessionFlags) request() (r buntime.CreateRequest, err error) {
	if s.ttl != "" {
		if r.TTL, err = seconds(s.ttl); err != nil {
			return r, usagef("--ttl: %w", err)
		}
	}
	if len(s.metadata) > 0 {
		metadata, err := pairs(s.metadata)
		if err != nil {
			return r, usagef("--metadata: %w", err)
		}
		r.Metadata = metadata
	}
	if s.limits != (buntime.LimitsRequest{}) {
		r.ResourceLimits = &s.limits
	}
	return r, nil
}

// seconds reads a time as Go writes it, or seconds.
func seconds(text string) (int, error) {
	if n, err := strconv.Atoi(text); err == nil && n > 0 {
		return n, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < time.Second {
		return 0, fmt.Errorf("%q is no time such as 90s, 30m or 24h", text)
	}
	return int(d / time.Second), nil
}

// pairs reads NAME=VALUE.
func pairs(texts []string) (map[string]string, error) {
	out := make(map[string]string, len(texts))
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is not of the form NAME=VALUE", text)
		}
		out[name] = value
	}
	return out, nil
}

func (a *app) newCreate() *cobra.Command {
	var flags sessionFlags
	cmd := &cobra.Command{
		Use:     "create",
		Short:   "Make a session and print its id",
		Example: `  buntime sessions create --ttl 1h --metadata user=ada --metadata purpose=analysis`,
		Args:    atMost(0), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := flags.request()
			if err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			made, err := c.Create(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.print(made, func() error { return a.say("%s", made.SessionID) })
		},
	}
	flags.register(cmd)
	cmd.Flags().IntVar(&flags.limits.Timeout, "timeout", 0, "time-out of executions that name none, in seconds")
	return cmd
}

func (a *app) newList() *cobra.Command {
	var state string
	var metadata []string
	cmd := &cobra.Command{
		Use: "list", Aliases: []string{"ls"},
		Short: "List sessions, newest first",
		Example: `  buntime sessions list --state active
  buntime sessions list --metadata user=ada -o json`,
		Args: atMost(0), ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o := buntime.ListOptions{State: state}
			var err error
			if o.Metadata, err = pairs(metadata); err != nil {
				return usagef("--metadata: %w", err)
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			list, err := allSessions(cmd.Context(), c, o)
			if err != nil {
				return err
			}
			return a.print(map[string]any{"sessions": list}, func() error {
				now := time.Now()
				rows := make([][]string, 0, len(list))
				for _, s := range list {
					rows = append(rows, []string{
						s.SessionID, s.State, span(now.Sub(s.CreatedAt)), span(now.Sub(s.LastActive)), span(s.ExpiresAt.Sub(now)), metadataText(s.Metadata),
					})
				}
				return table(a.Out, []string{"SESSION", "STATE", "AGE", "UNUSED FOR", "EXPIRES IN", "METADATA"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&state, "state", "", "active, idle or deep-sleep")
	cmd.Flags().StringArrayVar(&metadata, "metadata", nil, "only those with NAME=VALUE; may come often")
	_ = cmd.RegisterFlagCompletionFunc("state", cobra.FixedCompletions([]string{"active", "idle", "deep-sleep"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// metadataText is metadata on one line.
func metadataText(raw json.RawMessage) string {
	var object map[string]json.RawMessage
	if json.Unmarshal(raw, &object) != nil {
		return ""
	}
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(object)) {
		value := string(object[name])
		var text string
		if json.Unmarshal(object[name], &text) == nil {
			value = text
		}
		parts = append(parts, name+"="+value)
	}
	return short(strings.Join(parts, " "), 60)
}

// short cuts text to n characters.
func short(text string, n int) string {
	if r := []rune(text); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return text
}

// span is a time in its two largest units.
func span(d time.Duration) string {
	d = max(d, 0).Truncate(time.Second)
	day := 24 * time.Hour
	switch {
	case d >= day:
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// size is a number of bytes for people.
func size(n int64) string {
	const k = 1000
	switch {
	case n >= k*k*k:
		return fmt.Sprintf("%.1f GB", float64(n)/(k*k*k))
	case n >= k*k:
		return fmt.Sprintf("%.1f MB", float64(n)/(k*k))
	case n >= k:
		return fmt.Sprintf("%.1f kB", float64(n)/k)
	}
	return fmt.Sprintf("%d B", n)
}

func (a *app) newInfo() *cobra.Command {
	return &cobra.Command{
		Use:   "info SESSION",
		Short: "Tell of a session, without waking it",
		Args:  exactly(1), ValidArgsFunction: a.completeSession(false, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			s, err := c.Info(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(s, func() error { return table(a.Out, []string{"SESSION", s.SessionID}, infoRows(s, time.Now())) })
		},
	}
}

func infoRows(s *buntime.Session, now time.Time) [][]string {
	at := func(t time.Time) string { return t.Local().Format(time.DateTime) }
	rows := [][]string{
		{"state", s.State},
		{"preview", s.PreviewURL},
		{"created", at(s.CreatedAt) + ", " + span(now.Sub(s.CreatedAt)) + " ago"},
		{"expires", at(s.ExpiresAt) + ", in " + span(s.ExpiresAt.Sub(now))},
		{"last used", at(s.LastActive) + ", " + span(now.Sub(s.LastActive)) + " ago"},
		{"limits", fmt.Sprintf("%d MB memory, %g cores, %d MB disk, executions %d s", s.ResourceLimits.Memory, s.ResourceLimits.CPU, s.ResourceLimits.Disk, s.ResourceLimits.Timeout)},
		{"in use", fmt.Sprintf("%s memory, %s disk, %d processes, %d files", size(s.Usage.Memory), size(s.Usage.Disk), s.ActiveProcesses, s.FilesCount)},
		{"metadata", metadataText(s.Metadata)},
	}
	if len(s.AwakeBecause) > 0 {
		rows = append(rows, []string{"awake because", strings.Join(s.AwakeBecause, ", ")})
	}
	if next := s.NextTransition; next != nil {
		rows = append(rows, []string{"next", next.To + " in " + span(next.At.Sub(now))})
	}
	if d := s.Durability; d != nil && d.Problem != "" {
		rows = append(rows, []string{"problem", d.Problem})
	}
	return rows
}

func (a *app) newSleep() *cobra.Command {
	var idle, force bool
	cmd := &cobra.Command{
		Use:   "sleep SESSION",
		Short: "Put a session to sleep",
		Long: `Put a session to sleep: its files go to the object store, and nothing of it is
left on its node. Any use wakes it. With --idle its processes only stand still.`,
		Args: exactly(1), ValidArgsFunction: a.completeSession(false, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			state := "deep-sleep"
			if idle {
				state = "idle"
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			c.Timeout = 2 * time.Minute // a workspace goes to the store first
			end := a.working("Putting " + args[0] + " to sleep")
			err = c.Sleep(cmd.Context(), args[0], state, force)
			end()
			if err != nil {
				return err
			}
			return a.print(map[string]string{"sessionId": args[0], "state": state}, func() error { return a.say("%s is in state %s", args[0], state) })
		},
	}
	cmd.Flags().BoolVar(&idle, "idle", false, "let its processes stand still, and no more")
	cmd.Flags().BoolVar(&force, "force", false, "interrupt what runs")
	return cmd
}

func (a *app) newExtend() *cobra.Command {
	return &cobra.Command{
		Use:     "extend SESSION TIME",
		Short:   "Put a session's end off, to so long from now",
		Example: `  buntime sessions extend ses_abc 12h`,
		Args:    exactly(2), ValidArgsFunction: a.completeSession(false, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			ttl, err := seconds(args[1])
			if err != nil {
				return usageError{err}
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			out, err := c.Extend(cmd.Context(), args[0], ttl)
			if err != nil {
				return err
			}
			answer := map[string]any{"sessionId": out.SessionID, "expiresAt": out.ExpiresAt}
			return a.print(answer, func() error { return a.say("%s expires in %s", out.SessionID, span(time.Until(out.ExpiresAt))) })
		},
	}
}

func (a *app) newDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete SESSION...", Aliases: []string{"rm"},
		Short:   "End sessions at once and for good, with all that is in them",
		Example: `  buntime sessions delete ses_abc ses_def`,
		Args:    atLeast(1), ValidArgsFunction: a.completeSession(true, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var errs []error
			for _, id := range args {
				err := c.Delete(cmd.Context(), id)
				if err == nil {
					err = a.print(map[string]any{"deleted": true, "sessionId": id}, func() error { return a.say("%s", id) })
				} else {
					err = fmt.Errorf("delete %s: %w", id, err)
				}
				errs = append(errs, err)
			}
			return errors.Join(errs...)
		},
	}
}
